"""The files of a cluster, as their readers see them: launcher, Kubernetes, environment."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
KUBERAY = ROOT / "deploy" / "kuberay"

ENVIRONMENT = ROOT / "deploy" / "cluster" / "environment.sh"

SECRETS = {
    "RAY_AUTH_TOKEN": "f00d",
    "FACEGRAPH_DATABASE_URL": "postgresql://someone:a&b@database.internal/facegraph?sslmode=require",
}

TITLE = r"^# -{4} (?P<title>[A-Z]\w+)\b.*-$\n"
BLOCK = re.compile(TITLE + r"(?P<body>(?:^#.*\n)+?)(?=^# -{4})", re.MULTILINE)
"""A commented alternative of ``cluster.yaml``: from a title between dashes to the next one."""


def launchers() -> dict[str, dict[str, Any]]:
    """``cluster.yaml`` as it stands (AWS), and with each commented alternative put in its place."""
    text = (ROOT / "cluster.yaml").read_text()
    aws: dict[str, Any] = yaml.safe_load(text)
    found = {"AWS": aws}
    for block in BLOCK.finditer(text):
        body = re.sub(r"^# ?", "", block["body"], flags=re.MULTILINE)
        other = yaml.safe_load(body[body.index("\n\n") :])
        found[block["title"]] = {**aws, **other}
    for section in ("available_node_types", "head_node_type"):  # as the comment there says
        del found["Machines"][section]
    return found


@functools.cache
def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Every Kubernetes object with the name of its file; read once, so not to be changed."""
    return [
        (path.name, document)
        for path in sorted(KUBERAY.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for _, d in manifests() if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def rayservice() -> dict[str, Any]:
    """The ``spec`` of the RayService."""
    spec: dict[str, Any] = manifest("RayService", "facegraph")["spec"]
    return spec


def node_environment(home: Path) -> dict[str, str]:
    """What ``deploy/cluster/environment.sh`` exports, in a home with the secrets."""
    folder = home / ".facegraph"
    folder.mkdir()
    (folder / "secrets.env").write_text("".join(f"{k}='{v}'\n" for k, v in SECRETS.items()))
    done = subprocess.run(
        ["sh", "-euc", '. "$0"; env -0', ENVIRONMENT],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    exported = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
    return {k: v for k, v in exported.items() if k not in {"HOME", "PATH", "PWD", "OLDPWD", "_"}}
