"""The models that all contenders run: two ONNX files of the test assets, or the default pack."""

from __future__ import annotations

from pathlib import Path

DETECTOR = "detect/det_500m.onnx"
EMBEDDER = "embed/edgeface_xs_112_512d_fp16.onnx"
DIMENSION = 512
THRESHOLD = 0.28
"""Calibrated for this embedder; see docs/models.md."""

PACK = """
name = "edgeface_xs"
summary = "SCRFD-500M detector, EdgeFace-XS embedder (512-d)"
[licence]
name = "InsightFace models: non-commercial research only (detector); BSD-3-Clause (embedder)"
permissive = false
[detector]
kind = "scrfd"
file = "{detector}"
[embedder]
family = "edgeface_xs"
file = "{embedder}"
dimension = {dimension}
[calibration]
threshold = {threshold}
data = "docs/models.md"
"""


def pack_file(folder: Path, assets: Path) -> Path:
    """A pack file in ``folder`` for the two files of ``assets``."""
    path = folder / "edgeface_xs.toml"
    path.write_text(
        PACK.format(
            detector=assets / DETECTOR,
            embedder=assets / EMBEDDER,
            dimension=DIMENSION,
            threshold=THRESHOLD,
        )
    )
    return path
