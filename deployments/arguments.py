"""The application's arguments: every setting of the service, and what each deployment takes.

Resources stand here and not under ``deployments:`` in ``serve_config.yaml``, because an engine's
threads and memory follow them: Ray would count other numbers than the engines use.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from facegraph.config import Settings, settings_from


def _divides_one(fraction: float) -> float:
    if fraction < 1 and fraction and not math.isclose(1 / fraction, round(1 / fraction)):
        raise ValueError(f"{fraction:g} does not divide 1; take 0.5, 0.25, 0.2 or 0.125")
    if fraction > 1 and fraction != int(fraction):
        raise ValueError(f"{fraction:g} is more than 1 and not whole")
    return fraction


CpuCount = Annotated[float, Field(gt=0, le=1024, description="CPU cores Ray sets aside.")]
GpuFraction = Annotated[
    float,
    AfterValidator(_divides_one),
    Field(ge=0, le=64, description="Share of a GPU where CUDA is used; fractions divide 1."),
]
GpuMemory = Annotated[
    float | None,
    Field(gt=0, description="Most GPU memory of a replica, GiB; a share isolates nothing."),
]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CpuResources(_Closed):
    """What a replica without a model takes."""

    num_cpus: CpuCount = 0.25

    @property
    def threads(self) -> int:
        """Threads of the replica's engine: one per core set aside, at least one."""
        return max(1, math.floor(self.num_cpus))


class EngineResources(CpuResources):
    """What a replica with a model takes; the GPU part counts only where CUDA is used."""

    num_gpus: GpuFraction = 0.25
    gpu_memory_gib: GpuMemory = None

    @property
    def gpu_memory_bytes(self) -> int | None:
        return None if self.gpu_memory_gib is None else int(self.gpu_memory_gib * 2**30)


class MatcherResources(EngineResources):
    """What a replica of a matcher takes, of each shard's where there are several."""

    num_gpus: GpuFraction = 0


class Untuned(_Closed):
    """The ``user_config`` of a deployment that has none."""


class Resources(_Closed):
    """One replica of each deployment, and one evaluation of a recognizer's shape.

    The defaults fit two cores with two matchers and two evaluations.
    """

    ingress: CpuResources = CpuResources(num_cpus=0.2)
    detector: EngineResources = EngineResources(num_cpus=0.25, num_gpus=0.125)
    embedder: EngineResources = EngineResources(num_cpus=0.2)
    matcher: MatcherResources = MatcherResources(num_cpus=0.2)
    segmenter: EngineResources = EngineResources(num_cpus=0.3)
    captioner: EngineResources = EngineResources(num_cpus=0.1)
    recognizer: CpuResources = CpuResources(num_cpus=0.1)
    jobs: CpuResources = CpuResources(num_cpus=0.1)
    evaluation: CpuResources = CpuResources(num_cpus=0.05)


class AppArgs(Settings):
    """``applications[].args`` of ``serve_config.yaml``; an unknown key is an error."""

    resources: Resources = Resources()

    def settings(self) -> Settings:
        """These arguments under the ``FACEGRAPH_*`` environment, without the resources."""
        return settings_from(self.model_dump(exclude={"resources"}, exclude_unset=True))


def matcher_name(shard: int) -> str:
    """What the deployment of that shard is called; the first one's name does not depend on how
    many there are, so that a configuration stays valid when others join it."""
    return f"matcher-{shard}" if shard else "matcher"


Device = Literal["cpu", "cuda"]
