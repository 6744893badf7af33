"""Every setting with its default, its bounds and its meaning; unknown keys are errors.

A value comes from, strongest first: the ``FACEGRAPH_*`` environment (only the fields that
name a variable), the application's ``args`` in ``serve_config.yaml``, the default here.
The ``*Tuning`` models are the deployments' ``user_config``: they change in place, without a
restart; everything else restarts the deployments it concerns.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from facegraph.errors import ConfigError

ENVIRONMENT = {
    "FACEGRAPH_DATABASE_URL": "database_url",
    "FACEGRAPH_DATA_DIR": "data_dir",
    "FACEGRAPH_MODELS_DIR": "models_dir",
    "FACEGRAPH_INSIGHTFACE_HOME": "insightface_home",
    "FACEGRAPH_FACE_PACK": "face_pack",
    "FACEGRAPH_ACCELERATOR": "accelerator",
    "FACEGRAPH_ENGINE": "engine",
    "FACEGRAPH_SEGMENTER": "segmenter",
    "FACEGRAPH_CAPTIONER": "captioner",
}
"""Environment variable → field of :class:`Settings`."""

FRONT_ENVIRONMENT = {
    "FACEGRAPH_HOST": "host",
    "FACEGRAPH_PORT": "port",
    "FACEGRAPH_GRPC_PORT": "grpc_port",
    "FACEGRAPH_TLS_CERTIFICATE": "certificate",
    "FACEGRAPH_TLS_KEY": "key",
}
"""Environment variable → what ``facegraph serve`` takes it for; the graph does not see it."""

OTHER_ENVIRONMENT = frozenset({"FACEGRAPH_TEST_ASSETS", *FRONT_ENVIRONMENT})
"""Variables that are ours but no setting of the service."""


Dialect = Literal["smartav", "frv2", "gnosis", "face", "modelbuilder"]

M = TypeVar("M", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


MAX_PICTURES = 16
"""The most that a detector runs together."""


class DetectorTuning(_Model):
    """How faces are found; ``user_config`` of the detector."""

    min_score: float = Field(0.6, gt=0, lt=1, description="Detections below this are dropped.")
    nms_iou: float = Field(0.4, gt=0, lt=1, description="Overlap at which two boxes are one face.")
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Larger images are refused before decoding."
    )
    max_batch: int = Field(
        MAX_PICTURES,
        ge=1,
        le=MAX_PICTURES,
        description="Most images in work at once, and most inputs in one run of the model, where "
        "that gains from it: on a GPU. At most 16: engines are built and warmed for these sizes, "
        "and TensorRT would build anew, for minutes, at a larger one.",
    )
    max_queue: int = Field(
        128, ge=1, description="Most images that wait in a replica; more is `overloaded`."
    )


class EmbedderTuning(_Model):
    """How crops are batched; ``user_config`` of the embedder."""

    max_batch: int = Field(32, ge=1, le=1024, description="Most crops in one run of the model.")
    max_queue: int = Field(512, ge=1, description="Most crops that wait; more is `overloaded`.")


class MatcherTuning(_Model):
    """How galleries are kept current and searched; ``user_config`` of the matcher."""

    poll_interval_s: float = Field(
        1.0, gt=0, le=60, description="How far an `eventual` answer lags, while the store answers."
    )
    catch_up_timeout_s: float = Field(
        5.0, gt=0, description="A search waits this long for its gallery, then `gallery_behind`."
    )
    max_batch: int = Field(64, ge=1, le=4096, description="Most probes scored in one pass.")
    max_queue: int = Field(1024, ge=1, description="Most probes that wait; more is `overloaded`.")
    pinned: tuple[str, ...] = Field(
        (), max_length=1000, description="Collections kept in memory, beside `default`."
    )
    max_gallery_bytes: int = Field(
        4 * 2**30, ge=1, description="Of the others: beyond it the longest unused leave memory."
    )
    idle_timeout_s: float = Field(
        3600.0, gt=0, description="Of the others: one not searched for so long leaves memory."
    )
    approximate_above: int | None = Field(
        None,
        ge=1,
        description="Samples above which a collection is searched approximately, unless it says "
        "how itself; unset: never.",
    )


class SegmenterTuning(_Model):
    """How pictures are segmented; ``user_config`` of the segmenter."""

    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Larger images are refused before decoding."
    )
    max_batch: int = Field(8, ge=1, le=64, description="Most images in one run of the model.")
    max_queue: int = Field(64, ge=1, description="Most images that wait; more is `overloaded`.")


class CaptionerTuning(_Model):
    """How pictures are captioned; ``user_config`` of the captioner."""

    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Larger images are refused before decoding."
    )
    max_batch: int = Field(8, ge=1, le=64, description="Most images in one run of the model.")
    max_queue: int = Field(64, ge=1, description="Most images that wait; more is `overloaded`.")


class JobsTuning(_Model):
    """How jobs are worked on; ``user_config`` of the jobs' workers."""

    max_running: int = Field(1, ge=1, le=64, description="Jobs a replica works on at a time.")
    max_attempts: int = Field(
        3, ge=1, le=20, description="Workers a job may cost before it is given up."
    )
    lease_s: float = Field(
        30.0, ge=1, le=3600, description="A job whose worker is not heard of so long begins anew."
    )
    timeout_s: float = Field(21600.0, gt=0, description="A job that is worked on for longer fails.")
    poll_interval_s: float = Field(
        0.5, gt=0, le=60, description="How long a free worker waits before it looks again."
    )
    retention_s: float = Field(
        86400.0, ge=1, description="Finished jobs are forgotten after this time."
    )
    bulk_pictures: int = Field(
        4,
        ge=1,
        le=4096,
        description="Pictures that a job which enrolls or trains has in work at a time.",
    )
    evaluations: int = Field(
        2,
        ge=1,
        le=4096,
        description="Folds of shapes that a search trains at a time, each by a worker.",
    )
    callback_give_up_s: float = Field(
        86400.0, ge=1, description="A notification that nobody takes is tried for so long."
    )


