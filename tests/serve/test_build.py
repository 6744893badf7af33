"""What ``build`` decides from its arguments and the cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve._private.build_app import BuiltApplication, build_app

from deployments import cluster, ingress
from deployments.arguments import AppArgs, CpuResources, EngineResources, Resources
from deployments.matcher import AS_SHIPPED
from facegraph.config import Settings
from facegraph.errors import ConfigError
from facegraph.types import Shard
from tests.serve.copies import SHIPPED

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
    with pytest.raises(ConfigError, match=r"takes 9\.25 cores .*detector 8.* has 2"):
        cluster.require_cores(Resources(detector=EngineResources(num_cpus=8)), 2)


def test_every_shard_takes_its_cores() -> None:
    cluster.require_cores(Resources(), 2, shards=2)
    with pytest.raises(ConfigError, match=r"takes 2\.1 cores .*matcher-1 0\.2, matcher-2 0\.2, "):
        cluster.require_cores(Resources(), 2, shards=4)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any], float], BuiltApplication]:
    """Builds the application on a made-up cluster with so many GPUs."""

    def build(args: dict[str, Any], gpus: float) -> BuiltApplication:
        have = {"CPU": 8.0, "GPU": gpus}
        monkeypatch.setattr(cluster, "reachable", have.__getitem__)
        monkeypatch.setattr(cluster, "live_nodes", lambda: 1)
        return build_app(ingress.build(AppArgs.model_validate(args)), name="facegraph")

    return build


@pytest.mark.parametrize(
    ("shards", "names"),
    [(1, ["matcher"]), (3, ["matcher", "matcher-1", "matcher-2"])],
)
def test_a_matcher_for_each_shard(
    built: Callable[[dict[str, Any], float], BuiltApplication], shards: int, names: list[str]
) -> None:
    application = built({"matcher_shards": shards}, 0)
    made: dict[str, Any] = {part.name: part for part in application.deployments}
    others = {"ingress", "detector", "embedder", "segmenter", "captioner", "recognizer", "jobs"}
    assert made.keys() == {*names, *others}
    assert [made[name].init_args[2] for name in names] == [Shard(i, shards) for i in range(shards)]
    for caller in ("ingress", "jobs"):
        handles = made[caller].init_args[-1]
        assert [handle.deployment_name for handle in handles.matchers] == names


@pytest.mark.parametrize(
    ("matcher", "gpus", "options"),
    [
        ({"num_cpus": 0.5}, 1, {"num_cpus": 0.5, "num_gpus": 0}),  # none unless it is given one
        ({"num_cpus": 0.5, "num_gpus": 0.25}, 1, {"num_cpus": 0.5, "num_gpus": 0.25}),
        ({"num_cpus": 0.5, "num_gpus": 0.25}, 0, {"num_cpus": 0.5}),
    ],
)
def test_what_a_matcher_takes(
    built: Callable[[dict[str, Any], float], BuiltApplication],
    matcher: dict[str, float],
    gpus: float,
    options: dict[str, float],
) -> None:
    application = built({"matcher_shards": 2, "resources": {"matcher": matcher}}, gpus)
    taken = [
        part.ray_actor_options
        for part in application.deployments
        if part.name in {"matcher", "matcher-1"}
    ]
    assert taken == [options] * 2


def test_a_shard_that_is_not_listed_is_as_the_shipped_matcher() -> None:
    (application,) = yaml.safe_load(SHIPPED.read_text())["applications"]
    (listed,) = (part for part in application["deployments"] if part["name"] == "matcher")
    assert {k: v for k, v in listed.items() if k not in {"name", "user_config"}} == AS_SHIPPED


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
    monkeypatch.setenv(cluster.MESSAGE_LENGTH, str(cluster.LEAST_MESSAGE_BYTES))
    assert cluster.fast_path_hint() is None
