"""From the network's output for one image to the objects in it: decoding, Fast NMS, choice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from facegraph.types import FloatArray, SegmentOptions

VARIANCES = (0.1, 0.2)
"""How far one unit of an offset moves a centre, in sides of the prior, and scales a side."""

MIN_SCORE = 0.05
"""A prior none of whose classes scores above this is not looked at."""

MAX_PER_CLASS = 200
MAX_IOU = 0.5
MAX_OBJECTS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """What was found in one image, best score first.

    boxes: (n, 4) float32, x1 y1 x2 y2 in pixels, inside the image, none of them empty
    classes: (n,) int64, places in COCO's 80 names
    scores: (n,) float32
    coefficients: (n, 32) float32, of the prototypes
    """

    boxes: FloatArray
    classes: npt.NDArray[np.int64]
    scores: FloatArray
    coefficients: FloatArray

    def take(self, rows: npt.NDArray[np.intp]) -> Objects:
        return Objects(
            self.boxes[rows], self.classes[rows], self.scores[rows], self.coefficients[rows]
        )


def decode(offsets: Tensor, priors: Tensor) -> Tensor:
    """(p, 4) x1 y1 x2 y2 in parts of the image, from offsets to priors as SSD defines them."""
    centers = priors[:, :2] + offsets[:, :2] * VARIANCES[0] * priors[:, 2:]
    sides = priors[:, 2:] * torch.exp(offsets[:, 2:] * VARIANCES[1])
    corners = centers - sides / 2
    return torch.cat([corners, corners + sides], 1)


def fast_nms(boxes: Tensor, scores: Tensor, above: float) -> tuple[Tensor, Tensor]:
    """Rows and classes of what is left, best score first; a row may stay in several classes.

    boxes: (n, 4); scores: (n, classes), of which those over ``above`` are wanted
    Within each class a box goes that overlaps a better one by more than ``MAX_IOU``, even where
    that one goes, too: the paper's Fast NMS. Ties go to the lower class, then the lower row.
    """
    wanted = (scores > above).sum(dim=0)
    busy = wanted.nonzero()[:, 0]
    if not len(busy):
        return busy, busy
    # What is not wanted can go first: only better boxes suppress.
    most = min(int(wanted.max()), MAX_PER_CLASS)
    ranked, rows = scores.t()[busy].sort(dim=1, descending=True, stable=True)
    ranked, rows = ranked[:, :most], rows[:, :most]
    worst = _overlaps(boxes[rows]).triu_(diagonal=1).amax(dim=1)
    lists, places = ((worst <= MAX_IOU) & (ranked > above)).nonzero(as_tuple=True)
    order = ranked[lists, places].sort(descending=True, stable=True).indices
    return rows[lists, places][order], busy[lists][order]


def find_objects(
    offsets: Tensor,
    scores: Tensor,
    coefficients: Tensor,
    priors: Tensor,
    *,
    width: int,
    height: int,
    options: SegmentOptions,
) -> Objects:
    """The objects of one image of this size; row i of the tensors belongs to prior i.

    scores: (p, 81), background first; the others as in ``network.Output``
    """
    boxes, foreground = decode(offsets, priors), scores[:, 1:]
    keep = (foreground.amax(dim=1) > MIN_SCORE) & boxes.isfinite().all(dim=1)
    boxes, foreground, coefficients = boxes[keep], foreground[keep], coefficients[keep]
    rows, classes = fast_nms(boxes, foreground, options.score_threshold)
    size = np.array([width, height, width, height], np.float32)
    found = Objects(
        np.clip(boxes[rows].cpu().numpy() * size, np.float32(0), size),
        classes.cpu().numpy(),
        foreground[rows, classes].cpu().numpy(),
        coefficients[rows].cpu().numpy(),
    )
    solid = np.flatnonzero((found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1))
    return found.take(solid[: min(options.top_k, MAX_OBJECTS)])


def _overlaps(boxes: Tensor) -> Tensor:
    """(c, k, 4) → (c, k, k): intersection over union within each of c lists."""
    least = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    most = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    both = (least - most).clamp_(min=0).prod(dim=3)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2)
    return both / (area[:, :, None] + area[:, None, :] - both)
