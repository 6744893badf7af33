"""Faces of pictures and frames, found and named in this process, without a service."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facegraph.config import DetectorTuning, Settings
from facegraph.datasets import Dataset, read_dataset
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.types import ByteArray, Faces, FloatArray

Accelerator = Literal["auto", "cpu", "cuda"]

MAX_FACES = 1000
"""Most faces looked at in one picture, the largest."""

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The faces of one picture, largest first.

    labels: per face its index, or whom it was recognised as
    similarities: per face the cosine with the nearest person; None where nobody was looked for
    """

    faces: Faces
    labels: tuple[int | str, ...]
    similarities: tuple[float | None, ...] | None = None

    def answer(self) -> list[dict[str, Any]]:
        """One JSON object per face: ``label``, ``bbox`` (x1 y1 x2 y2 score), ``similarity``."""
        faces = []
        for row, label in enumerate(self.labels):
            corners = [round(float(value), 2) for value in self.faces.boxes[row]]
            score = round(float(self.faces.detection_scores[row]), 4)
            face: dict[str, Any] = {"label": label, "bbox": [*corners, score]}
            if self.similarities is not None:
                cosine = self.similarities[row]
                face["similarity"] = None if cosine is None else round(cosine, 4)
            faces.append(face)
        return faces

    def draw(self, rgb: ByteArray) -> ByteArray:
        """A copy of the (h, w, 3) uint8 picture with every face's box and label."""
        from facegraph.vision.drawing import label_boxes

        told = self.similarities or tuple(map(float, self.faces.detection_scores))
        texts = [
            str(label) if value is None else f"{label} {value:.2f}"
            for label, value in zip(self.labels, told, strict=True)
        ]
        return label_boxes(rgb, self.faces.boxes, texts)


Look = Callable[[ByteArray], Seen]
"""What is done with each picture: (h, w, 3) uint8 RGB → its faces."""


@dataclass(frozen=True, slots=True)
class FaceModels:
    """A face pack's two networks.

    detect: (h, w, 3) uint8 RGB → its faces
    embed: the picture and n of its faces → (n, dimension) float32, L2-normalised
    threshold: least cosine at which two faces are taken for one person
    about: which engines run them
    """

    pack: str
    dimension: int
    threshold: float
    detect: Callable[[ByteArray], Faces]
    embed: Callable[[ByteArray, Faces], FloatArray]
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Devices:
    """What each network runs on."""

    detector: Accelerator
    embedder: Accelerator


def choose_devices(
    detector: int | None,
    embedder: int | None,
    settings: Settings,
    environ: MutableMapping[str, str],
    warn: Callable[[str], None],
) -> Devices:
    """Old device numbers → accelerators: −1 is the CPU, 0–N a GPU, None what the settings say.

    One process computes on one GPU, the first one named; ``environ`` then shows CUDA no other.
    Raises ConfigError for a GPU that ``environ`` hides.
    """
    gpus = [number for number in (detector, embedder) if number is not None and number >= 0]
    if gpus:
        if gpus[-1] != gpus[0]:
            warn(f"one process uses one GPU: both models run on GPU {gpus[0]}")
        environ[VISIBLE_GPUS] = _gpu(gpus[0], environ.get(VISIBLE_GPUS))

    def accelerator(number: int | None) -> Accelerator:
        if number is None:
            return settings.accelerator
        return "cpu" if number < 0 else "cuda"

    return Devices(accelerator(detector), accelerator(embedder))


def _gpu(number: int, visible: str | None) -> str:
    """CUDA's name of the GPU: numbers count those that are visible."""
    if visible is None:
        return str(number)
    names = [name for name in visible.split(",") if name]
    if number >= len(names):
        raise ConfigError(f"there is no GPU {number}: {VISIBLE_GPUS} shows {len(names)}")
    return names[number]


def open_models(settings: Settings, devices: Devices, *, embedding: bool) -> FaceModels:
    """Loads the pack of the settings, its embedder only where it is needed.

    Raises ModelMissing where it is not installed, ConfigError where the device is not there.
    """
    # Slow to import, and every command of the command line imports this module.
    from facegraph.faces.alignment import align
    from facegraph.faces.detection import Detector
    from facegraph.faces.embedding import EmbeddingModel
    from facegraph.models.packs import find_pack

    pack = find_pack(settings)
    detector = Detector(
        pack,
        DetectorTuning(),
        engine=settings.engine,
        accelerator=devices.detector,
        engines_dir=settings.engines_path,
    )
    opened: list[Detector | EmbeddingModel] = [detector]
    model: EmbeddingModel | None = None
    if embedding:
        model = EmbeddingModel(
            pack,
            engine=settings.engine,
            accelerator=devices.embedder,
            engines_dir=settings.engines_path,
        )
        opened.append(model)

    def embed(rgb: ByteArray, faces: Faces) -> FloatArray:
        assert model is not None
        return model.embed(align(rgb, faces))

    return FaceModels(
        pack.name,
        pack.contract.dimension,
        pack.threshold,
        lambda rgb: detector.detect_pixels(rgb).take(slice(0, MAX_FACES)),
        embed,
        tuple(f"{it['file']}: {it['provider']}" for it in (one.describe() for one in opened)),
    )


def detection(models: FaceModels) -> Look:
    """Each face is labelled with its index."""

    def look(rgb: ByteArray) -> Seen:
        faces = models.detect(rgb)
        return Seen(faces, tuple(range(len(faces))))

    return look


def recognition(models: FaceModels, dataset: Dataset, threshold: float, unknown: str) -> Look:
    """Each face is labelled with the nearest person, or ``unknown`` below the ``threshold``."""

    def look(rgb: ByteArray) -> Seen:
        faces = models.detect(rgb)
        nearest = [dataset.best(probe) for probe in models.embed(rgb, faces)]
        labels = tuple(
            best[0] if best is not None and best[1] >= threshold else unknown for best in nearest
        )
        return Seen(faces, labels, tuple(best and best[1] for best in nearest))

    return look


def load_dataset(path: Path, models: FaceModels) -> Dataset:
    """The people of a ``dataset.json`` in either form; InvalidRequest says what is wrong."""
    try:
        return read_dataset(path.read_bytes(), models.dimension)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from None
    except InvalidRequest as error:
        raise InvalidRequest(
            f"{path}: {error}. Face pack {models.pack} makes {models.dimension} numbers a face; "
            "`facegraph encode` writes a dataset of it"
        ) from None
