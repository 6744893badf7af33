"""Real models: the default pack, and what the shared assets add."""

from __future__ import annotations

from pathlib import Path

import pytest

from facegraph.config import DetectorTuning, Settings, settings_from
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.models.installing import pull
from facegraph.models.packs import FacePack, find_pack, locate
from tests.photos import assets

PACK_FILE = """
name = "edgeface_xs"
summary = "SCRFD-500M detector, EdgeFace-XS embedder (512-d)"

[licence]
name = "InsightFace models: non-commercial research only (detector); BSD-3-Clause (embedder)"
permissive = false

[detector]
kind = "scrfd"
file = "detect/det_500m.onnx"

[embedder]
family = "edgeface_xs"
file = "embed/edgeface_xs_112_512d_fp16.onnx"
dimension = 512

[calibration]
# facegraph calibrate --far 0.0003
threshold = 0.28
measured = true
data = "48 faces of 16 people: television stills (8 people × 5 crops), 8 portraits"
genuine_pairs = 80
impostor_pairs = 1048
far = 0.0
frr = 0.0
"""


@pytest.fixture(scope="session")
def opencv_pack() -> FacePack:
    settings = settings_from({"face_pack": "opencv"})
    pull(locate("opencv", settings), accept_licence=False, given=None, report=lambda _: None)
    return find_pack(settings)


@pytest.fixture(scope="session")
def detector(opencv_pack: FacePack) -> Detector:
    detector = Detector(opencv_pack, DetectorTuning(), accelerator="cpu", concurrency=2)
    detector.warm_up()
    return detector


@pytest.fixture(scope="session")
def embedder(opencv_pack: FacePack) -> EmbeddingModel:
    return EmbeddingModel(opencv_pack, accelerator="cpu", concurrency=2)


@pytest.fixture(scope="session")
def edgeface_pack(tmp_path_factory: pytest.TempPathFactory) -> FacePack:
    """A pack file of the user's own, beside files that lie elsewhere."""
    folder = tmp_path_factory.mktemp("edgeface")
    for name in ("detect/det_500m.onnx", "embed/edgeface_xs_112_512d_fp16.onnx"):
        (folder / name).parent.mkdir()
        (folder / name).symlink_to(assets(name))
    (folder / "edgeface_xs.toml").write_text(PACK_FILE)
    return find_pack(Settings(face_pack=str(folder / "edgeface_xs.toml"), data_dir=folder))


@pytest.fixture(scope="session")
def insightface_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's InsightFace folder with stand-ins for the files of buffalo_s."""
    home = tmp_path_factory.mktemp("insightface")
    folder = home / "models" / "buffalo_s"
    folder.mkdir(parents=True)
    for name, source in (
        ("det_500m.onnx", "detect/det_500m.onnx"),
        ("w600k_mbf.onnx", "embed/edgeface_xs_112_512d_fp16.onnx"),
        ("genderage.onnx", "attr/genderage_96_compat.onnx"),
    ):
        (folder / name).symlink_to(assets(source))
    return home
