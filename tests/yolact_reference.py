"""YOLACT once more, as slow as it is plain: what its authors' files hold and its loops compute.

Written from the paper and the published facts about the checkpoints; uses nothing of
``facegraph.vision.yolact``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Shapes = dict[str, tuple[int, ...]]

RESNET_PARAMETERS = {50: 25_557_032 - 2_049_000, 101: 44_549_160 - 2_049_000}
"""As published for ImageNet, less the classifier of 1000 × 2048 weights and 1000 biases."""

STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def official_shapes(blocks: tuple[int, ...]) -> Shapes:
    """The keys and shapes of the released checkpoints, spelt out by their naming rules."""
    return _backbone(blocks) | _rest()


def _backbone(blocks: tuple[int, ...]) -> Shapes:
    shapes = _conv("backbone.conv1", 64, 3, 7) | _norm("backbone.bn1", 64)
    source = 64
    for stage, count in enumerate(blocks):
        inner, outer = 64 << stage, 256 << stage
        for block in range(count):
            at = f"backbone.layers.{stage}.{block}"
            shapes |= _conv(f"{at}.conv1", inner, source, 1) | _norm(f"{at}.bn1", inner)
            shapes |= _conv(f"{at}.conv2", inner, inner, 3) | _norm(f"{at}.bn2", inner)
            shapes |= _conv(f"{at}.conv3", outer, inner, 1) | _norm(f"{at}.bn3", outer)
            if block == 0:
                shapes |= _conv(f"{at}.downsample.0", outer, source, 1)
                shapes |= _norm(f"{at}.downsample.1", outer)
            source = outer
    return shapes


def _rest() -> Shapes:
    shapes: Shapes = {}
    for place, channels in enumerate((2048, 1024, 512)):
        shapes |= _biased(f"fpn.lat_layers.{place}", 256, channels, 1)
        shapes |= _biased(f"fpn.pred_layers.{place}", 256, 256, 3)
        shapes |= _biased(f"fpn.downsample_layers.{place}", 256, 256, 3)
    for place in (0, 2, 4, 8):
        shapes |= _biased(f"proto_net.{place}", 256, 256, 3)
    shapes |= _biased("proto_net.10", 32, 256, 1)
    shapes |= _biased("prediction_layers.0.upfeature.0", 256, 256, 3)
    for name, width in (("bbox", 4), ("conf", 81), ("mask", 32)):
        shapes |= _biased(f"prediction_layers.0.{name}_layer", 3 * width, 256, 3)
    return shapes | _biased("semantic_seg_conv", 80, 256, 1)


def _conv(name: str, target: int, source: int, side: int) -> Shapes:
    return {f"{name}.weight": (target, source, side, side)}


def _biased(name: str, target: int, source: int, side: int) -> Shapes:
    return _conv(name, target, source, side) | {f"{name}.bias": (target,)}


def _norm(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep the size of what passes through, and classes that stand out."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(800_000)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=random) + 0.5
        elif len(shape) == 1:
            start = 1.0 if ".bn" in name and name.endswith("weight") else 0.0
            state[name] = start + 0.1 * torch.randn(shape, generator=random)
        else:
            spread = math.sqrt(2 / math.prod(shape[1:]))
            state[name] = spread * torch.randn(shape, generator=random)
    return state


def save_legacy(state: dict[str, Tensor], path: Path) -> None:
    """As PyTorch wrote files in 2019, when the checkpoints were released."""
    torch.save(state, path, _use_new_zipfile_serialization=False)


@dataclass(frozen=True)
class Network:
    """The layers by their names in a checkpoint, one after the other."""

    state: dict[str, Tensor]
    blocks: tuple[int, ...]

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return functional.conv2d(x, weight, bias, stride, padding=weight.shape[2] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (self.state[f"{name}.{part}"][:, None, None] for part in parts)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def backbone(self, x: Tensor) -> list[Tensor]:
        x = self.norm("backbone.bn1", self.conv("backbone.conv1", x, stride=2)).relu()
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        stages = []
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                at = f"backbone.layers.{stage}.{block}"
                stride = 2 if stage > 0 and block == 0 else 1
                y = self.norm(f"{at}.bn1", self.conv(f"{at}.conv1", x)).relu()
                y = self.norm(f"{at}.bn2", self.conv(f"{at}.conv2", y, stride)).relu()
                y = self.norm(f"{at}.bn3", self.conv(f"{at}.conv3", y))
                if block == 0:
                    x = self.norm(f"{at}.downsample.1", self.conv(f"{at}.downsample.0", x, stride))
                x = (x + y).relu()
            stages.append(x)
        return stages

    def pyramid(self, x: Tensor) -> list[Tensor]:
        _, c3, c4, c5 = self.backbone(x)
        m5 = self.conv("fpn.lat_layers.0", c5)
        m4 = self.conv("fpn.lat_layers.1", c4) + _stretched(m5, c4)
        m3 = self.conv("fpn.lat_layers.2", c3) + _stretched(m4, c3)
        p5 = self.conv("fpn.pred_layers.0", m5).relu()
        p4 = self.conv("fpn.pred_layers.1", m4).relu()
        p3 = self.conv("fpn.pred_layers.2", m3).relu()
        p6 = self.conv("fpn.downsample_layers.0", p5, stride=2)  # not rectified
        p7 = self.conv("fpn.downsample_layers.1", p6, stride=2)
        return [p3, p4, p5, p6, p7]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Offsets, scores, coefficients, prototypes of one image (1, 3, size, size)."""
        levels = self.pyramid(x)
        parts: dict[str, list[Tensor]] = {"bbox": [], "conf": [], "mask": []}
        for level in levels:
            y = self.conv("prediction_layers.0.upfeature.0", level).relu()
            for name, part in parts.items():
                z = self.conv(f"prediction_layers.0.{name}_layer", y)[0]
                cells = z.reshape(3, -1, *z.shape[1:])  # prior, number, row, column
                part.append(cells.permute(2, 3, 0, 1).reshape(-1, cells.shape[1]))
        offsets, logits, coefficients = (torch.cat(part) for part in parts.values())
        y = levels[0]
        for place in (0, 2, 4):
            y = self.conv(f"proto_net.{place}", y).relu()
        y = functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        y = self.conv("proto_net.10", self.conv("proto_net.8", y).relu()).relu()
        return offsets, logits.softmax(1), coefficients.tanh(), y[0]


