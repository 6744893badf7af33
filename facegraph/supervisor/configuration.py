"""What the supervisor reads of ``serve_config.yaml``, and the copy with everything resolved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from facegraph.config import Settings, settings_from
from facegraph.errors import ConfigError
from facegraph.supervisor.overrides import Overrides
from facegraph.supervisor.tls import Tls, tls_of

LOOPBACK = "127.0.0.1"

SERVICER = "facegraph.api.grpc.service.add_to_server"
"""What Serve is told to speak gRPC with."""

NOT_HERE = ("ssl_keyfile_password", "ssl_ca_certs")
"""Options of Serve's own HTTP server; to drop one in silence would open what it closes."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A copy of the service to bring up: its Serve configuration, its settings, its address."""

    document: Mapping[str, Any]
    settings: Settings
    host: str
    port: int
    tls: Tls | None = None
    gpus: str | None = None
    """The GPUs that it may see, as CUDA_VISIBLE_DEVICES writes them; None: those of the caller."""
    grpc_port: int | None = None
    """Where it speaks gRPC too, on the same host; None: nowhere."""

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        everywhere = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - read, not bound
        host = everywhere.get(self.host, self.host)
        bracketed = f"[{host}]" if ":" in host else host
        return f"{'https' if self.tls else 'http'}://{bracketed}:{self.port}"


def read(path: Path, above: Overrides | None = None) -> Launch:
    """The launch that ``path`` describes, with ``above`` standing above it.

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
    above = above or Overrides()
    http["host"] = above.host or http.get("host", LOOPBACK)
    http["port"] = above.port or http.get("port", 8000)
    tls = _tls(http, above)
    if above.log_level is not None:
        document["logging_config"] = (document.get("logging_config") or {}) | {
            "log_level": above.log_level
        }
    if above.devices.accelerator is not None:
        application["args"] = (application.get("args") or {}) | {
            "accelerator": above.devices.accelerator
        }
    grpc_port = above.grpc_port or _grpc_port(document.get("grpc_options") or {})
    if grpc_port is not None:
        document["grpc_options"] = {"port": grpc_port, "grpc_servicer_functions": [SERVICER]}
    args = {k: v for k, v in (application.get("args") or {}).items() if k != "resources"}
    settings = settings_from(args)
    visible = above.devices.visible
    return Launch(document, settings, http["host"], http["port"], tls, visible, grpc_port)


def write(launch: Launch, folder: Path, *, host: str | None = None) -> Path:
    """Writes the resolved configuration for ``serve run``; ``host`` is another one to listen on."""
    path = folder / "serve_config.yaml"
    document = dict(launch.document)
    document["http_options"] = document["http_options"] | {"host": host or launch.host}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def with_data_folder(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """``environment`` naming the data folder absolutely, for processes with other folders."""
    return {**environment, "FACEGRAPH_DATA_DIR": os.fspath(settings.data_path)}


def _grpc_port(options: Mapping[str, Any]) -> int | None:
    """The file's; a port without a servicer is Serve's way of saying that gRPC is off."""
    if not options.get("grpc_servicer_functions"):
        return None
    port: int = options.get("port", 9000)
    return port


def _tls(http: dict[str, Any], above: Overrides) -> Tls | None:
    """The certificate and key in force, taken out of ``http``: HAProxy serves them, not Serve."""
    for option in NOT_HERE:
        if http.get(option) is not None:
            raise ConfigError(
                f"http_options.{option} is for plain `serve run`; facegraph serve "
                "takes a key without passphrase and asks no client for a certificate"
            )
    certificate, key = http.pop("ssl_certfile", None), http.pop("ssl_keyfile", None)
    return tls_of(
        above.certificate or (Path(certificate) if certificate else None),
        above.key or (Path(key) if key else None),
    )
