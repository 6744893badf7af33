"""The network: ResNet, feature pyramid, prototypes, one head shared by all levels.

Modules are named as the authors named theirs, so a checkpoint's keys fit as they are. ResNet: He,
Zhang, Ren, Sun, 2015, with the stride in the 3×3 convolution; pyramid: Lin et al., 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.memory_format import convert_conv2d_weight_memory_format

from facegraph.vision.yolact.configs import CLASSES, FEATURES, PROTOTYPES, YolactConfig
from facegraph.vision.yolact.priors import ASPECT_RATIOS

EXPANSION = 4
"""A bottleneck's output channels by those in its middle."""


class Output(NamedTuple):
    """What the network says of n images with p priors each; all float32.

    offsets: (n, p, 4), see ``postprocess.decode``
    scores: (n, p, 81) softmax over the classes, background first
    coefficients: (n, p, 32) in -1..1
    prototypes: (n, 32, h, w), not negative
    """

    offsets: Tensor
    scores: Tensor
    coefficients: Tensor
    prototypes: Tensor


class Bottleneck(nn.Module):
    def __init__(self, source: int, middle: int, stride: int) -> None:
        super().__init__()
        target = middle * EXPANSION
        self.conv1 = nn.Conv2d(source, middle, 1, bias=False)
        self.bn1 = _norm(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, bias=False)
        self.bn2 = _norm(middle)
        self.conv3 = nn.Conv2d(middle, target, 1, bias=False)
        self.bn3 = _norm(target)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or source != target:
            shortcut = nn.Conv2d(source, target, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, _norm(target))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))

    def fuse(self) -> None:
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
            _fuse(self, conv, norm)
        if self.downsample is not None:
            _fuse(self.downsample, "0", "1")


class Backbone(nn.Module):
    """A ResNet without its classifier."""

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = _norm(64)
        self.layers = nn.ModuleList()
        source = 64
        for stage, count in enumerate(blocks):
            middle = 64 * 2**stage
            layer = nn.Sequential()
            for block in range(count):
                layer.append(Bottleneck(source, middle, 2 if stage and not block else 1))
                source = middle * EXPANSION
            self.layers.append(layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        """C3, C4 and C5: 512, 1024 and 2048 channels at strides 8, 16 and 32."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found[1:]


class Pyramid(nn.Module):
    """P3 to P7. The convolutions are numbered from the coarsest level down to the finest."""

    def __init__(self) -> None:
        super().__init__()
        self.lat_layers = nn.ModuleList(nn.Conv2d(c, FEATURES, 1) for c in (2048, 1024, 512))
        self.pred_layers = nn.ModuleList(_conv3(FEATURES) for _ in range(3))
        self.downsample_layers = nn.ModuleList(_conv3(FEATURES, stride=2) for _ in range(2))

    def forward(self, found: list[Tensor]) -> list[Tensor]:
        levels: list[Tensor] = []
        above: Tensor | None = None
        for features, lateral, smooth in zip(
            reversed(found), self.lat_layers, self.pred_layers, strict=True
        ):
            x = lateral(features)
            if above is not None:
                x = x + functional.interpolate(
                    above, size=x.shape[-2:], mode="bilinear", align_corners=False
                )
            above = x
            levels.insert(0, functional.relu(smooth(x)))
        for coarser in self.downsample_layers:
            levels.append(coarser(levels[-1]))
        return levels


class Head(nn.Module):
    """Boxes, classes and mask coefficients of the priors of one level."""

    def __init__(self) -> None:
        super().__init__()
        priors = len(ASPECT_RATIOS)
        self.upfeature = nn.Sequential(_conv3(FEATURES))
        self.bbox_layer = _conv3(priors * 4)
        self.conf_layer = _conv3(priors * CLASSES)
        self.mask_layer = _conv3(priors * PROTOTYPES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = functional.relu(self.upfeature(x))
        return (
            _rows(self.bbox_layer(x), 4),
            _rows(self.conf_layer(x), CLASSES),
            _rows(self.mask_layer(x), PROTOTYPES),
        )


class Yolact(nn.Module):
    """For inference only: nothing that the authors' training alone needs is in here."""

    def __init__(self, config: YolactConfig) -> None:
        super().__init__()
        self.backbone = Backbone(config.blocks)
        self.fpn = Pyramid()
        # The numbers in the checkpoints' keys count activations, too.
        self.proto_net = nn.Sequential(
            *(layer for _ in range(3) for layer in (_conv3(FEATURES), nn.ReLU())),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Identity(),
            *(_conv3(FEATURES), nn.ReLU(), nn.Conv2d(FEATURES, PROTOTYPES, 1)),
        )
        self.prediction_layers = nn.ModuleList([Head()])
        self.eval()

    def forward(self, x: Tensor) -> Output:
        """Of (n, 3, size, size) images, RGB, normalised."""
        levels = self.fpn(self.backbone(x))
        head = self.prediction_layers[0]
        parts = zip(*(head(level) for level in levels), strict=True)
        offsets, logits, coefficients = (torch.cat(part, 1).float() for part in parts)
        prototypes = functional.relu(self.proto_net(levels[0]))
        return Output(offsets, logits.softmax(-1), coefficients.tanh(), prototypes.float())

    def speed_up(self) -> None:
        """The same function, a fifth faster on a CPU; the checkpoint's keys no longer fit.

        Every normalisation is multiplied into its convolution, weights lie channels last.
        """
        _fuse(self.backbone, "conv1", "bn1")
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.fuse()
        convert_conv2d_weight_memory_format(self, torch.channels_last)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


def _conv3(target: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(FEATURES, target, 3, stride, padding=1)


def _rows(x: Tensor, width: int) -> Tensor:
    """(n, priors × width, h, w) → (n, h × w × priors, width), in the order of the priors."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, width)


def _fuse(parent: nn.Module, conv: str, norm: str) -> None:
    before, after = parent.get_submodule(conv), parent.get_submodule(norm)
    assert isinstance(before, nn.Conv2d)
    assert isinstance(after, nn.BatchNorm2d)
    setattr(parent, conv, fuse_conv_bn_eval(before, after))
    setattr(parent, norm, nn.Identity())
