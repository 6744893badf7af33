"""YOLACT, written from its paper in plain torch; reads the authors' checkpoints.

Bolya, Zhou, Xiao, Lee: YOLACT: Real-time Instance Segmentation, 2019 (arXiv 1904.02689).
"""

from facegraph.vision.yolact.segmenter import YolactSegmenter

__all__ = ["YolactSegmenter"]
