"""deepface with YuNet and SFace: two processes of its API, a port each.

    mkdir deepface && cd deepface && python3.11 -m venv .venv
    .venv/bin/python -m pip install deepface==0.0.103 flask flask-cors python-dotenv gunicorn \\
      tensorflow-cpu tf-keras

then ``--peers deepface=deepface``. Its weights are those of the installed pack `opencv`; the other
models it would fetch. Its best form is a multipart upload. It keeps people only in a database of
its own and finds them one at a time: faces are counted, and each must have its embedding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.client import post
from benchmarks.peers.contender import Contender, Found, multipart, ports_of
from benchmarks.processes import Attached, Group, started, wait_for
from benchmarks.services import free_port
from facegraph.config import settings_from

WORKERS = 2
START_TIMEOUT_S = 120
DIMENSION = 128
WEIGHTS = {
    "face_detection_yunet_2023mar.onnx": "face_detection_yunet_2023mar_int8bq.prepared.onnx",
    "face_recognition_sface_2021dec.onnx": "face_recognition_sface_2021dec_int8bq.prepared.onnx",
}
FIELDS = {"model_name": "SFace", "detector_backend": "yunet"}


@contextmanager
def start(where: str, folder: Path) -> Iterator[Contender]:
    if where.startswith("http"):
        ports = ports_of(where)
        yield _contender(ports, Attached(ports))
        return
    ports = tuple(free_port() for _ in range(WORKERS))
    # One thread: its networks are shared, and not made for several.
    serve = [str(Path(where).resolve() / ".venv/bin/python"), "-m", "gunicorn", "--timeout", "600"]
    serve += ["--worker-class", "gthread", "--threads", "1", "deepface.api.src.app:create_app()"]
    commands = [[*serve, "--bind", f"127.0.0.1:{port}"] for port in ports]
    with started(commands, _environment(folder), folder) as group:
        for port in ports:
            wait_for(port, START_TIMEOUT_S)
        yield _contender(ports, group)


def _contender(ports: tuple[int, ...], group: Group) -> Contender:
    return Contender("deepface", ports, group, request, found)


def request(image: bytes, media: str) -> bytes:
    return post("/represent", *multipart(FIELDS, "img", image, media))


def found(body: bytes) -> Found:
    faces = json.loads(body)["results"]
    for face in faces:
        if len(face["embedding"]) != DIMENSION:
            raise ValueError(f"an embedding of {len(face['embedding'])} numbers")
    return len(faces), None


def _environment(folder: Path) -> dict[str, str]:
    weights = folder / ".deepface/weights"
    weights.mkdir(parents=True)
    for theirs, ours in WEIGHTS.items():
        (weights / theirs).symlink_to(settings_from().models_path / "opencv" / ours)
    return {
        **os.environ,
        "DEEPFACE_HOME": str(folder),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "yunet_score_threshold": "0.6",
    }
