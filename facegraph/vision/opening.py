"""From an installed model to the engine that runs it; each engine is imported when it is needed."""

from __future__ import annotations

from facegraph.config import Settings
from facegraph.models.vision_packs import CaptionerModel, SegmenterModel
from facegraph.vision.base import Captioner, Segmenter


def open_segmenter(
    model: SegmenterModel,
    settings: Settings,
    *,
    threads: int = 1,
    gpu_memory_bytes: int | None = None,
) -> Segmenter:
    """Loads ``model``; ConfigError, ModelMissing or ModelUnavailable where it cannot be."""
    if model.kind == "yolo":
        from facegraph.vision.yolo import YoloSegmenter

        return YoloSegmenter(
            model,
            engine=settings.engine,
            accelerator=settings.accelerator,
            threads=threads,
            concurrency=1,
            gpu_memory_bytes=gpu_memory_bytes,
        )
    if model.kind == "yolact":
        from facegraph.vision.yolact import YolactSegmenter

        return YolactSegmenter(
            model,
            threads=threads,
            accelerator=settings.accelerator,
            gpu_memory_bytes=gpu_memory_bytes,
            precision="bf16" if settings.precision == "bf16" else "fp32",
        )
    from facegraph.vision.rfdetr import RfDetrSegmenter

    return RfDetrSegmenter(
        model,
        threads=threads,
        accelerator=settings.accelerator,
        gpu_memory_bytes=gpu_memory_bytes,
    )


def open_captioner(
    model: CaptionerModel,
    settings: Settings,
    *,
    threads: int = 1,
    gpu_memory_bytes: int | None = None,
) -> Captioner:
    """Loads ``model``; ConfigError, ModelMissing or ModelUnavailable where it cannot be."""
    from facegraph.vision.blip import BlipCaptioner

    return BlipCaptioner(
        model,
        threads=threads,
        accelerator=settings.accelerator,
        gpu_memory_bytes=gpu_memory_bytes,
        precision=settings.precision,
    )
