"""Codes on a torch device choose as those of the processor do; on a GPU where there is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from facegraph.gallery import Base, search
from facegraph.gallery import device as placing
from facegraph.gallery.codes import Storage
from facegraph.gallery.gallery import Gallery
from facegraph.types import GalleryRecords, Head, SubjectRecord
from tests.unit.test_gallery import unit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def test_products_are_those_the_bounds_are_of() -> None:
    """Sums in bfloat16, or factors in TF32, lose more than they allow for."""
    products = torch.backends.cuda.matmul
    products.allow_bf16_reduced_precision_reduction = products.allow_tf32 = True
    placing.DeviceCodes.of(np.eye(4, dtype=np.float32), "bf16", "cpu")
    assert products.allow_bf16_reduced_precision_reduction is False
    assert products.allow_tf32 is False


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("storage", ["bf16", "float32"])
def test_answers_are_those_of_the_processor(
    device: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "STEP", 100)
    monkeypatch.setattr(placing._DeviceScores, "rows_per_step", 100)
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(90, 1, 32))
    points = (centres + 0.4 * rng.normal(size=(90, 5, 32))).reshape(-1, 32)
    rows = unit(points)
    rows[449] = rows[3]  # a tie between two subjects
    records = GalleryRecords.of(
        Head("i", 1, 0, "c", 32),
        [SubjectRecord(f"s{i:02}", None, {}) for i in range(90)],
        [(f"f{i:03}", f"s{i // 5:02}", row) for i, row in enumerate(rows)],
    )
    base = Base.build(records, storage)
    placed = base.on(device)
    assert placed.codes.stripes == 1
    probes = np.concatenate([rows[:40], -rows[:3]])
    for limit in (1, 5, 90):
        here = search(Gallery(base).snapshot, probes, limit=limit)
        there = search(Gallery(placed).snapshot, probes, limit=limit)
        assert there == here
    assert search(Gallery(replace(placed)).snapshot, probes[:1], limit=2)[0][0].sample_id == "f000"
