"""The boxes that the network's offsets are relative to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facegraph.vision.yolact.configs import YolactConfig

ASPECT_RATIOS = (1.0, 1 / 2, 2.0)


def make_priors(config: YolactConfig) -> Tensor:
    """(p, 4) float32: centre x, centre y, width, height, in parts of the input's side.

    Levels from fine to coarse, cells row by row, aspect ratios innermost. All are squares: the
    authors' code gave every prior its width for a height, and their checkpoints learned that way.
    """
    levels = []
    for side, scale in zip(config.sides, config.scales, strict=True):
        centers = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        widths = torch.tensor(
            [scale * math.sqrt(ratio) / config.size for ratio in ASPECT_RATIOS], dtype=torch.float64
        )
        cells = torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, len(widths), 2)
        squares = widths[None, :, None].expand(len(cells), -1, 2)
        levels.append(torch.cat([cells, squares], -1).reshape(-1, 4))
    return torch.cat(levels).to(torch.float32)
