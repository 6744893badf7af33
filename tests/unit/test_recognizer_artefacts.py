"""A recognizer's file computes what was trained and says what it is; its report is a picture."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from facegraph.errors import ModelUnavailable
from facegraph.recognizers.exporting import ModelCard, export
from facegraph.recognizers.reporting import confusions, report_png
from facegraph.recognizers.shapes import ACTIVATIONS, DEFAULT, Activation, Shape
from facegraph.recognizers.training_set import ClassArray, TrainingSet
from facegraph.types import FloatArray

pytestmark = pytest.mark.unit

DIMENSION = 24
SCALE = 4.9
TORCH = {
    "relu": torch.nn.ReLU,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
    "tanh": torch.nn.Tanh,
}
Layers = list[tuple[FloatArray, FloatArray]]


def unit_rows(n: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(n, DIMENSION))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def training_set(counts: Sequence[int] = (3, 1, 7, 2)) -> TrainingSet:
    """Rows in no order of their labels."""
    classes = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    np.random.default_rng(1).shuffle(classes)
    labels = tuple(f"label-{at}" for at in range(len(counts)))
    return TrainingSet(unit_rows(len(classes), 2), classes, labels)


def card(known: TrainingSet, **values: Any) -> ModelCard:
    made = ModelCard(
        recognizer_id="0199c0de-0000-7000-8000-000000000001",
        name="eight people",
        created_at=dt.datetime(2026, 5, 4, 3, 2, 1, 500, dt.UTC),
        contract_id="fake/0123",
        dimension=known.dimension,
        threshold=0.35,
        labels=known.labels,
        shape=DEFAULT,
        augmentation="noise",
        metrics={"accuracy": 0.975, "folds": 5, "confusions": []},
    )
    return replace(made, **values)


def network(*hidden: int, classes: int = 4) -> Layers:
    rng = np.random.default_rng(3)
    widths = (DIMENSION, *hidden, classes)
    return [
        (
            rng.normal(0, 0.5, (out, into)).astype(np.float32),
            rng.normal(0, 0.5, out).astype(np.float32),
        )
        for into, out in pairwise(widths)
    ]


def exported(layers: Layers, activation: Activation = "relu", scale: float = SCALE) -> bytes:
    known = training_set()
    return export(layers, scale=scale, activation=activation, training_set=known, card=card(known))


def run(model: bytes, probes: FloatArray) -> list[FloatArray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, {"embeddings": probes})]


def in_torch(layers: Layers, activation: str, scale: float, probes: FloatArray) -> FloatArray:
    modules: list[torch.nn.Module] = []
    for weight, bias in layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = torch.tensor(weight), torch.tensor(bias)
        modules += [linear, TORCH[activation]()]
    with torch.no_grad():
        logits = torch.nn.Sequential(*modules[:-1])(torch.tensor(probes) * scale)
        return np.asarray(logits.softmax(1).numpy(), np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (16,), (32, 8)])
def test_probabilities_are_those_of_torch(activation: Activation, hidden: tuple[int, ...]) -> None:
    layers, probes = network(*hidden), unit_rows(5, 4)
    told, _ = run(exported(layers, activation), probes)
    assert told.dtype == np.float32
    np.testing.assert_allclose(told, in_torch(layers, activation, SCALE, probes), atol=1e-5)


def test_gelu_is_not_its_approximation() -> None:
    layers, probes = network(16), unit_rows(5, 4)
    told, _ = run(exported(layers, "gelu", 1.0), probes)
    approximated = [torch.tensor(array) for layer in layers for array in layer]
    hidden = torch.nn.functional.linear(torch.tensor(probes), *approximated[:2])
    hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
    rough = torch.nn.functional.linear(hidden, *approximated[2:]).softmax(1).numpy()
    exact = in_torch(layers, "gelu", 1.0, probes)
    assert np.abs(told - exact).max() < np.abs(rough - exact).max() / 10


@pytest.mark.parametrize("counts", [(3, 1, 7, 2), (1, 1, 1, 1), (200, 1, 1, 1)])
def test_similarities_are_the_largest_of_each_label(counts: tuple[int, ...]) -> None:
    known, probes = training_set(counts), unit_rows(6, 5)
    probes[0] = known.embeddings[0]
    probes[1] = -known.embeddings[0]
    model = export(network(), scale=1.0, activation="relu", training_set=known, card=card(known))
    cosines = probes.astype(np.float64) @ known.embeddings.T
    expected = np.stack([cosines[:, known.classes == at].max(1) for at in range(4)], 1)
    _, told = run(model, probes)
    np.testing.assert_allclose(told, expected, atol=1e-6)
    assert told.max() <= 1
    assert told.min() >= -1


def test_no_rows_give_none() -> None:
    told = run(exported(network(8)), unit_rows(0, 0))
    assert [output.shape for output in told] == [(0, 4), (0, 4)]


def test_the_graph_is_valid_and_equal_arguments_give_equal_bytes() -> None:
    model = exported(network(16), "gelu")
    onnx.checker.check_model(model, full_check=True)
    assert exported(network(16), "gelu") == model
    assert exported(network(16), "silu") != model


@pytest.mark.parametrize(
    ("layers", "values", "said"),
    [
        (network(classes=3), {}, "3 logits for 4 labels"),
        (network(8)[1:], {}, r"a layer of \(4, 8\) and \(4,\) after 24 values"),
        (network(), {"labels": ("a", "b", "c", "d")}, "another training set"),
        (network(), {"dimension": 25}, "another training set"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    layers: Layers, values: dict[str, Any], said: str
) -> None:
    known = training_set()
    with pytest.raises(ValueError, match=said):
        export(
            layers,
            scale=1.0,
            activation="relu",
            training_set=known,
            card=card(known, **values),
        )


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"name": None},
        {"name": ""},
        {"name": "Müller\n張偉 🎉", "labels": ("$a$", '"b"', "張偉", "🎉")},
        {"shape": Shape((), "relu", 0.0, 0.1 + 0.2), "threshold": -1.0, "metrics": {}},
        {"created_at": dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))},
    ],
)
def test_a_card_is_read_as_it_was_written(values: dict[str, Any]) -> None:
    known = training_set()
    known = TrainingSet(known.embeddings, known.classes, values.get("labels", known.labels))
    made = card(known, **values)
    model = onnx.ModelProto.FromString(
        export(network(), scale=1.0, activation="relu", training_set=known, card=made)
    )
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["facegraph.version"] == "1"
    assert properties["facegraph.contract_id"] == "fake/0123"
    assert ModelCard.read(properties) == made


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "2"),
        ("version", None),
        ("contract_id", None),
        ("dimension", "0"),
        ("dimension", '"24"'),
        ("dimension", "24.0"),
        ("threshold", "NaN"),
        ("threshold", "1.5"),
        ("labels", '["only one"]'),
        ("labels", '["a", 2]'),
        ("labels", '["a", "b"'),
        ("shape", "{}"),
        ("shape", '{"activation": "sine", "dropout": 0, "hidden": [], "learning_rate": 1}'),
        ("metrics", "[]"),
        ("created_at", '"2026-01-01T00:00:00"'),
        ("more", "1"),
    ],
)
def test_another_format_or_damaged_metadata_is_refused(key: str, value: str | None) -> None:
    properties = card(training_set()).properties()
    assert ModelCard.read(properties).dimension == DIMENSION
    properties.pop(f"facegraph.{key}", None)
    if value is not None:
        properties[f"facegraph.{key}"] = value
    with pytest.raises(ModelUnavailable, match="format" if key == "version" else "damaged"):
        ModelCard.read(properties)


def classes(*values: int) -> ClassArray:
    return np.array(values, np.int32)


def test_confusions_are_those_that_happened_most_frequent_first() -> None:
    told = confusions("abc", classes(0, 0, 1, 2, 2, 2, 1), classes(1, 0, 0, 0, 0, 2, 1))
    assert told == [
        {"label": "c", "predicted": "a", "count": 2},
        {"label": "a", "predicted": "b", "count": 1},
        {"label": "b", "predicted": "a", "count": 1},
    ]
    assert confusions("abc", classes(0, 1, 2), classes(1, 2, 0), most=2) == [
        {"label": "a", "predicted": "b", "count": 1},
        {"label": "b", "predicted": "c", "count": 1},
    ]
    assert confusions("ab", classes(0, 1), classes(0, 1)) == []


def course(generations: int, stopped: str | None = None) -> dict[str, Any]:
    told = [
        {
            "generation": at,
            "evaluated": 4,
            "best": {
                "accuracy": 0.9,
                "layers": 1 + at % 2,
                "parameters": 1000 + at,
                "shape": DEFAULT.told(),
            },
            "mean_accuracy": 0.5,
            "seconds": 1.0,
        }
        for at in range(generations)
    ]
    return {"generations": told, "stopped": stopped}


def drawn(labels: Sequence[str], searched: dict[str, Any] | None = None) -> Image.Image:
    count = len(labels)
    truth = np.arange(2 * count, dtype=np.int32) % count
    predicted = np.where(np.arange(2 * count) % 5, truth, (truth + 1) % count).astype(np.int32)
    picture = report_png(labels, truth, predicted, searched, title="A name", lines=["a", "b"])
    image = Image.open(io.BytesIO(picture), formats=["PNG"])
    image.load()
    return image


@pytest.mark.parametrize(
    ("labels", "wide", "high"),
    [
        (2, (1200, 1300), (700, 800)),
        (8, (1200, 1300), (700, 800)),
        (40, (1800, 2000), (1300, 1600)),
        (41, (1400, 1600), (900, 1100)),
        (1000, (1400, 1600), (900, 1100)),
    ],
)
def test_a_report_is_bounded_in_size(
    labels: int, wide: tuple[int, int], high: tuple[int, int]
) -> None:
    image = drawn([f"label {at}" for at in range(labels)], course(3, "no_improvement"))
    assert wide[0] <= image.width <= wide[1]
    assert high[0] <= image.height <= high[1]


@pytest.mark.parametrize("searched", [None, course(0), course(1), course(100, "another")])
def test_every_course_is_drawn(searched: dict[str, Any] | None) -> None:
    right = np.asarray(drawn(["a", "b"], searched).convert("L"))[:, 660:]
    assert right.min() < 100


def test_equal_arguments_give_equal_pictures() -> None:
    assert drawn(["a", "b"], course(2)).tobytes() == drawn(["a", "b"], course(2)).tobytes()
    assert drawn(["a", "b"]).tobytes() != drawn(["a", "c"]).tobytes()


@pytest.mark.parametrize(
    "label",
    [
        "$x^2$",
        r"$\frac{1}{$",
        "a\nb\r\u2028c\x00",
        "張偉",
        "🎉👩‍👩‍👧",
        "محمد",
        "משה",
        "देवी",
        "สมชาย",
        "e\u0301\u0323",
        "x" * 128,
        "",
        "\ud800",
    ],
)
def test_any_label_can_be_drawn(label: str) -> None:
    truth = classes(0, 1, 1)
    picture = report_png([label, "b"], truth, truth, None, title=label, lines=[label] * 50)
    assert Image.open(io.BytesIO(picture), formats=["PNG"]).height <= 1600


def test_labels_whose_characters_the_font_lacks_are_told_by_their_places() -> None:
    assert drawn(["張偉", "王芳"]).tobytes() == drawn(["李娜", "劉洋"]).tobytes()
    assert drawn(["張偉", "b"]).tobytes() != drawn(["b", "張偉"]).tobytes()
