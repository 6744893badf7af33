"""Every engine of this machine on the real models: they agree, and one is chosen."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import numpy as np
import pytest

from facegraph.calibration import pairs_of
from facegraph.commands.calibrate import embed_folder
from facegraph.config import DetectorTuning, Settings
from facegraph.faces import specimens
from facegraph.faces.detection import Detector
from facegraph.faces.embedding import EmbeddingModel
from facegraph.faces.heads import HEADS
from facegraph.faces.trials import BATCHES, crop_blob, detector_trial
from facegraph.models.engines.base import Engine
from facegraph.models.engines.candidates import REFERENCE, Wanted, on_cpu, on_gpu, reference
from facegraph.models.engines.trial import EXACT, LEAST_COSINE, Outputs
from facegraph.models.packs import FacePack
from facegraph.types import ByteArray, FloatArray
from tests.photos import ASTRONAUT, GROUP, NO_FACE, PORTRAIT, assets

pytestmark = pytest.mark.model

PACKS = ["opencv_pack", "edgeface_pack"]


@pytest.fixture
def pack(request: pytest.FixtureRequest) -> FacePack:
    found: FacePack = request.getfixturevalue(request.param)
    return found


def opened(model: Path, exact: bool) -> dict[str, Engine]:
    """All that this machine has, by label."""
    wanted = Wanted(model, exact=exact)
    plain = reference(wanted)
    return {one.label: one.open() for one in (plain, *on_gpu(wanted), *on_cpu(wanted))}


def directions(engine: Engine, blob: FloatArray) -> FloatArray:
    rows = np.concatenate([engine.run(row[None])[0] for row in blob])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def crops(detector: Detector) -> ByteArray:
    photos = [path.read_bytes() for path in (GROUP, ASTRONAUT, PORTRAIT)]
    return np.concatenate([detector.detect(p, max_faces=9, crops=True).crops for p in photos])


def test_specimens_are_real_faces(crops: ByteArray) -> None:
    """Their points were found by a detector; the crops are nearly those it makes now."""
    theirs = specimens.crops()
    assert theirs.shape == (7, 112, 112, 3)
    apart = np.abs(theirs[:, None].astype(int) - crops[None, :7]).mean(axis=(2, 3, 4))
    assert np.median(apart.min(axis=1)) < 12
    canvases = specimens.canvases(448, 640)
    assert canvases.shape == (2, 448, 640, 3)
    assert canvases[:, :400, :500].std(axis=(1, 2, 3)).min() > 40


def test_patterns_stand_in_for_missing_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specimens, "_picture", lambda *_: None)
    assert specimens.crops.__wrapped__().std() > 30
    assert specimens.canvases(320, 640).shape == (2, 320, 640, 3)


@pytest.mark.parametrize("pack", PACKS, indirect=True)
def test_embeddings_of_all_engines_agree(pack: FacePack, crops: ByteArray) -> None:
    """In float32 to a cosine of 0.9999; rounded ones that do not reach 0.999 are not chosen."""
    blob = crop_blob(crops, pack.embedder)
    engines = opened(pack.embedder.file.path, exact=False)
    plain = directions(engines.pop(REFERENCE), blob)
    cosines = {
        label: float((directions(engine, blob) * plain).sum(axis=1).min())
        for label, engine in engines.items()
    }
    print(pack.name, cosines)
    for label, cosine in cosines.items():
        assert cosine > (0.9999 if label.endswith("float32") else 0.998)


@pytest.mark.parametrize("pack", PACKS, indirect=True)
def test_rows_do_not_depend_on_their_batch(pack: FacePack, crops: ByteArray) -> None:
    blob = crop_blob(np.concatenate([crops, crops[::-1]]), pack.embedder)
    for engine in opened(pack.embedder.file.path, exact=False).values():
        alone = directions(engine, blob)
        for size in BATCHES:
            rows = np.concatenate(
                [engine.run(blob[at : at + size])[0] for at in range(0, len(blob), size)]
            )
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            assert (rows * alone).sum(axis=1).min() > 0.99999


@pytest.mark.parametrize("pack", PACKS, indirect=True)
def test_detectors_of_all_engines_agree(pack: FacePack, tmp_path: Path) -> None:
    engines = opened(pack.detector.file.path, exact=True)
    tried = detector_trial(HEADS[pack.detector.kind], 16, tmp_path)
    plain = engines.pop(REFERENCE)
    for canvas in tried.inputs(plain.input_shape):
        want = plain.run(canvas)
        for engine in engines.values():
            assert [part.shape for part in engine.run(canvas)] == [part.shape for part in want]
            assert _apart(engine.run(canvas), want) < EXACT


def _apart(got: Outputs, want: Outputs) -> float:
    return max(
        float(np.abs(a - b).max() / max(1, np.abs(b).max())) for a, b in zip(got, want, strict=True)
    )


@pytest.mark.parametrize("pack", PACKS, indirect=True)
def test_the_chosen_engine(
    pack: FacePack, crops: ByteArray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is measured once, told, and as near to float32 as its role asks for."""
    opened = functools.partial(EmbeddingModel, pack, accelerator="cpu", engines_dir=tmp_path)
    chosen = opened()
    chosen.warm_up()
    said = chosen.describe()["measured"]
    assert said["chosen"] in said["ms"]
    assert said["batch"] in BATCHES
    assert f"runs on {said['chosen']}, {said['batch']} at a time" in caplog.text
    plain = EmbeddingModel(pack, engine="onnxruntime", accelerator="cpu")
    assert (chosen.embed(crops) * plain.embed(crops)).sum(axis=1).min() >= LEAST_COSINE
    again = opened()
    assert again.describe()["measured"] == said
    assert np.array_equal(again.embed(crops), chosen.embed(crops))


@pytest.mark.parametrize("pack", PACKS, indirect=True)
def test_the_chosen_detector_finds_the_same_faces(
    pack: FacePack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        chosen = Detector(pack, DetectorTuning(), accelerator="cpu", engines_dir=tmp_path)
    assert "runs on" in caplog.text
    assert chosen.describe()["measured"]["batch"] == 1
    plain = Detector(pack, DetectorTuning(), engine="onnxruntime", accelerator="cpu")
    for path in (GROUP, ASTRONAUT, PORTRAIT, NO_FACE):
        ours = chosen.detect(path.read_bytes(), max_faces=9, crops=True)
        theirs = plain.detect(path.read_bytes(), max_faces=9, crops=True)
        assert len(ours.faces) == len(theirs.faces)
        assert np.allclose(ours.faces.landmarks, theirs.faces.landmarks, atol=0.05)


def test_float32_can_be_asked_for(opencv_pack: FacePack, tmp_path: Path) -> None:
    model = EmbeddingModel(opencv_pack, accelerator="cpu", exact=True, engines_dir=tmp_path)
    assert model.describe()["measured"]["chosen"].endswith("float32")


@pytest.mark.parametrize("pack", PACKS, indirect=True)
def test_decisions_of_all_engines(pack: FacePack) -> None:
    """The same pairs of 40 labelled faces are one person's, whatever computes."""
    folder = assets("faces", "bbt")
    told = []
    for engine in ("onnxruntime", "openvino"):
        pairs = pairs_of(*embed_folder(folder, pack, Settings(engine=engine)))
        told.append((pairs.genuine >= pack.threshold, pairs.impostor >= pack.threshold))
    for one, other in zip(*told, strict=True):
        assert np.array_equal(one, other)
