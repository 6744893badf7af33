"""InsightFace-REST: two workers with ONNX Runtime, a port each, so that clients spread evenly.

    git clone https://github.com/SthPhoenix/InsightFace-REST rest && cd rest
    python3.11 -m venv .venv
    .venv/bin/python -m pip install fastapi fastapi-offline uvicorn uvloop httptools aiofiles \\
      aiohttp requests httpx python-multipart ujson msgpack tqdm numba opencv-python-headless \\
      scikit-image onnx onnxruntime==1.31.1 onnxsim exifread imageio tenacity colorlog pydantic \\
      "PyTurboJPEG<2"
    apt-get install libturbojpeg0        # or its .so in .venv/lib/turbo

then ``--peers insightface-rest=rest``. Its best form is msgpack both ways. It keeps no people:
faces are counted, and each must have its embedding.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgpack

from benchmarks.client import post
from benchmarks.packs import DETECTOR, DIMENSION, EMBEDDER
from benchmarks.peers.contender import Contender, Found, ports_of
from benchmarks.pictures import assets, kinds
from benchmarks.processes import Attached, Group, started, wait_for
from benchmarks.services import free_port

WORKERS = 2
START_TIMEOUT_S = 120
MODELS = (
    '{"det_500m": {"function": "scrfd", "shape": [1, 3, 640, 640], "reshape": true},'
    ' "edgeface_xs": {"function": "arcface_torch", "shape": [1, 3, 112, 112], "reshape": false}}'
)


@contextmanager
def start(where: str, folder: Path) -> Iterator[Contender]:
    if where.startswith("http"):
        ports = ports_of(where)
        yield _contender(ports, Attached(ports))
        return
    checkout = Path(where).resolve()
    ports = tuple(free_port() for _ in range(WORKERS))
    python = checkout / ".venv/bin/python"
    serve = [str(python), "-m", "uvicorn", "if_rest.api.main:app", "--no-access-log"]
    with started(
        [[*serve, "--port", str(port)] for port in ports], _environment(checkout, folder), folder
    ) as group:
        for port in ports:
            wait_for(port, START_TIMEOUT_S)
        contender = _contender(ports, group)
        _compile(contender)
        yield contender


def _contender(ports: tuple[int, ...], group: Group) -> Contender:
    return Contender("InsightFace-REST", ports, group, request, found)


def request(image: bytes, media: str) -> bytes:
    body = msgpack.packb({"images": {"data": [image]}, "msgpack": True})
    return post("/extract", body, "application/msgpack", "Accept: application/x-msgpack\r\n")


def found(body: bytes) -> Found:
    (image,) = msgpack.unpackb(body)["data"]
    for face in image["faces"]:
        if len(face["vec"]) != DIMENSION:
            raise ValueError(f"an embedding of {len(face['vec'])} numbers")
    return len(image["faces"]), None


def _environment(checkout: Path, folder: Path) -> Mapping[str, str]:
    source = assets()
    if source is None:
        raise SystemExit("insightface-rest needs FACEGRAPH_TEST_ASSETS: it runs those models")
    models = folder / "models"
    for name in ("det_500m", "edgeface_xs"):
        (models / "onnx" / name).mkdir(parents=True)
    with_batch_axis(source / DETECTOR, models / "onnx/det_500m/det_500m.onnx")
    (models / "onnx/edgeface_xs/edgeface_xs.onnx").symlink_to((source / EMBEDDER).resolve())
    (models / "models.json").write_text(MODELS)
    return {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "LD_LIBRARY_PATH": str(checkout / ".venv/lib/turbo"),
        "MODELS_DIR": str(models),
        "DET_NAME": "det_500m",
        "REC_NAME": "edgeface_xs",
        "INFERENCE_BACKEND": "onnx",
        "MAX_SIZE": "640,640",
        "REC_BATCH_SIZE": "1",
        "LOG_LEVEL": "ERROR",
    }


def with_batch_axis(source: Path, target: Path) -> None:
    """The detector with a leading axis of one on each output, which it expects."""
    import onnx
    from onnx import helper

    model = onnx.load(source)
    graph = model.graph
    for output in graph.output:
        flat = f"{output.name}_flat"
        for node in graph.node:
            node.output[:] = [flat if name == output.name else name for name in node.output]
        graph.node.append(helper.make_node("Unsqueeze", [flat], [output.name], axes=[0]))
        shape = [axis.dim_value for axis in output.type.tensor_type.shape.dim]
        output.type.CopyFrom(helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [1, *shape]))
    onnx.save(model, target)


def _compile(contender: Contender) -> None:
    """Until every worker answers: numba compiles in the first requests, and may fail in two."""
    (six,) = kinds(Path("/nonexistent"), ["six-jpeg"])
    body = contender.requests(six)[0].partition(b"\r\n\r\n")[2]
    headers = {"content-type": "application/msgpack", "accept": "application/x-msgpack"}
    end = time.monotonic() + START_TIMEOUT_S
    for port in contender.ports:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/extract", body, headers)
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(request, timeout=START_TIMEOUT_S):
                    break
            except urllib.error.HTTPError:
                time.sleep(0.2)
        else:
            raise SystemExit("insightface-rest does not answer")
