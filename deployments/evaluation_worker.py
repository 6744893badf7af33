"""An evaluation of a shape on one fold, as a Ray task does it in a process of its own."""

from __future__ import annotations

import os

from facegraph.recognizers.evaluating import Task, predict_fold
from facegraph.recognizers.shapes import Shape
from facegraph.recognizers.training_set import ClassArray

LOWEST = 19


def evaluated(task: Task, shape: Shape, fold: int) -> ClassArray:
    """As :func:`facegraph.recognizers.evaluating.predict_fold`, after all requests."""
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST)
    return predict_fold(task, shape, fold)