class IngressTuning(_Model):
    """Limits and defaults of the HTTP API; ``user_config`` of the ingress."""

    max_request_bytes: int = Field(64 * 2**20, ge=1024, description="Largest request body.")
    max_image_bytes: int = Field(16 * 2**20, ge=1024, description="Largest compressed image.")
    max_images: int = Field(20, ge=1, le=1000, description="Most images in one request.")
    max_faces: int = Field(100, ge=1, le=1000, description="Most faces answered for one image.")
    max_concurrent_requests: int = Field(
        64, ge=1, description="More requests at once are answered `overloaded`."
    )
    max_vision_requests: int = Field(
        32, ge=1, description="Of those, captions and masks at most: slow ones leave faces room."
    )
    request_timeout_s: float = Field(30.0, gt=0, description="Longer requests end in `timeout`.")
    max_video_bytes: int = Field(2**29, ge=1024, description="Largest video, compressed.")
    max_video_pixels: int = Field(
        10_000_000, ge=1, description="Videos with larger frames are refused before decoding."
    )
    max_video_frames: int = Field(
        10_000, ge=1, le=1_000_000, description="Most frames answered for one video."
    )
    max_video_duration_s: float = Field(
        10_800.0, gt=0, description="How far into a video is read; longer ones need `end_s`."
    )
    max_video_requests: int = Field(
        4, ge=1, le=1000, description="Videos received and decoded at once; more: `overloaded`."
    )
    video_timeout_s: float = Field(
        600.0, gt=0, description="Of requests that bring a video, instead of the other."
    )
    max_bulk_bytes: int = Field(
        2**29, ge=1024, description="Largest archive or table of pictures to be enrolled by a job."
    )
    max_jobs: int = Field(
        32, ge=1, le=10_000, description="Jobs queued or running; more are `overloaded`."
    )
    max_recognizers: int = Field(
        1000, ge=1, le=100_000, description="Recognizers kept or being built; more are refused."
    )
    max_training_pictures: int = Field(
        2000, ge=2, le=100_000, description="Most pictures that one recognizer is built from."
    )
    max_training_samples: int = Field(
        20_000,
        ge=2,
        le=200_000,
        description="Most samples of a collection that one is built from.",
    )
    max_training_classes: int = Field(
        1000, ge=2, le=10_000, description="Most people that one recognizer tells apart."
    )
    max_search_s: float = Field(
        3600.0, gt=0, description="Longest time a request may give a search for a shape."
    )
    max_event_streams: int = Field(
        64, ge=1, le=10_000, description="Clients that follow builds by events at a time."
    )
    search_limit: int = Field(5, ge=1, le=100, description="Subjects answered per face.")
    threshold: float | None = Field(
        None, ge=-1, le=1, description="Default threshold; unset: the face pack's calibrated one."
    )
    margin: float = Field(
        0.02,
        ge=0,
        le=2,
        description="Two subjects closer than this to each other make a decision `ambiguous`.",
    )


