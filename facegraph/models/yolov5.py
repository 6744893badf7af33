"""A YOLOv5 segmentation network (release 7) as an ONNX graph, made from its checkpoint.

The checkpoint says which layers there are, what each reads and how wide it is, so n, s, m, l and x
come out alike. What a layer computes is written here, after the description that comes with the
models (CSPNet, arXiv:1911.11929; spatial pyramid pooling, arXiv:1406.4729; path aggregation,
arXiv:1803.01534; coefficients and prototypes of masks, arXiv:1904.02689). Batch normalisations are
folded into the convolutions in front of them, in float64.

Input ``images``: (n, 3, h, w) float32 RGB in 0..1, h and w multiples of the largest stride (32).
Outputs:

predictions
    (n, anchors, 5 + classes + 32) float32, for 640×640 and COCO (n, 25200, 117): centre x, centre
    y, width, height in input pixels, objectness, a probability per class, mask coefficients
prototypes
    (n, 32, h/4, w/4) float32
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facegraph.errors import ModelMissing
from facegraph.models.torchfile import Array, Checkpoint, Record

OPSET = 17
IR_VERSION = 8
"""What any onnxruntime and OpenVINO of the last years reads."""

BOX_VALUES = 4

MAX_GROWTH = 4
"""Bytes of constants for each byte of the file; two where that is of half precision."""


def to_onnx(checkpoint: bytes) -> bytes:
    """The serialised graph; equal bytes for equal checkpoints.

    Raises ModelMissing where the file is no checkpoint or another network's.
    """
    opened = Checkpoint(checkpoint)
    try:
        graph = _Graph(opened, MAX_GROWTH * len(checkpoint))
        graph.network(_network(opened.root))
        model = graph.model()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelMissing(f"the checkpoint is no YOLOv5 segmentation network: {error}") from error
    return bytes(model.SerializeToString(deterministic=True))


def _network(root: Any) -> Record:
    """The averaged weights where the checkpoint has them, as its own programs prefer."""
    network = root["ema"] or root["model"]
    if not isinstance(network, Record) or network.kind != "SegmentationModel":
        raise ValueError("it holds no SegmentationModel")
    return network


def _parts(module: Record) -> Mapping[str, Record]:
    return cast(Mapping[str, Record], module.state["_modules"])


class _Graph:
    """Nodes and constants, layer by layer; each method adds one and names its output."""

    def __init__(self, checkpoint: Checkpoint, max_bytes: int) -> None:
        """``max_bytes`` of constants; a file could name the same weights any number of times."""
        self._checkpoint = checkpoint
        self._bytes_left = max_bytes
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []
        self._layers: dict[str, Callable[[Record, Any], str]] = {
            "Conv": self._convolution,
            "C3": self._c3,
            "SPPF": self._pooling_pyramid,
            "Upsample": self._upsample,
            "Concat": lambda _, inputs: self._node("Concat", inputs, axis=1),
        }

    def model(self) -> onnx.ModelProto:
        source = helper.make_tensor_value_info(
            "images", TensorProto.FLOAT, ["batch", 3, "height", "width"]
        )
        graph = helper.make_graph(
            self._nodes, "yolov5-seg", [source], self._outputs, list(self._constants.values())
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )

    def network(self, network: Record) -> None:
        """Every layer in order; each names the layers that it reads, -1 for the one before."""
        results: list[str] = []

        def read(source: int) -> str:
            return results[source] if results else "images"

        for layer in _parts(_parts(network)["model"]).values():
            sources = layer.state["f"]
            inputs = [read(s) for s in sources] if isinstance(sources, list) else read(sources)
            if layer.kind == "Segment":
                self._segment(layer, inputs)
                return
            results.append(self._layer(layer, inputs))
        raise ValueError("it has no layer that segments")

    def _layer(self, module: Record, inputs: Any) -> str:
        if module.kind not in self._layers:
            raise ValueError(f"there is no layer {module.kind} in it")
        return self._layers[module.kind](module, inputs)

    def _segment(self, module: Record, inputs: Sequence[str]) -> None:
        state, parts = module.state, _parts(module)
        anchors = self._checkpoint.tensor(state["_buffers"]["anchors"]).astype(np.float32)
        strides = self._checkpoint.tensor(state["stride"]).astype(np.float32)
        masks, width = int(state["nm"]), int(state["no"])
        levels = []
        for x, head, sides, stride in zip(
            inputs, _parts(parts["m"]).values(), anchors, strides, strict=True
        ):
            weight, bias = self._weights(head)
            raw = self._plain_convolution(head, x, weight, bias)
            levels.append(self._decode(raw, sides * stride, stride, width, masks))
        self._node("Concat", levels, axis=1, output="predictions")
        proto = _parts(parts["proto"])
        x = self._convolution(proto["cv1"], inputs[0])
        x = self._convolution(proto["cv2"], self._upsample(proto["upsample"], x))
        self._node("Identity", [self._convolution(proto["cv3"], x)], output="prototypes")
        self._output("predictions", ["batch", "anchors", width])
        self._output("prototypes", ["batch", masks, "mask_height", "mask_width"])

    def _decode(self, raw: str, sides: Array, stride: float, width: int, masks: int) -> str:
        """Of one level's (n, anchors · width, h, w) the rows (n, anchors · h · w, width).

        A box's centre lies up to one cell beyond its own, its sides are up to four times the
        anchor's; ``sides`` are (anchors, 2) in pixels.
        """
        # (n, anchor, value, cell) → (n, anchor, cell, value)
        x = self._node("Reshape", [raw, self._constant([0, len(sides), width, -1])])
        x = self._node("Transpose", [x], perm=[0, 1, 3, 2])
        classes = width - BOX_VALUES - masks
        centre, extent, scores, coefficients = self._nodes_of(
            "Split", [x, self._constant([2, 2, classes, masks])], 4, axis=3
        )
        centre = self._node("Sigmoid", [centre])
        centre = self._node("Mul", [centre, self._constant(np.float32(2 * stride))])
        centre = self._node("Add", [centre, self._corners(raw, stride)])
        extent = self._node("Mul", [self._node("Sigmoid", [extent]), self._constant(np.float32(2))])
        extent = self._node("Mul", [extent, extent])
        extent = self._node("Mul", [extent, self._constant(sides[None, :, None])])
        scores = self._node("Sigmoid", [scores])
        x = self._node("Concat", [centre, extent, scores, coefficients], axis=3)
        return self._node("Reshape", [x, self._constant([0, -1, width])])

    def _corners(self, raw: str, stride: float) -> str:
        """(cells, 2) float32: half a cell before each cell's corner, x y in pixels, row by row."""
        rows = self._node("Shape", [raw], start=2, end=3)
        columns = self._node("Shape", [raw], start=3, end=4)
        cells = self._node("Squeeze", [self._node("Mul", [rows, columns])])
        order = self._node(
            "Range", [self._constant(np.int64(0)), cells, self._constant(np.int64(1))]
        )
        y = self._node("Div", [order, columns])
        x = self._node("Sub", [order, self._node("Mul", [y, columns])])
        at = [self._node("Unsqueeze", [one, self._constant([1])]) for one in (x, y)]
        corners = self._node("Cast", [self._node("Concat", at, axis=1)], to=TensorProto.FLOAT)
        corners = self._node("Mul", [corners, self._constant(np.float32(stride))])
        return self._node("Sub", [corners, self._constant(np.float32(stride / 2))])

    def _c3(self, module: Record, x: str) -> str:
        """Half of the channels through the bottlenecks, half past them."""
        parts = _parts(module)
        through = self._convolution(parts["cv1"], x)
        for bottleneck in _parts(parts["m"]).values():
            through = self._bottleneck(bottleneck, through)
        past = self._convolution(parts["cv2"], x)
        return self._convolution(parts["cv3"], self._node("Concat", [through, past], axis=1))

    def _bottleneck(self, module: Record, x: str) -> str:
        parts = _parts(module)
        y = self._convolution(parts["cv2"], self._convolution(parts["cv1"], x))
        return self._node("Add", [x, y]) if module.state["add"] else y

    def _pooling_pyramid(self, module: Record, x: str) -> str:
        """Three poolings in a row see as far as poolings of one, two and three times the size."""
        parts = _parts(module)
        side, pad = (int(parts["m"].state[name]) for name in ("kernel_size", "padding"))
        steps = [self._convolution(parts["cv1"], x)]
        for _ in range(3):
            pooled = self._node(
                "MaxPool",
                steps[-1:],
                kernel_shape=[side, side],
                strides=[1, 1],
                pads=[pad] * 4,
            )
            steps.append(pooled)
        return self._convolution(parts["cv2"], self._node("Concat", steps, axis=1))

    def _upsample(self, module: Record, x: str) -> str:
        scale = float(module.state["scale_factor"])
        if module.state["mode"] != "nearest":
            raise ValueError("it enlarges otherwise than by repeating")
        scales = self._constant(np.array([1, 1, scale, scale], np.float32))
        return self._node(
            "Resize",
            [x, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def _convolution(self, module: Record, x: str) -> str:
        """Convolution, batch normalisation (folded), SiLU."""
        parts = _parts(module)
        if parts["act"].kind != "SiLU":
            raise ValueError(f"its activation is {parts['act'].kind}")
        weight, bias = self._weights(parts["conv"])
        if "bn" in parts:  # absent where the checkpoint was saved with them folded
            scale, shift = self._normalisation(parts["bn"])
            weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        y = self._plain_convolution(parts["conv"], x, weight, bias)
        return self._node("Mul", [y, self._node("Sigmoid", [y])])

    def _plain_convolution(self, module: Record, x: str, weight: Array, bias: Array) -> str:
        state = module.state
        return self._node(
            "Conv",
            [x, self._constant(weight.astype(np.float32)), self._constant(bias.astype(np.float32))],
            kernel_shape=list(state["kernel_size"]),
            strides=list(state["stride"]),
            pads=list(state["padding"]) * 2,
            dilations=list(state["dilation"]),
            group=int(state["groups"]),
        )

    def _weights(self, convolution: Record) -> tuple[Array, Array]:
        parameters = convolution.state["_parameters"]
        weight = self._checkpoint.tensor(parameters["weight"]).astype(np.float64)
        if parameters["bias"] is None:
            return weight, np.zeros(len(weight))
        return weight, self._checkpoint.tensor(parameters["bias"]).astype(np.float64)

    def _normalisation(self, module: Record) -> tuple[Array, Array]:
        """The factor and the addend per channel that it comes down to, in float64."""
        values = module.state["_parameters"] | module.state["_buffers"]
        gamma, beta, mean, variance = (
            self._checkpoint.tensor(values[name]).astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + float(module.state["eps"]))
        return scale, beta - mean * scale

    def _node(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        output = output or f"x{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _nodes_of(
        self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any
    ) -> list[str]:
        names = [f"x{len(self._nodes)}_{at}" for at in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def _constant(self, value: Any) -> str:
        """A list of integers becomes int64; arrays keep their type."""
        array = np.asarray(value, np.int64) if isinstance(value, list) else np.asarray(value)
        self._bytes_left -= array.nbytes
        if self._bytes_left < 0:
            raise ValueError("it uses its weights many times over")
        name = f"c{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def _output(self, name: str, shape: Sequence[int | str]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
