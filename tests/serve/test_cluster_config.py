"""``cluster.yaml`` is what Ray's launcher accepts; nothing is launched, nothing is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from deployments.arguments import AppArgs

pytestmark = pytest.mark.serve

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"
    assert sorted(prepared["available_node_types"]) == ["cpu_worker", "gpu_worker", "head"]


def test_ray_refuses_it_when_a_key_is_wrong(config: dict[str, Any]) -> None:
    """So that the test above can fail."""
    config["idle_timeout"] = 3
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(config))


def test_the_workers_of_a_type_hold_the_replicas_of_the_shipped_configuration(
    config: dict[str, Any],
) -> None:
    (application,) = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"]
    resources = AppArgs.model_validate(application["args"]).resources
    types = {name: part["resources"] for name, part in config["available_node_types"].items()}
    largest = max(part.num_cpus for _, part in resources)
    assert all(node["CPU"] >= largest for node in types.values())
    assert types["gpu_worker"]["GPU"] >= resources.detector.num_gpus + resources.embedder.num_gpus