def _stretched(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def priors(size: int, scales: tuple[int, ...]) -> list[tuple[float, float, float, float]]:
    side = size
    for _ in range(3):
        side = (side + 1) // 2
    found = []
    for scale in scales:
        for row in range(side):
            for column in range(side):
                for ratio in (1, 1 / 2, 2):
                    width = scale * math.sqrt(ratio) / size
                    found.append(((column + 0.5) / side, (row + 0.5) / side, width, width))
        side = (side + 1) // 2
    return found


Box = tuple[float, float, float, float]


def decode(offset: npt.NDArray[np.float32], prior: npt.NDArray[np.float32]) -> Box:
    dx, dy, dw, dh = map(float, offset)
    x, y, width, height = map(float, prior)
    x, y = x + dx * 0.1 * width, y + dy * 0.1 * height
    with np.errstate(over="ignore"):
        width, height = width * np.exp(dw * 0.2), height * np.exp(dh * 0.2)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(one: Box, other: Box) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (areas[0] + areas[1] - both)


def fast_nms(
    boxes: list[Box], scores: npt.NDArray[np.float32], per_class: int = 200
) -> list[tuple[int, int]]:
    """(row, class) best first; ties by class, then row."""
    kept = []
    for label in range(scores.shape[1]):
        ranked = sorted(range(len(boxes)), key=lambda row: (-scores[row, label], row))
        ranked = ranked[:per_class]
        for place, row in enumerate(ranked):
            if all(overlap(boxes[row], boxes[better]) <= 0.5 for better in ranked[:place]):
                kept.append((-scores[row, label], label, place, row))
    return [(row, label) for _, label, _, row in sorted(kept)]


@dataclass(frozen=True)
class Found:
    box: Box
    label: int
    score: float
    prior: int


def find(
    offsets: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    all_priors: npt.NDArray[np.float32],
    width: int,
    height: int,
    top_k: int,
    threshold: float,
) -> list[Found]:
    """The whole post-processing of one image up to the masks."""
    rows, boxes = [], []
    for row in range(len(all_priors)):
        box = decode(offsets[row], all_priors[row])
        if max(scores[row, 1:]) > np.float32(0.05) and all(map(math.isfinite, box)):
            rows.append(row)
            boxes.append(box)
    found = []
    for row, label in fast_nms(boxes, scores[rows, 1:]):
        x1, y1, x2, y2 = boxes[row]
        box = (
            min(max(x1 * width, 0), width),
            min(max(y1 * height, 0), height),
            min(max(x2 * width, 0), width),
            min(max(y2 * height, 0), height),
        )
        score = scores[rows[row], label + 1]
        if score > np.float32(threshold) and box[0] < box[2] and box[1] < box[3]:
            found.append(Found(box, label, float(score), rows[row]))
    return found[: min(top_k, 100)]


def mask_value(
    prototypes: npt.NDArray[np.float32],
    coefficients: npt.NDArray[np.float32],
    x: int,
    y: int,
    width: int,
    height: int,
) -> float:
    """How much pixel (x, y) belongs to the object; over one half it does."""
    count, rows, columns = prototypes.shape

    def cell(row: int, column: int) -> float:
        total = 0.0
        for index in range(count):
            total += float(coefficients[index]) * float(prototypes[index, row, column])
        return 1 / (1 + math.exp(-total))

    def between(at: float, cells: int) -> tuple[int, int, float]:
        at = min(max(at, 0.0), cells - 1.0)
        return int(at), min(int(at) + 1, cells - 1), at - int(at)

    top, bottom, down = between((y + 0.5) * rows / height - 0.5, rows)
    left, right, along = between((x + 0.5) * columns / width - 0.5, columns)
    upper = cell(top, left) * (1 - along) + cell(top, right) * along
    lower = cell(bottom, left) * (1 - along) + cell(bottom, right) * along
    return upper * (1 - down) + lower * down
