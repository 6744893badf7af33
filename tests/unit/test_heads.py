"""The outputs of several inputs that ran together, decoded at once."""

from __future__ import annotations

import numpy as np
import pytest

from facegraph.errors import ConfigError
from facegraph.faces.heads import HEADS, STRIDES, Head, Outputs, ScrfdHead, YuNetHead

pytestmark = pytest.mark.unit

HEIGHT, WIDTH = 64, 96


def outputs(head: Head, count: int, seed: int = 0) -> list[np.ndarray]:
    """Random numbers, of which about half are scores above 0.5; (count, cells, width) each."""
    rng = np.random.default_rng(seed)
    widths = head.WIDTHS if isinstance(head, YuNetHead | ScrfdHead) else ()
    anchors = 2 if isinstance(head, ScrfdHead) else 1
    rows = [anchors * (HEIGHT // stride) * (WIDTH // stride) for stride in STRIDES]
    return [
        rng.uniform(0, 1, (count, rows[at % 3], width)).astype(np.float32)
        for at, width in enumerate(widths)
    ]


def one_of(together: Outputs, at: int, batched: bool) -> list[np.ndarray]:
    return [output[at : at + 1] if batched else output[at] for output in together]


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("batched", [True, False])  # as YuNet has them, and as SCRFD's file
@pytest.mark.parametrize(
    "min_score",
    [
        0.5,
        0.98,  # some inputs have none
        1.0,  # none has any
    ],
)
def test_together_as_each_alone(head: Head, batched: bool, min_score: float) -> None:
    together = outputs(head, 5)
    together[0][2] = 0.0  # the third input: no score at the finest stride
    seen = head.decode_many(together, 5, HEIGHT, WIDTH, min_score)
    assert len(seen) == 5
    for at, one in enumerate(seen):
        alone = head.decode(one_of(together, at, batched), HEIGHT, WIDTH, min_score)
        assert np.array_equal(one.boxes, alone.boxes)
        assert np.array_equal(one.landmarks, alone.landmarks)
        assert np.array_equal(one.scores, alone.scores)
        assert (one.scores >= min_score).all()


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize(
    ("count", "size"),
    [
        (2, (HEIGHT, WIDTH)),  # three ran: rows would be shared out among the wrong inputs
        (3, (HEIGHT, 2 * WIDTH)),
        (6, (HEIGHT // 2, WIDTH)),
    ],
)
def test_rows_that_are_not_those_of_the_inputs(
    head: Head, count: int, size: tuple[int, int]
) -> None:
    with pytest.raises(ConfigError, match="rows"):
        head.decode_many(outputs(head, 3), count, *size, 0.5)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_no_number_is_no_face(head: Head) -> None:
    together = outputs(head, 2)
    for output in together[:3]:
        output[0] = np.nan
    seen = head.decode_many(together, 2, HEIGHT, WIDTH, 0.5)
    assert len(seen[0].scores) == 0
    assert len(seen[1].scores) > 0
