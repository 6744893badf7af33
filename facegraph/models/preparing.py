"""What is made of a published file, once, when its pack is installed.

yolov5-to-onnx
    A PyTorch checkpoint of a YOLOv5 segmentation network becomes an ONNX graph; nothing of the
    pickle is run (:mod:`facegraph.models.yolov5`).

The other steps change an ONNX graph: :mod:`facegraph.models.rewriting`.
"""

from __future__ import annotations

from collections.abc import Sequence

from facegraph.models.rewriting import rewrite

CONVERSION = "yolov5-to-onnx"


def prepare(content: bytes, steps: Sequence[str]) -> bytes:
    """A published file after ``steps``; ModelMissing where one cannot be done."""
    if steps[0] == CONVERSION:
        from facegraph.models.yolov5 import to_onnx

        content, steps = to_onnx(content), steps[1:]
    return rewrite(content, steps)
