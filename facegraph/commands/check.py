"""``facegraph check``. The check needs Ray's own schema, so it lives above the library."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "check",
        help="refuse unknown keys and impossible values of a Serve or a cluster configuration",
    )
    parser.add_argument("config", type=Path, nargs="?", default=Path("serve_config.yaml"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    findings: list[str] = importlib.import_module("deployments.check").check_file(options.config)
    for finding in findings:
        print(finding)
    if not findings:
        print(f"{options.config}: ok")
    return int(any(": warning: " not in finding for finding in findings))
