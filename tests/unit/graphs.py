"""Tiny ONNX graphs in the shapes of the real models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def serialised(
    nodes: list[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto],
) -> bytes:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def embedder(dimension: int = 4, batch: int | str = "batch", seed: int = 0) -> bytes:
    """Mean colour of the crop times a random matrix: (batch, 3, 112, 112) → (batch, dimension)."""
    weights = np.random.default_rng(seed).normal(size=(3, dimension)).astype(np.float32)
    return serialised(
        [
            helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
        ],
        [value("data", batch, 3, 112, 112)],
        [value("embedding", batch, dimension)],
        [numpy_helper.from_array(weights, "weights")],
    )


def scrfd() -> bytes:
    """Nine outputs as SCRFD has them, all made of the input's mean."""
    nodes = [helper.make_node("ReduceMean", ["input.1"], ["mean"], keepdims=0)]
    constants, outputs = [], []
    for at, width in enumerate((1, 1, 1, 4, 4, 4, 10, 10, 10)):
        constants.append(numpy_helper.from_array(np.zeros((8, width), np.float32), f"zero{at}"))
        nodes.append(helper.make_node("Add", [f"zero{at}", "mean"], [f"out{at}"]))
        outputs.append(value(f"out{at}", 8, width))
    return serialised(nodes, [value("input.1", 1, 3, "h", "w")], outputs, constants)


def quantised() -> tuple[bytes, np.ndarray]:
    """A MatMul whose weights are int8 in blocks of 2, and what those weights are in float32."""
    rng = np.random.default_rng(5)
    stored = rng.integers(-128, 128, (6, 4)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, (3, 4)).astype(np.float32)
    zero = rng.integers(-5, 5, (3, 4)).astype(np.int8)
    slope = np.array([0.25, 0.5, 0.1, 0.9], np.float32)
    listed = helper.make_tensor_value_info("w", TensorProto.INT8, (6, 4))  # as old exporters do
    model = serialised(
        [
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["plain"], axis=0, block_size=2),
            helper.make_node("Reshape", ["plain", "shape"], ["weights"]),
            helper.make_node("MatMul", ["x", "weights"], ["y"]),
            helper.make_node("PRelu", ["y", "slope"], ["out"]),
        ],
        [value("x", 1, 6), listed],
        [value("out", 1, 4)],
        [
            numpy_helper.from_array(stored, "w"),
            numpy_helper.from_array(scale, "s"),
            numpy_helper.from_array(zero, "z"),
            numpy_helper.from_array(np.array([6, -1], np.int64), "shape"),
            numpy_helper.from_array(slope, "slope"),
        ],
    )
    plain = (stored.astype(np.int32) - np.repeat(zero, 2, 0)) * np.repeat(scale, 2, 0)
    return model, plain.astype(np.float32)
