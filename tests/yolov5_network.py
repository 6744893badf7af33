"""A YOLOv5 segmentation network in plain torch, the reference of the ONNX graph made from one.

Its classes carry the names under which checkpoints know them; :func:`named` puts them there while
one is written. Batch normalisations are kept, and boxes are decoded by loops over anchors.
"""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

STRIDES = (8.0, 16.0, 32.0)


class Conv(nn.Module):
    def __init__(self, c1: int, c2: int, side: int = 1, step: int = 1, pad: int | None = None):
        super().__init__()
        pad = side // 2 if pad is None else pad
        self.conv = nn.Conv2d(c1, c2, side, step, pad, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y * torch.sigmoid(y)


class Bottleneck(nn.Module):
    def __init__(self, c: int, add: bool):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c), Conv(c, c, 3), add

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    def __init__(self, c1: int, c2: int, depth: int, add: bool = True):
        super().__init__()
        half = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, half), Conv(c1, half), Conv(2 * half, c2)
        self.m = nn.Sequential(*(Bottleneck(half, add) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))
        return y


class SPPF(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c // 2), Conv(c // 2 * 4, c)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        wider = [torch.max_pool2d(x, side, 1, side // 2) for side in (5, 9, 13)]
        y: Tensor = self.cv2(torch.cat([x, *wider], 1))
        return y


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d = 1


class Proto(nn.Module):
    def __init__(self, c: int, inner: int, masks: int):
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(c, inner, 3), Conv(inner, inner, 3), Conv(inner, masks)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv3(self.cv2(self.upsample(self.cv1(x))))
        return y


class Segment(nn.Module):
    anchors: Tensor

    def __init__(self, widths: list[int], classes: int, masks: int, inner: int):
        super().__init__()
        self.nc, self.nm, self.no, self.na = classes, masks, 5 + classes + masks, 3
        self.stride = torch.tensor(STRIDES)
        self.register_buffer("anchors", torch.rand(3, 3, 2) * 4 + 1)  # in strides
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in widths)
        self.proto = Proto(widths[0], inner, masks)
        self.detect = self.forward  # as in checkpoints of their own: a bound method

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        rows = [self.rows(level, x) for level, x in enumerate(levels)]
        return torch.cat(rows, 1), self.proto(levels[0])

    def rows(self, level: int, x: Tensor) -> Tensor:
        raw = self.m[level](x)
        n, _, height, width = raw.shape
        stride = STRIDES[level]
        found = []
        for anchor in range(self.na):
            part = raw[:, anchor * self.no : (anchor + 1) * self.no].permute(0, 2, 3, 1).clone()
            part[..., : 5 + self.nc] = part[..., : 5 + self.nc].sigmoid()
            part[..., 0] = (part[..., 0] * 2 - 0.5 + torch.arange(width)) * stride
            part[..., 1] = (part[..., 1] * 2 - 0.5 + torch.arange(height)[:, None]) * stride
            for side in (0, 1):
                part[..., 2 + side] = (
                    (part[..., 2 + side] * 2) ** 2 * self.anchors[level, anchor, side] * stride
                )
            found.append(part.reshape(n, -1, self.no))
        return torch.cat(found, 1)


class SegmentationModel(nn.Module):
    """``widths`` of the five stages, ``depths`` of the four blocks of the backbone."""

    def __init__(
        self,
        widths: tuple[int, ...] = (4, 8, 16, 16, 24),
        depths: tuple[int, ...] = (1, 2, 1, 1),
        *,
        classes: int = 3,
        masks: int = 4,
        inner: int = 8,
    ):
        super().__init__()
        a, b, c, d, e = widths
        up = nn.Upsample(scale_factor=2, mode="nearest")
        layers: list[tuple[nn.Module, int | list[int]]] = [
            (Conv(3, a, 6, 2, 2), -1),
            (Conv(a, b, 3, 2), -1),
            (C3(b, b, depths[0]), -1),
            (Conv(b, c, 3, 2), -1),
            (C3(c, c, depths[1]), -1),
            (Conv(c, d, 3, 2), -1),
            (C3(d, d, depths[2]), -1),
            (Conv(d, e, 3, 2), -1),
            (C3(e, e, depths[3]), -1),
            (SPPF(e), -1),
            (Conv(e, d), -1),
            (up, -1),
            (Concat(), [-1, 6]),
            (C3(2 * d, d, depths[0], False), -1),
            (Conv(d, c), -1),
            (nn.Upsample(scale_factor=2, mode="nearest"), -1),
            (Concat(), [-1, 4]),
            (C3(2 * c, c, depths[0], False), -1),
            (Conv(c, c, 3, 2), -1),
            (Concat(), [-1, 14]),
            (C3(2 * c, d, depths[0], False), -1),
            (Conv(d, d, 3, 2), -1),
            (Concat(), [-1, 10]),
            (C3(2 * d, e, depths[0], False), -1),
            (Segment([c, d, e], classes, masks, inner), [17, 20, 23]),
        ]
        for layer, source in layers:
            layer.f = source  # type: ignore[assignment]
        self.model = nn.Sequential(*(layer for layer, _ in layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        results: list[Any] = []
        for layer in self.model:
            if isinstance(layer.f, list):
                many = [results[source] for source in layer.f]
                results.append(torch.cat(many, 1) if isinstance(layer, Concat) else layer(many))
            else:
                results.append(layer(results[-1] if results else x))
        predictions, prototypes = results[-1]
        return predictions, prototypes


def random_network(seed: int = 0, **sizes: Any) -> SegmentationModel:
    """Random weights and statistics, so that no normalisation is the identity."""
    torch.manual_seed(seed)
    network = SegmentationModel(**sizes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.2, 2.0)
    return network


def checkpoint(network: nn.Module, **others: Any) -> bytes:
    """A checkpoint as training writes it, whole modules pickled."""
    stream = io.BytesIO()
    with named():
        torch.save({"epoch": -1, "ema": None, "model": network, **others}, stream)
    return stream.getvalue()


@contextmanager
def named() -> Iterator[None]:
    """The classes under the module names that checkpoints use, for as long as that takes."""
    homes = {
        "models.common": (Conv, Bottleneck, C3, SPPF, Concat, Proto),
        "models.yolo": (Segment, SegmentationModel),
    }
    sys.modules["models"] = types.ModuleType("models")
    for home, kinds in homes.items():
        sys.modules[home] = types.ModuleType(home)
        for kind in kinds:
            kind.__module__ = home
            setattr(sys.modules[home], kind.__name__, kind)
    try:
        yield
    finally:
        del sys.modules["models"]
        for home, kinds in homes.items():
            del sys.modules[home]
            for kind in kinds:
                kind.__module__ = __name__
