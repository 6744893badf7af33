"""The container's files: linted, in step with the Makefile and the command line, closed by default.

No engine is needed. ``docker compose config`` checks compose.yaml too where that command is there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from facegraph import cli
from facegraph.commands import serve
from facegraph.config import from_environment
from facegraph.supervisor.overrides import overrides
from facegraph.supervisor.ports import free_ports

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
DOCKERFILE = FOLDER / "Dockerfile"
UID = "10001"

Instruction = tuple[str, str]


def _stages() -> dict[str, list[Instruction]]:
    """The instructions of each stage by its name, its FROM first."""
    lines = [
        line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: dict[str, list[Instruction]] = {}
    for line in filter(None, whole.splitlines()):
        keyword, rest = line.split(maxsplit=1)
        if keyword == "FROM":
            stages[rest.split(" AS ")[1]] = []
        list(stages.values())[-1].append((keyword, rest))
    return stages


STAGES = _stages()
RUNTIME = dict(STAGES["runtime"])


def _environment(stage: str) -> dict[str, str]:
    pairs = [pair.split("=", 1) for k, rest in STAGES[stage] if k == "ENV" for pair in rest.split()]
    return dict(pairs)


def _compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return document


SERVICES = _compose()["services"]
OURS = ("facegraph", "facegraph-gpu")


def test_the_linter_is_content_and_nothing_is_ignored() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE.read_text()


def test_both_targets_stand_on_one_runtime() -> None:
    assert [STAGES[name][0] for name in ("cuda", "cpu")] == [
        ("FROM", "runtime AS cuda"),
        ("FROM", "runtime AS cpu"),
    ]
    assert list(STAGES)[-1] == "cpu", "the one that is built where none is named"


def test_everything_copied_is_there_and_let_through() -> None:
    allowed = {
        line.removeprefix("!").rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source.rstrip("/")
        for stage in STAGES.values()
        for keyword, rest in stage
        if keyword == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert {source for source in copied if not (ROOT / source).exists()} == set()
    assert copied == allowed


@pytest.mark.parametrize(("target", "gpu"), [("cpu", "0"), ("cuda", "1")])
def test_packages_are_installed_as_the_makefile_does(target: str, gpu: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", "install", f"GPU={gpu}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (run,) = [rest for keyword, rest in STAGES[f"packages-{target}"] if keyword == "RUN"]
    ours, theirs = _pip_arguments(run), _pip_arguments(plan.replace("\\\n", " "))
    assert theirs[-2:] == ["-e", ".[dev]"]
    assert ours == [*theirs[:-2], ".[streams]"]


def _pip_arguments(text: str) -> list[str]:
    (found,) = re.findall(r"-m pip install (.*?)(?:&&|\n|$)", text)
    return shlex.split(found)


def test_nothing_is_installed_into_the_final_image_but_the_environment() -> None:
    commands = [rest for k, rest in STAGES["runtime"] if k == "RUN"]
    assert not any(re.search(r"\b(apt|apt-get|pip|curl|wget)\b", rest) for rest in commands)
    for target in ("cpu", "cuda"):
        copies = [rest for k, rest in STAGES[target] if k == "COPY"]
        assert copies == [f"--from=packages-{target} /opt/facegraph /opt/facegraph"]


def test_it_runs_as_a_user_with_a_fixed_number_and_owns_its_volumes() -> None:
    assert RUNTIME["USER"] == f"{UID}:{UID}"
    assert f"useradd --uid {UID} " in RUNTIME["RUN"]
    assert f"groupadd --gid {UID} " in RUNTIME["RUN"]
    environment = _environment("runtime")
    volumes = json.loads(RUNTIME["VOLUME"])
    assert volumes == [environment["FACEGRAPH_DATA_DIR"], environment["FACEGRAPH_MODELS_DIR"]]
    assert RUNTIME["RUN"].endswith(" ".join(volumes))
    assert environment["TMPDIR"] in volumes, "videos lie there; compose's /tmp is memory"


def test_its_environment_is_one_that_the_service_knows() -> None:
    environment = _environment("runtime") | _environment("cuda")
    assert from_environment(environment) == {"data_dir": "/data", "models_dir": "/models"}
    assert overrides({}, environment).host == "0.0.0.0"


def test_its_command_is_one_that_the_command_line_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []

    def fake_run(options: argparse.Namespace) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(serve, "run", fake_run)
    program, *command = json.loads(RUNTIME["ENTRYPOINT"]) + json.loads(RUNTIME["CMD"])
    assert program == "facegraph"
    assert cli.main(command) == 0
    assert seen[0].config == Path("serve_config.yaml")
    assert "serve_config.yaml ./" in dict(STAGES["runtime"])["COPY"]


def test_it_exposes_the_port_of_the_file_and_stops_on_a_signal_that_drains() -> None:
    shipped = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert RUNTIME["EXPOSE"] == str(shipped["http_options"]["port"])
    assert RUNTIME["STOPSIGNAL"] in {"SIGTERM", "SIGINT"}


def test_the_health_check_says_no_where_nothing_answers() -> None:
    (python, *arguments) = json.loads(RUNTIME["HEALTHCHECK"].split("CMD ")[1])
    assert python == "python"
    (port,) = free_ports(1)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "FACEGRAPH_HOST": "0.0.0.0", "FACEGRAPH_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, f"http://127.0.0.1:{port} is not ready\n")


def test_images_are_pinned() -> None:
    outside = {rest.split()[0] for stage in STAGES.values() for k, rest in stage if k == "FROM"}
    assert outside - set(STAGES) == {"python:3.11-slim-bookworm"}
    assert SERVICES["database"]["image"] == "postgres:18-bookworm"


@pytest.mark.parametrize("name", OURS)
def test_compose_publishes_on_loopback_and_keeps_the_container_closed(name: str) -> None:
    service = SERVICES[name]
    assert service["ports"] == [f"${{PUBLISH:-127.0.0.1:8000}}:{RUNTIME['EXPOSE']}"]
    assert service["user"] == RUNTIME["USER"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    (temporary,) = service["tmpfs"]
    assert fnmatch(temporary, "/tmp:exec,*"), "HAProxy's start is a script in there"
    assert service["shm_size"] == "1gb"
    assert service["deploy"]["resources"]["limits"]["memory"] == "${MEMORY:-8g}"


@pytest.mark.parametrize("name", OURS)
def test_compose_builds_a_target_and_mounts_its_volumes(name: str) -> None:
    service = SERVICES[name]
    build = service["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]) == DOCKERFILE
    assert service["image"] == f"facegraph:{build['target']}"
    assert build["target"] in STAGES
    assert [mount.split(":")[1] for mount in service["volumes"]] == json.loads(RUNTIME["VOLUME"])
    declared = _compose()["volumes"]
    assert {mount.split(":")[0] for mount in service["volumes"]} < set(declared)
    assert from_environment(service["environment"])["database_url"] == (
        "postgresql://facegraph@database/facegraph"
    )


def test_compose_starts_one_of_the_two_and_the_gpu_only_where_it_is_asked_for() -> None:
    assert [SERVICES[name]["profiles"] for name in OURS] == [["cpu"], ["gpu"]]
    (gpu,) = SERVICES["facegraph-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "reservations" not in SERVICES["facegraph"]["deploy"]["resources"]


def test_the_database_is_healthy_before_the_service_starts_and_is_published_nowhere() -> None:
    database = SERVICES["database"]
    assert database["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert "ports" not in database
    assert database["volumes"] == ["database:/var/lib/postgresql"]
    for name in OURS:
        assert SERVICES[name]["depends_on"] == {"database": {"condition": "service_healthy"}}


def test_no_password_is_written_down_and_every_variable_is_in_the_example() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    shown = dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / "env.example").read_text(), re.MULTILINE))
    assert used | {"COMPOSE_PROFILES"} == set(shown)
    assert shown["POSTGRES_PASSWORD"] == ""
    assert text.count("${POSTGRES_PASSWORD:?") == text.count("PASSWORD: ") == 2
    assert (FOLDER / ".gitignore").read_text() == ".env\n"


def test_docker_compose_reads_the_file() -> None:
    if not _has_compose():
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        ["docker", "compose", "--profile", "cpu", "--profile", "gpu", "config", "--quiet"],
        cwd=FOLDER,
        env={**os.environ, "POSTGRES_PASSWORD": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def _has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return asked.returncode == 0
