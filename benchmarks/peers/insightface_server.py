"""InsightFace Server 0.2.0, which somebody started: ``insightface-server=http://127.0.0.1:PORT``.

It loads a pair of models only with the licence that InsightFace signed for their name, so whoever
has one brings it up: from ``server/`` of github.com/deepinsight/insightface, in a venv of Python
3.11 with ``requirements.common.lock`` and ``onnxruntime==1.31.1``, ``native/search`` built with
CMake, one detector size of 640 and no authentication::

    printf '[detection]\\ninput_sizes = [[640, 640]]\\n' > server.toml
    PYTHONPATH=server/backend:python-package INSIGHTFACE_AUTH_ENABLED=false \\
      INSIGHTFACE_DATA_DIR=data INSIGHTFACE_MODELS_DIR=models INSIGHTFACE_CONFIG_FILE=server.toml \\
      INSIGHTFACE_SEARCH_BACKEND=native_cpu INSIGHTFACE_SEARCH_LIBRARY=libifs_search_cpu.so \\
      python -m uvicorn insightface_server.app:app --port 18097 --no-access-log

``models`` holds ``manifest.json`` (``scripts/create_model_manifest.py``), both ONNX files and
``MODEL.LICENSE``. Its search looks at the largest face only; so whom it recognises is compared
where there is one, and no number of faces.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.client import post
from benchmarks.packs import THRESHOLD
from benchmarks.peers.contender import Contender, Found, media_type, multipart, ports_of
from benchmarks.pictures import portraits
from benchmarks.processes import Attached

COLLECTION = "benchmark"
SEARCH = f"/v1/collections/{COLLECTION}/search"


@contextmanager
def start(where: str, folder: Path) -> Iterator[Contender]:
    if not where.startswith("http"):
        raise SystemExit("insightface-server is given as the URL of one that runs")
    ports = ports_of(where)
    group = Attached(ports)
    enrol(ports[0])
    try:
        yield Contender("InsightFace Server", ports, group, request, found)
    finally:
        group.thaw()


def enrol(port: int) -> None:
    """The portraits, a person each, in a new collection."""
    base = f"http://127.0.0.1:{port}/v1/collections"
    try:
        _send("DELETE", f"{base}/{COLLECTION}", b"", "application/json")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
    body = {"id": COLLECTION, "name": COLLECTION, "threshold": THRESHOLD}
    _send("POST", base, json.dumps(body).encode(), "application/json")
    for name, path in portraits().items():
        fields = {"id": name, "name": name, "review_mode": "off"}
        form = multipart(fields, "images", path.read_bytes(), media_type(path))
        _send("POST", f"{base}/{COLLECTION}/persons", *form)


def request(image: bytes, media: str) -> bytes:
    return post(SEARCH, *multipart({"limit": "5"}, "image", image, media))


def found(body: bytes) -> Found:
    matches = json.loads(body)["matches"]
    return None, frozenset(match["person"]["id"] for match in matches[:1])


def _send(method: str, url: str, body: bytes, content_type: str) -> None:
    request = urllib.request.Request(url, body, {"content-type": content_type}, method=method)
    with urllib.request.urlopen(request, timeout=60):
        pass
