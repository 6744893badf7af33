"""A detector's graph for several pictures in one run, made in memory when it is opened.

YuNet and SCRFD are published for one picture: a Reshape names the batch of 1, a Resize names the
whole size of its result, and SCRFD's last Transposes put the batch beside the channels, so that
pictures would mix. Here the same nodes are made to keep each picture's rows to themselves. The
file on disk, and so the digest that names it, stays as it was published.

What comes out is believed only after it was run: three unlike pictures together must give what
the published graph gives for each alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from facegraph.models.engines import Engine, open_engine
from facegraph.types import FloatArray

log = logging.getLogger(__name__)

BATCH_LAST_BUT_ONE = [2, 3, 0, 1]
"""SCRFD's order of (batch, channels, height, width) before it flattens the first three."""

BATCH_FIRST = [0, 2, 3, 1]

AMPLITUDES = (1.0, 16.0, 255.0)
"""Of the pictures of noise that are compared: networks want pixels about 0 ± 1 or 0 to 255."""

SIDE = 64
"""Of those pictures, where the network leaves it free; a multiple of every stride."""

TOLERANCE = 1e-4
"""Largest difference, in parts of the output's largest value. On a CPU there is none."""


def free_batch(model: Path | bytes) -> bytes | None:
    """``model`` with a free first dimension and outputs (batch, rows, width), or None.

    None, and a line in the log, where the result would not be the same function.
    """
    content = model if isinstance(model, bytes) else model.read_bytes()
    try:
        freed = _rewritten(content)
        difference = _difference(content, freed)
    except Exception as error:  # noqa: BLE001 - onnx's, the engine's and ours share no base class
        log.warning("the detector takes one picture a run: its graph cannot be changed: %s", error)
        return None
    if not difference <= TOLERANCE:
        log.warning(
            "the detector takes one picture a run: in batches it would err by %g", difference
        )
        return None
    return freed


def _rewritten(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    graph = model.graph
    constants = _constants(graph)
    source = next(value for value in graph.input if value.name not in constants)
    nodes: list[onnx.NodeProto] = []
    makers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        change = CHANGES.get(node.op_type)
        nodes += [node] if change is None else change(graph, node, constants, makers)
    del graph.node[:]
    graph.node.extend(nodes)
    source.type.tensor_type.shape.dim[0].dim_param = "batch"
    for value in graph.output:
        width = value.type.tensor_type.shape.dim[-1].dim_value or None
        shape = ("batch", f"rows_{value.name}", width)
        value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))
    del graph.value_info[:]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


Constants = dict[str, list[int]]
Makers = dict[str, onnx.NodeProto]


def _constants(graph: onnx.GraphProto) -> Constants:
    """Every constant vector of integers, wherever the exporter put it."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor).tolist() if _is_shape(tensor) else []
        for name, tensor in tensors.items()
    }


def _is_shape(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1)


def _free_reshape(
    graph: onnx.GraphProto, node: onnx.NodeProto, constants: Constants, makers: Makers
) -> list[onnx.NodeProto]:
    """(batch · cells, width) and (1, cells, width) become (batch, cells, width)."""
    shape = constants.get(node.input[1], [])
    order = makers.get(node.input[0])
    if len(shape) == 2 and shape[0] == -1 and order is not None and _merges(order):
        order.attribute[0].ints[:] = BATCH_FIRST
    elif not (len(shape) == 3 and shape[:2] == [1, -1]):
        return [node]
    node.input[1] = _added(graph, f"{node.output[0]}_rows", [0, -1, shape[-1]])
    return [node]


def _merges(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and list(node.attribute[0].ints) == BATCH_LAST_BUT_ONE


def _free_resize(
    graph: onnx.GraphProto, node: onnx.NodeProto, constants: Constants, _: Makers
) -> list[onnx.NodeProto]:
    """Of a fixed size, the batch is taken from what is resized."""
    if len(node.input) < 4 or len(constants.get(node.input[3], [])) != 4:
        return [node]
    name = node.output[0]
    rest = _added(graph, f"{name}_rest", constants[node.input[3]][1:])
    first = [_added(graph, f"{name}_{part}", [at]) for part, at in (("from", 0), ("to", 1))]
    node.input[3] = f"{name}_size"
    return [
        helper.make_node("Shape", [node.input[0]], [f"{name}_shape"]),
        helper.make_node("Slice", [f"{name}_shape", *first], [f"{name}_batch"]),
        helper.make_node("Concat", [f"{name}_batch", rest], [f"{name}_size"], axis=0),
        node,
    ]


def _added(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


CHANGES: dict[
    str,
    Callable[[onnx.GraphProto, onnx.NodeProto, Constants, Makers], list[onnx.NodeProto]],
] = {"Reshape": _free_reshape, "Resize": _free_resize}


def _difference(content: bytes, freed: bytes) -> float:
    """Largest difference between pictures run together and alone; infinite where rows differ."""
    alone, together = _opened(content), _opened(freed)
    height, width = (side or SIDE for side in alone.input_shape[2:4])
    noise = np.random.default_rng(0).uniform(-1, 1, (len(AMPLITUDES), 3, height, width))
    pictures = np.asarray(noise * np.reshape(AMPLITUDES, (-1, 1, 1, 1)), np.float32)
    wanted = [alone.run(pictures[at : at + 1]) for at in range(len(pictures))]
    apart = [
        _apart(got, [outputs[at] for outputs in wanted])
        for at, got in enumerate(together.run(pictures))
    ]
    return float(np.max(apart))  # not a number, where one is


def _apart(got: FloatArray, wanted: list[FloatArray]) -> float:
    rows = np.stack([output.reshape(-1, output.shape[-1]) for output in wanted])
    if got.shape != rows.shape:
        return float("inf")
    return float(np.abs(got - rows).max(initial=0) / max(np.abs(rows).max(initial=0), 1e-9))


def _opened(model: bytes) -> Engine:
    return open_engine(model, engine="onnxruntime", accelerator="cpu", exact=True)
