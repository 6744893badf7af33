"""What ``build`` decides from its arguments and the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments import cluster
from deployments.arguments import AppArgs, CpuResources, EngineResources, Resources
from facegraph.config import Settings
from facegraph.errors import ConfigError

pytestmark = pytest.mark.serve


@pytest.mark.parametrize(
    ("accelerator", "gpus", "device"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 1, "cpu"), ("cuda", 2, "cuda")],
)
def test_the_device(accelerator: str, gpus: float, device: str) -> None:
    settings = Settings.model_validate({"accelerator": accelerator})
    assert cluster.resolve_device(settings, gpus) == device


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="no GPU in this cluster"):
        cluster.resolve_device(Settings(accelerator="cuda"), 0)


def test_several_nodes_need_an_external_database() -> None:
    cluster.require_shared_database(Settings(), 1)
    cluster.require_shared_database(Settings(database_url="postgresql://host/db"), 3)
    with pytest.raises(ConfigError, match=r"3 nodes.*FACEGRAPH_DATABASE_URL"):
        cluster.require_shared_database(Settings(), 3)


def test_resources_that_never_fit_are_refused() -> None:
    cluster.require_cores(Resources(), 2)
    with pytest.raises(ConfigError, match=r"takes 9\.2 cores .*detector 8.* has 2"):
        cluster.require_cores(Resources(detector=EngineResources(num_cpus=8)), 2)


@pytest.mark.parametrize(
    ("cores", "threads"), [(0.25, 1), (0.75, 1), (1, 1), (1.5, 1), (2, 2), (8, 8)]
)
def test_threads_follow_the_cores(cores: float, threads: int) -> None:
    assert CpuResources(num_cpus=cores).threads == threads


@pytest.mark.parametrize("fraction", [0, 0.125, 0.2, 0.25, 0.5, 1, 2])
def test_gpu_fractions_that_divide_one(fraction: float) -> None:
    assert EngineResources(num_gpus=fraction).num_gpus == fraction


@pytest.mark.parametrize("fraction", [0.3, 0.4, 0.75, 1.5, -1])
def test_gpu_fractions_that_do_not(fraction: float) -> None:
    with pytest.raises(ValidationError):
        EngineResources(num_gpus=fraction)


def test_the_environment_stands_above_the_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    args = AppArgs.model_validate({"face_pack": "buffalo_s", "data_dir": "/somewhere"})
    monkeypatch.setenv("FACEGRAPH_DATA_DIR", str(tmp_path))
    settings = args.settings()
    assert (settings.face_pack, settings.data_dir) == ("buffalo_s", tmp_path)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="face_pak"):
        AppArgs.model_validate({"face_pak": "opencv"})


@pytest.mark.parametrize(
    ("set_to_one", "lacking"),
    [
        ((), "RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1"),
        (("RAY_SERVE_ENABLE_HA_PROXY",), "(RAY_SERVE_THROUGHPUT_OPTIMIZED=1"),
    ],
)
def test_the_hint_names_what_is_lacking(
    monkeypatch: pytest.MonkeyPatch, set_to_one: tuple[str, ...], lacking: str
) -> None:
    for name in cluster.FAST_PATH:
        monkeypatch.delenv(name, raising=False)
    for name in set_to_one:
        monkeypatch.setenv(name, "1")
    assert lacking in str(cluster.fast_path_hint())


def test_no_hint_on_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cluster.FAST_PATH:
        monkeypatch.setenv(name, "1")
    assert cluster.fast_path_hint() is None
