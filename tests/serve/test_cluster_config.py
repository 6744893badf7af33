"""What Ray's launcher and autoscaler make of the cluster's files; nothing is launched or asked."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config

from deployments.check import check_file
from tests.cluster_files import KUBERAY, ROOT, launchers, rayservice

pytestmark = pytest.mark.serve

LAUNCHERS = launchers()

CLOUDS = ("boto3", "botocore", "googleapiclient")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_s_launcher_accepts_it(name: str) -> None:
    prepared = prepare_config(copy.deepcopy(LAUNCHERS[name]))
    validate_config(prepared)
    commands = [prepared[key] for key in ("head_setup_commands", "worker_setup_commands")]
    ours = LAUNCHERS[name]["setup_commands"]
    assert commands == [ours + LAUNCHERS[name]["head_setup_commands"], ours], "none of Ray's own"
    assert [module for module in CLOUDS if module in sys.modules] == []


@pytest.mark.parametrize("name", ["AWS", "Google"])
def test_the_launcher_knows_our_node_types(name: str) -> None:
    types = prepare_config(copy.deepcopy(LAUNCHERS[name]))["available_node_types"]
    bounds = {key: (part["min_workers"], part["max_workers"]) for key, part in types.items()}
    assert bounds == {"head": (0, 0), "cpu_worker": (1, 6), "gpu_worker": (0, 0)}


def test_every_machine_of_one_s_own_is_used() -> None:
    prepared = prepare_config(copy.deepcopy(LAUNCHERS["Machines"]))
    (machine,) = prepared["available_node_types"].values()
    count = len(prepared["provider"]["worker_ips"])
    assert (machine["min_workers"], machine["max_workers"]) == (count, count)


@pytest.mark.parametrize(
    ("path", "wrong", "reason"),
    [
        (("idle_timeout",), 3, "without its unit"),
        (("auth", "user"), "ubuntu", "it is ssh_user"),
        (("available_node_types", "head", "resources", "CPU"), 0.5, "whole cores only"),
        (("available_node_types", "cpu_worker", "idle_timeout_minutes"), 1, "in seconds there"),
        (("available_node_types", "cpu_worker", "min_workers"), 9, "more than max_workers"),
        (("head_node_type",), "control", "no such type"),
    ],
)
def test_the_launcher_refuses_a_slip(path: tuple[str, ...], wrong: Any, reason: str) -> None:
    """So that the tests above can fail."""
    config = copy.deepcopy(LAUNCHERS["AWS"])
    part = config
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = wrong
    with pytest.raises(Exception, match=rf"{path[-1]}|{wrong!r}"):
        validate_config(prepare_config(config))


def test_ray_s_autoscaler_reads_the_kubernetes_cluster() -> None:
    spec = rayservice()["rayClusterConfig"]
    cluster = {"metadata": {"name": "facegraph", "namespace": "facegraph"}, "spec": spec}
    config = _derive_autoscaling_config_from_ray_cr(copy.deepcopy(cluster))
    validate_config(config)
    types = config["available_node_types"]
    assert {name: part["resources"].get("CPU") for name, part in types.items()} == {
        "headgroup": 0,
        "cpu": 7,
        "gpu": 7,
    }
    assert types["gpu"]["resources"]["GPU"] == 1
    assert (types["gpu"]["max_workers"], types["gpu"]["idle_timeout_s"]) == (0, 300)
    assert (types["cpu"]["min_workers"], types["cpu"]["max_workers"]) == (2, 8)
    assert config["idle_timeout_minutes"] == 10


def test_our_own_check_finds_what_is_open_and_what_is_to_be_filled_in() -> None:
    """In the files as they lie here, with the lines at which they say so."""
    served = check_file(ROOT / "deploy" / "kuberay" / "rayservice.yaml")
    launched = check_file(ROOT / "cluster.yaml")
    found = [re.fullmatch(r".*/(.+):(\d+): warning: (.*)", line) for line in served + launched]
    told = [(match[1], match[3].split(";")[0]) for match in found if match]
    assert told == [("cluster.yaml", "ami-00000000000000000 is a placeholder: name yours")]
    (match,) = found
    assert match is not None
    line = (ROOT / "cluster.yaml").read_text().splitlines()[int(match[2]) - 1]
    assert line.split()[:2] == ["ImageId:", "&image"]


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("cluster.yaml", "idle_timeout_minutes:", "idle_timeout:", "'idle_timeout' was unexpected"),
        ("cluster.yaml", "min_workers: 1 ", "min_workers: 9 ", "smaller than the sum"),
        ("cluster.yaml", "resources: {CPU: 0}", "resources: {CPU: 2}", "the head counts CPUs"),
        ("cluster.yaml", "type: aws", "type: local", "not for machines of your own"),
        ("rayservice.yaml", "  num_replicas: 2", "  num_replica: 2", "unknown key 'num_replica'"),
        ("rayservice.yaml", "*environment", "*enviroment", "found undefined alias 'enviroment'"),
    ],
)
def test_our_own_check_tells_the_line_of_a_slip(
    name: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    source = ROOT / name if name == "cluster.yaml" else KUBERAY / name
    text = source.read_text().replace("min_workers: 1\n", "min_workers: 1 \n").replace(old, new, 1)
    (path := tmp_path / name).write_text(text)
    found = [finding for finding in check_file(path) if said in finding]
    assert found
    at = int(found[0].split(":")[1])
    line = text.splitlines()[at - 1]
    assert new in line or at == 1 or line.startswith("available_node_types")
