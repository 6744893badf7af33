"""What is changed once in a model's graph, when its pack is installed, so that any engine runs it.

fold-constants
    Weights stored quantised in blocks are unpacked into plain float32 constants. Left as they
    are, onnxruntime unpacks them on every run and OpenVINO refuses the file.
split-prelu
    PRelu, for which onnxruntime has no fast kernel on a CPU, becomes the same function out of
    Relu, Mul and Add: SFace takes 10 ms instead of 24.
free-batch
    The first dimension of the input becomes variable, so that crops run in batches.
free-size
    Height and width of the input become variable.

The result depends on the input bytes only, so its SHA-256 can be known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from facegraph.errors import ModelMissing

Array = npt.NDArray[np.generic]


def rewrite(model: bytes, steps: Sequence[str]) -> bytes:
    """``model`` (a serialised ONNX graph) after ``steps``; ModelMissing if it is none."""
    try:
        graph = onnx.load_from_string(model)
        _drop_unused(graph.graph)
        for step in steps:
            STEPS[step](graph.graph)
        _drop_unused(graph.graph)
        onnx.checker.check_model(graph)
    except Exception as error:  # protobuf's, onnx's and ours share no base class
        raise ModelMissing(f"the model cannot be prepared: {error}") from error
    return bytes(graph.SerializeToString(deterministic=True))


def _fold_constants(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        fold = FOLDS.get(node.op_type)
        if fold is None or not all(name in constants for name in node.input):
            kept.append(node)
            continue
        value = fold(node, [numpy_helper.to_array(constants[name]) for name in node.input])
        constants[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    del graph.node[:]
    graph.node.extend(kept)
    del graph.initializer[:]
    graph.initializer.extend(constants.values())


def _dequantize(node: onnx.NodeProto, inputs: Sequence[Array]) -> Array:
    """ONNX DequantizeLinear (opset 21): (quantised - zero point) * scale, block by block."""
    quantised, scale = inputs[0], inputs[1].astype(np.float32)
    zero = inputs[2] if len(inputs) > 2 else np.zeros(scale.shape, np.int8)
    axis, block = _attribute(node, "axis", 1), _attribute(node, "block_size", 0)
    if scale.ndim == quantised.ndim and scale.ndim > 0 and block:
        length = quantised.shape[axis]
        scale = np.repeat(scale, block, axis).take(range(length), axis)
        zero = np.repeat(zero, block, axis).take(range(length), axis)
    elif scale.ndim == 1 and scale.size > 1:
        along = [1] * quantised.ndim
        along[axis] = -1
        scale, zero = scale.reshape(along), zero.reshape(along)
    return ((quantised.astype(np.int32) - zero.astype(np.int32)) * scale).astype(np.float32)


def _reshape(node: onnx.NodeProto, inputs: Sequence[Array]) -> Array:
    data, wanted = inputs[0], inputs[1].astype(int).tolist()
    shape = [data.shape[at] if side == 0 else side for at, side in enumerate(wanted)]
    return data.reshape(shape)


def _split_prelu(graph: onnx.GraphProto) -> None:
    """PRelu(x) = slope * x + (1 - slope) * Relu(x)."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "PRelu" or node.input[1] not in constants:
            nodes.append(node)
            continue
        (x, slope), out = node.input, node.output[0]
        rest = np.asarray(1 - constants[slope], np.float32)
        graph.initializer.append(numpy_helper.from_array(rest, f"{out}_rest"))
        nodes += [
            onnx.helper.make_node("Relu", [x], [f"{out}_relu"]),
            onnx.helper.make_node("Mul", [x, slope], [f"{out}_all"]),
            onnx.helper.make_node("Mul", [f"{out}_relu", f"{out}_rest"], [f"{out}_positive"]),
            onnx.helper.make_node("Add", [f"{out}_all", f"{out}_positive"], [out]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _free_batch(graph: onnx.GraphProto) -> None:
    for value in (*_real_inputs(graph), *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]


def _free_size(graph: onnx.GraphProto) -> None:
    for value in _real_inputs(graph):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
        value.type.tensor_type.shape.dim[3].dim_param = "width"
    for value in graph.output:
        value.type.tensor_type.shape.dim[1].dim_param = f"rows_{value.name}"
    del graph.value_info[:]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Weights listed as inputs too, as old exporters did, and constants nobody reads."""
    real, used = _real_inputs(graph), {name for node in graph.node for name in node.input}
    del graph.input[:]
    graph.input.extend(real)
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    read = {name for node in graph.node for name in node.input}
    return [value for value in graph.input if value.name in read - constants]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


FOLDS: dict[str, Callable[[onnx.NodeProto, Sequence[Array]], Array]] = {
    "DequantizeLinear": _dequantize,
    "Reshape": _reshape,
}

STEPS: dict[str, Callable[[onnx.GraphProto], None]] = {
    "fold-constants": _fold_constants,
    "split-prelu": _split_prelu,
    "free-batch": _free_batch,
    "free-size": _free_size,
}
