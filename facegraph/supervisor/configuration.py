"""What the supervisor reads of ``serve_config.yaml``, and the copy with the port resolved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from facegraph.config import Settings, settings_from
from facegraph.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Launch:
    """A copy of the service to bring up: its Serve configuration, its settings, its address."""

    document: Mapping[str, Any]
    settings: Settings
    host: str
    port: int

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - read, not bound
        host = everywhere.get(self.host, self.host)
        return f"http://{host}:{self.port}"


def read(path: Path, port: int | None) -> Launch:
    """The launch that ``path`` describes; ``port`` stands above the file's.

    ConfigError when the file cannot be read or lacks what is needed here;
    ``facegraph check`` says more.
    """
    try:
        document = yaml.safe_load(path.read_text())
        (application,) = document["applications"]
        http = document.setdefault("http_options", {})
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        raise ConfigError(
            f"{path} is no Serve configuration with one application; run: facegraph check {path}"
        ) from None
    args = {k: v for k, v in (application.get("args") or {}).items() if k != "resources"}
    http["host"] = http.get("host", "127.0.0.1")
    http["port"] = port or http.get("port", 8000)
    return Launch(document, settings_from(args), http["host"], http["port"])


def write(launch: Launch, folder: Path) -> Path:
    """Writes the resolved configuration for ``serve run``."""
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(dict(launch.document), sort_keys=False))
    return path


def with_data_folder(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """``environment`` naming the data folder absolutely, for processes with other folders."""
    return {**environment, "FACEGRAPH_DATA_DIR": os.fspath(settings.data_path)}