class Settings(_Model):
    """What the service is built from; the closed argument model of the application."""

    face_pack: str = Field("opencv", description="Name of a face pack, or path of a pack file.")
    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="`auto` takes CUDA where it works; `cuda` refuses to start without it."
    )
    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt"] = Field(
        "auto",
        description="What runs the models; `auto` measures those that are there, takes one that "
        "agrees with the others, and remembers it in `<data_dir>/engines`.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Of BLIP and YOLACT; `auto` takes bf16 for BLIP where the processor computes "
        "in it, since that may only change a word. `fp32` holds for embeddings too, which "
        "otherwise may be rounded by a cosine of 0.999.",
    )
    segmenter: str = Field(
        "auto",
        min_length=1,
        max_length=256,
        description="Name of a segmenter pack; `auto` takes the best installed, `none` none.",
    )
    captioner: str = Field(
        "auto",
        min_length=1,
        max_length=256,
        description="Name of a captioner pack, `inventory` (a sentence of what the segmenter "
        "found), `none`; `auto` takes the best whose files are there.",
    )
    data_dir: Path = Field(
        Path("~/.local/share/facegraph"),
        description="Database, models and gallery files, where nothing else is said.",
    )
    models_dir: Path | None = Field(None, description="Unset: `<data_dir>/models`.")
    insightface_home: Path = Field(
        Path("~/.insightface"), description="Where InsightFace packs lie, in `models/<pack>/`."
    )
    database_url: str | None = Field(
        None, description="External PostgreSQL; unset: the embedded one under `data_dir`."
    )
    matcher_shards: int = Field(
        1, ge=1, le=64, description="Matchers that share every collection's subjects among them."
    )
    gallery_storage: Literal["auto", "float32", "bf16", "int8"] = Field(
        "auto",
        description="What searches read of each sample to choose candidates, whose float32 "
        "embeddings then decide; `auto` takes int8 where the processor multiplies it fast.",
    )
    galleries_dir: Path | None = Field(
        None, description="Galleries as files, for quick starts. Unset: `<data_dir>/galleries`."
    )
    database_pool_size: int = Field(8, ge=2, le=100, description="Connections per process.")
    bulk_root: Path | None = Field(
        None,
        description="Folder of this machine whose pictures jobs may enroll; unset: no folder.",
    )
    fetch_urls: bool = Field(
        False, description="Fetch images by `url`; private addresses are refused even then."
    )
    max_loaded_recognizers: int = Field(
        16, ge=1, le=1000, description="Recognizers that a replica keeps in memory."
    )
    private_callbacks: bool = Field(
        False, description="Notify addresses that are not public, too: this machine, this network."
    )
    root_dialects: tuple[Dialect, ...] = Field(
        ("smartav", "gnosis", "face", "modelbuilder"),
        description="Old systems answered at `/`, beside `/compat/<dialect>/`; smartav or frv2, "
        "not both.",
    )

    @field_validator("engine")
    @classmethod
    def _runs_there(cls, engine: str, info: ValidationInfo) -> str:
        accelerator = info.data.get("accelerator")
        if engine == "openvino" and accelerator == "cuda":
            raise ValueError("openvino runs on the CPU; accelerator is cuda")
        if engine == "tensorrt" and accelerator == "cpu":
            raise ValueError("tensorrt runs on a GPU; accelerator is cpu")
        return engine

    @field_validator("root_dialects")
    @classmethod
    def _one_face_recognition(cls, dialects: tuple[Dialect, ...]) -> tuple[Dialect, ...]:
        if {"smartav", "frv2"} <= set(dialects):
            raise ValueError("smartav and frv2 both own /face-recognition; name one of the two")
        return dialects

    @property
    def data_path(self) -> Path:
        return self.data_dir.expanduser().resolve()

    @property
    def models_path(self) -> Path:
        return (self.models_dir or self.data_path / "models").expanduser().resolve()

    @property
    def engines_path(self) -> Path:
        """Where it is remembered which engine runs a model here."""
        return self.data_path / "engines"

    @property
    def galleries_path(self) -> Path:
        return (self.galleries_dir or self.data_path / "galleries").expanduser().resolve()

    @property
    def insightface_path(self) -> Path:
        return self.insightface_home.expanduser().resolve()


def settings_from(
    args: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings from application ``args`` and the environment.

    Raises ConfigError for an unknown key or variable (with the nearest known name), a wrong
    type or a value out of bounds.
    """
    values = dict(args or {}) | from_environment(os.environ if environ is None else environ)
    return parse(Settings, values)


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that the environment names; ConfigError for an unknown ``FACEGRAPH_*``."""
    known = set(ENVIRONMENT) | OTHER_ENVIRONMENT
    for name in environ:
        if name.startswith("FACEGRAPH_") and name not in known:
            raise ConfigError(f"unknown environment variable {name}{nearest(name, known)}")
    return {
        field: environ[name] for name, field in ENVIRONMENT.items() if environ.get(name, "") != ""
    }


def parse(model: type[M], values: Mapping[str, Any]) -> M:
    """``values`` as ``model``; ConfigError names each bad key and what is wrong with it."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(
            f"{model.__name__}: " + "; ".join(_say(model, part) for part in error.errors())
        ) from None


def _say(model: type[BaseModel], part: Any) -> str:
    where = ".".join(str(step) for step in part["loc"])
    if part["type"] == "extra_forbidden":
        return f"unknown key {where!r}{nearest(where, set(model.model_fields))}"
    return f"{where}: {part['msg']}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that was probably meant, or nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
