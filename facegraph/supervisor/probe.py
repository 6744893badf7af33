"""Asks a running copy on this machine whether it is ready.

``python -m facegraph.supervisor.probe`` is a container's health check. It finds the copy where
``facegraph serve`` would start one: ``serve_config.yaml`` here, and the environment.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facegraph.errors import FacegraphError
from facegraph.supervisor.configuration import Launch, read
from facegraph.supervisor.overrides import overrides

TIMEOUT_S = 10.0


def probe(launch: Launch) -> Mapping[str, Any] | None:
    """What ``/readyz`` says; None while it does not answer 200.

    Under HTTPS, only the launch's own certificate is taken for an answer.
    """
    trust = launch.tls.trust() if launch.tls else None
    try:
        with urllib.request.urlopen(
            f"{launch.url}/readyz", timeout=TIMEOUT_S, context=trust
        ) as answer:
            state: Mapping[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return None
    return state


def main() -> int:
    """0 when ready, 1 when not."""
    try:
        launch = read(Path("serve_config.yaml"), overrides({}, os.environ))
        state = probe(launch)
    except FacegraphError as error:
        print(f"facegraph: {error}", file=sys.stderr)
        return 1
    print(f"{launch.url} is {'ready' if state else 'not ready'}")
    return 0 if state else 1


if __name__ == "__main__":
    sys.exit(main())
