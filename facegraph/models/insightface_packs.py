"""InsightFace packs: whatever lies in ``<insightface_home>/models/<pack>/``, read as that library
reads it.

Which file is the detector, which the embedder and which tells age and gender, and how they want
their pixels, is the ``insightface`` package's own knowledge, so an existing user's files work
whatever their digests. Its classes only look at the graphs; our engines run them, one pass per
view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegraph.errors import ConfigError
from facegraph.models.packfile import FacePackSpec
from facegraph.models.packs import (
    AttributeModel,
    DetectorModel,
    EmbedderModel,
    FacePack,
    assemble,
    triple,
)
from facegraph.models.places import Licence, ModelFile, PackPlace, missing, sha256_of
from facegraph.types import CROP_SIZE

DETECTOR_OUTPUTS = 5
"""A graph with at least as many outputs is a detector; the package's router goes by the same."""

GENDERAGE_SIDE = 96
"""A graph that takes crops of this side tells attributes; the package's router goes by the same."""

GENDERAGE_OUTPUTS = 3


def find_insightface_pack(place: PackPlace[FacePackSpec]) -> FacePack:
    """The pack in its folder; ModelMissing without both models, ConfigError for other shapes."""
    detector = embedder = genderage = None
    for path in model_paths(place):
        graph = _Graph.read(path)
        if len(graph.outputs) >= DETECTOR_OUTPUTS:
            detector = detector or _detector(place, path, graph)
        elif graph.inputs[0].shape[2:] == [CROP_SIZE, CROP_SIZE]:
            embedder = embedder or _embedder(place, path, graph)
        elif _tells_age(graph):
            genderage = genderage or _genderage(place, path, graph)
    if detector is None or embedder is None:
        lacks = "detector" if detector is None else "embedder"
        raise missing(place, f"no {lacks} among the .onnx files in {place.home}")
    return assemble(place, detector, embedder, () if genderage is None else (genderage,))


def model_paths(place: PackPlace[FacePackSpec]) -> list[Path]:
    """The pack's models in the order in which the package looks at them."""
    return sorted(path for folder in place.folders for path in folder.glob("*.onnx"))


def _detector(place: PackPlace[FacePackSpec], path: Path, graph: _Graph) -> DetectorModel:
    model = _model_zoo().SCRFD(model_file=str(path), session=graph)
    if not (model.use_kps and model.fmc == 3 and model.input_mean == 127.5):
        raise ConfigError(f"{path} is no SCRFD detector with five landmarks")
    return DetectorModel("scrfd", _file(place, path))


def _embedder(place: PackPlace[FacePackSpec], path: Path, graph: _Graph) -> EmbedderModel:
    model = _model_zoo().ArcFaceONNX(model_file=str(path), session=graph)
    return EmbedderModel(
        family=place.spec.embedder.family,
        file=_file(place, path),
        dimension=int(model.output_shape[-1]),
        color="rgb",
        mean=triple(float(model.input_mean)),
        std=triple(float(model.input_std)),
    )


def _tells_age(graph: _Graph) -> bool:
    return graph.inputs[0].shape[2:] == [GENDERAGE_SIDE, GENDERAGE_SIDE] and graph.outputs[0].shape[
        1:
    ] == [GENDERAGE_OUTPUTS]


def _genderage(place: PackPlace[FacePackSpec], path: Path, graph: _Graph) -> AttributeModel:
    model = _model_zoo().Attribute(model_file=str(path), session=graph)
    return AttributeModel(
        kind="genderage",
        file=_file(place, path),
        licence=Licence.of(place.spec.licence),
        mean=float(model.input_mean),
        std=float(model.input_std),
    )


def _file(place: PackPlace[FacePackSpec], path: Path) -> ModelFile:
    found = sha256_of(path)
    return ModelFile(path.name, path, found, found == place.spec.file(path.name).sha256)


def _model_zoo() -> Any:
    try:
        from insightface import model_zoo
    except ImportError as error:
        raise ConfigError(f"InsightFace packs need the package insightface: {error}") from error
    return model_zoo


@dataclass(frozen=True, slots=True)
class _Value:
    name: str
    shape: list[int | str]


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph's inputs and outputs, in the guise of the session that the package asks for them."""

    inputs: list[_Value]
    outputs: list[_Value]

    @classmethod
    def read(cls, path: Path) -> _Graph:
        import onnx

        try:
            graph = onnx.load(str(path), load_external_data=False).graph
        except Exception as error:  # protobuf's and onnx's share no base class
            raise ConfigError(
                f"{path} is no ONNX model, perhaps not downloaded whole; "
                f"run: facegraph models pull {path.parent.name}"
            ) from error
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        return cls(list(_values(inputs)), list(_values(graph.output)))

    def get_inputs(self) -> list[_Value]:
        return self.inputs

    def get_outputs(self) -> list[_Value]:
        return self.outputs


def _values(values: Any) -> Iterator[_Value]:
    for value in values:
        dimensions = value.type.tensor_type.shape.dim
        yield _Value(value.name, [d.dim_value or d.dim_param or "?" for d in dimensions])
