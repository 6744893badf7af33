"""Small networks with random weights whose outputs are laid out as SCRFD's and YuNet's are."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.unit.graphs import serialised, value

Kind = Literal["scrfd", "yunet"]

CHANNELS = 4

PARTS: dict[Kind, tuple[tuple[int, bool], ...]] = {
    "scrfd": ((1, True), (4, False), (10, False)),
    "yunet": ((1, True), (1, True), (4, False), (10, False)),
}
"""Width of each part of the outputs, and whether a Sigmoid ends it."""

ANCHORS: dict[Kind, int] = {"scrfd": 2, "yunet": 1}


def detector(kind: Kind, side: int | None = None, *, batch: int | str = 1, seed: int = 0) -> bytes:
    """A pyramid of strides 8, 16 and 32 that adds the coarser levels to the finer ones.

    side: of the input; None leaves it free. Like the published files, it takes one picture.
    """
    made = _Making(seed)
    levels = [made.conv("input", 3, 8)]
    levels += [made.conv(levels[0], CHANNELS, 2)]
    levels += [made.conv(levels[1], CHANNELS, 2)]
    for at in (1, 0):
        levels[at] = made.added(
            levels[at], levels[at + 1], None if side is None else side >> 3 + at
        )
    outputs = [
        made.part(kind, level, width, is_score)
        for width, is_score in PARTS[kind]
        for level in levels
    ]
    size = (side, side) if side else ("height", "width")
    return serialised(
        made.nodes,
        [value("input", batch, 3, *size)],
        [made.shown(n, kind) for n in outputs],
        made.constants,
    )


class _Making:
    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._widths: dict[str, int] = {}

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, source: str, channels: int, stride: int, out: int = CHANNELS) -> str:
        weights = self._rng.normal(size=(out, channels, stride, stride)) / (channels * stride)
        conv = self.node(
            "Conv", source, self.constant(weights.astype(np.float32)), strides=[stride] * 2
        )
        return self.node("Relu", conv) if stride > 1 else conv

    def added(self, fine: str, coarse: str, side: int | None) -> str:
        """``coarse`` at the size of ``fine``, added to it; the size is a constant, or computed."""
        if side is not None:
            size = self.constant(np.array([1, CHANNELS, side, side], np.int64))
        else:
            first, middle, end = (self.constant(np.array([at], np.int64)) for at in (0, 2, 4))
            head = self.node("Slice", self.node("Shape", coarse), first, middle)
            tail = self.node("Slice", self.node("Shape", fine), middle, end)
            size = self.node("Concat", head, tail, axis=0)
        how = {"mode": "nearest", "nearest_mode": "floor"}
        larger = self.node(
            "Resize", coarse, "", "", size, coordinate_transformation_mode="asymmetric", **how
        )
        return self.node("Add", fine, larger)

    def part(self, kind: Kind, level: str, width: int, is_score: bool) -> str:
        seen = self.conv(level, CHANNELS, 1, width * ANCHORS[kind])
        order, shape = (
            ([2, 3, 0, 1], [-1, width]) if kind == "scrfd" else ([0, 2, 3, 1], [1, -1, width])
        )
        turned = self.node("Transpose", seen, perm=order)
        rows = self.node("Reshape", turned, self.constant(np.array(shape, np.int64)))
        name = self.node("Sigmoid", rows) if is_score else rows
        self._widths[name] = width
        return name

    def shown(self, name: str, kind: Kind) -> onnx.ValueInfoProto:
        rows: tuple[int | str, ...] = (f"rows_{name}",) if kind == "scrfd" else (1, f"rows_{name}")
        return value(name, *rows, self._widths[name])
