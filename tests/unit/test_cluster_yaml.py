"""``cluster.yaml``, its commented alternatives and the environment of a node, without Ray.

That Ray's launcher accepts them is shown in tests/serve/test_cluster_config.py.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from deployments.arguments import AppArgs
from facegraph.config import from_environment
from facegraph.supervisor import environment
from tests.cluster_files import ENVIRONMENT, ROOT, SECRETS, launchers, node_environment, rayservice

pytestmark = pytest.mark.unit

LAUNCHERS = launchers()

ONE_MACHINE_ONLY = {
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "doors of other nodes must notice first",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "a node that is taken away drains before it ends",
    "RAY_SERVE_HAPROXY_NBTHREAD": "a node has cores for its door",
}
"""Variables that a cluster leaves at Ray's defaults."""


def test_the_alternatives_are_the_ones_that_the_head_of_the_file_promises() -> None:
    providers = {name: config["provider"]["type"] for name, config in LAUNCHERS.items()}
    assert providers == {"AWS": "aws", "Google": "gcp", "Machines": "local"}


def test_a_node_has_the_environment_of_one_machine_and_the_cluster_s_token(tmp_path: Path) -> None:
    one_machine = environment._fast_path()
    expected = {k: v for k, v in one_machine.items() if k not in ONE_MACHINE_ONLY}
    assert node_environment(tmp_path) == expected | SECRETS | {"RAY_AUTH_MODE": "token"}
    assert set(ONE_MACHINE_ONLY) < set(one_machine)


def test_the_service_takes_the_node_s_environment(tmp_path: Path) -> None:
    url = SECRETS["FACEGRAPH_DATABASE_URL"]
    assert from_environment(node_environment(tmp_path)) == {"database_url": url}


@pytest.mark.parametrize("missing", SECRETS)
def test_a_node_without_a_secret_does_not_start(tmp_path: Path, missing: str) -> None:
    (tmp_path / ".facegraph").mkdir()
    given = "".join(f"{k}='{v}'\n" for k, v in SECRETS.items() if k != missing)
    (tmp_path / ".facegraph" / "secrets.env").write_text(given)
    done = subprocess.run(
        ["bash", "-c", '. "$0" && echo started', ENVIRONMENT],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert f"{missing}: " in done.stderr


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("part", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_starts_in_that_environment_with_enough_files(name: str, part: str) -> None:
    stop, start = LAUNCHERS[name][part]
    assert stop == "facegraph/.venv/bin/ray stop"
    steps = start.split(" && ")
    assert steps[:3] == ["ulimit -n 65536", "cd facegraph", ". deploy/cluster/environment.sh"]
    program, _, *flags = steps[3].split()
    assert program == ".venv/bin/ray"
    role = "--head" if part.startswith("head") else "--address=$RAY_HEAD_IP:6379"
    assert role in flags
    if role == "--head":
        assert {"--port=6379", "--autoscaling-config=~/ray_bootstrap_config.yaml"} < set(flags)
        assert "--dashboard-host=127.0.0.1" in flags, "who reaches it runs code"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_command_is_one_to_the_shell(name: str) -> None:
    commands = [c for key, value in LAUNCHERS[name].items() if "commands" in key for c in value]
    assert len(commands) >= 7
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_head_has_no_room_for_replicas(name: str) -> None:
    config = LAUNCHERS[name]
    if "available_node_types" in config:
        assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    else:
        assert "--num-cpus=0" in config["head_start_ray_commands"][1]


@pytest.mark.parametrize("name", ["AWS", "Google"])
def test_workers_come_and_go_and_gpus_only_where_they_are_asked_for(name: str) -> None:
    config = LAUNCHERS[name]
    head, cpu, gpu = config["available_node_types"].values()
    assert list(config["available_node_types"]) == ["head", "cpu_worker", "gpu_worker"]
    assert head["resources"] == {"CPU": 0}
    assert cpu["min_workers"] >= 1, "the head takes none"
    assert cpu["max_workers"] > cpu["min_workers"]
    assert (gpu["min_workers"], gpu["max_workers"], gpu["resources"]["GPU"]) == (0, 0, 1)
    assert 60 * config["idle_timeout_minutes"] > gpu["idle_timeout_s"] > 0
    assert cpu["max_workers"] <= config["max_workers"]


@pytest.mark.parametrize("name", ["AWS", "Google"])
def test_the_first_workers_hold_one_of_each(name: str) -> None:
    """By the resources that docs/cluster.md gives; more replicas bring more workers."""
    (application,) = yaml.safe_load(rayservice()["serveConfigV2"])["applications"]
    parts = [part for _, part in AppArgs.model_validate(application["args"]).resources]
    types = LAUNCHERS[name]["available_node_types"]
    first = types["cpu_worker"]["min_workers"] * types["cpu_worker"]["resources"]["CPU"]
    assert sum(part.num_cpus for part in parts) <= first
    assert sum(getattr(part, "num_gpus", 0) for part in parts) <= 1


def test_what_is_mounted_is_here_and_is_what_an_installation_reads() -> None:
    mounts = dict(LAUNCHERS["AWS"]["file_mounts"])
    assert mounts.pop("/home/ubuntu/.facegraph") == "~/.facegraph"
    assert {remote: remote.removeprefix("/home/ubuntu/facegraph/") for remote in mounts} == mounts
    assert {local for local in mounts.values() if not (ROOT / local).exists()} == set()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    image = {line[1:].rstrip("/") for line in ignored if line.startswith("!")}
    assert set(mounts.values()) == image | {"Makefile", "deploy/cluster"}


def test_each_cloud_s_own_package_is_installed_here_and_on_the_head_alike() -> None:
    text = (ROOT / "cluster.yaml").read_text()
    for name, package in (("AWS", "boto3"), ("Google", "google-api-python-client")):
        (command,) = LAUNCHERS[name]["head_setup_commands"]
        (pinned,) = re.findall(rf"{package}==[\d.]+", command)
        assert set(re.findall(rf"{package}==[\d.]+", text)) == {pinned}
        assert ".venv/bin/python -m pip install" in command
    assert LAUNCHERS["Machines"]["head_setup_commands"] == []


def test_no_secret_is_written_down() -> None:
    everything = [(ROOT / "cluster.yaml").read_text(), ENVIRONMENT.read_text()]
    assert not any(re.search(r"TOKEN=['\"]?\w{8}|AKIA|BEGIN .*KEY", text) for text in everything)


def test_a_key_appears_once() -> None:
    """YAML keeps the last of two silently."""
    text = (ROOT / "cluster.yaml").read_text()
    keys = re.findall(r"^([a-z_]+):", text, re.MULTILINE)
    assert sorted(keys) == sorted(set(keys))
