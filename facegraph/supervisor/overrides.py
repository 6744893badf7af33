"""What stands above ``serve_config.yaml``: the command line, our variables, gnosis's old ones.

Strongest first, in that order. An old variable that is set is accounted for in one line: what it
was taken for, or what says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegraph.config import FRONT_ENVIRONMENT
from facegraph.errors import ConfigError
from facegraph.supervisor.devices import Devices, old_devices

OPTIONS = {
    "host": "--host",
    "port": "--port",
    "grpc_port": "--grpc-port",
    "certificate": "--tls-certificate",
    "key": "--tls-key",
}

OLD_NAMES = {
    "SERVER_IP": "host",
    "SERVER_PORT": "port",
    "SERVER_SSL_CONTEXT": "certificate",
    "SERVER_SSL_KEYFILE": "key",
}

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""Of ``logging_config.log_level`` in ``serve_config.yaml``."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """Values above the file's; None leaves the file's."""

    host: str | None = None
    port: int | None = None
    grpc_port: int | None = None
    certificate: Path | None = None
    key: Path | None = None
    log_level: str | None = None
    devices: Devices = field(default_factory=Devices)
    notes: tuple[str, ...] = ()
    """What became of the old variables, a line each."""


def overrides(given: Mapping[str, Any], environ: Mapping[str, str]) -> Overrides:
    """``given``: the command line's values by the keys of :data:`OPTIONS`, None where not given.

    ConfigError names the variable whose value cannot be. An empty one is as if unset.
    """
    environ = {name: value for name, value in environ.items() if value != ""}
    values = {option: given[option] for option in OPTIONS if given.get(option) is not None}
    said_by = {option: OPTIONS[option] for option in values}
    for name, option in FRONT_ENVIRONMENT.items():
        if name in environ and option not in values:
            values[option], said_by[option] = _parsed(option, name, environ[name]), name
    notes = []
    for name, option in OLD_NAMES.items():
        if name in environ and option in values:
            notes.append(f"{name}={environ[name]} is not used: {said_by[option]} is stronger")
        elif name in environ:
            values[option] = _parsed(option, name, environ[name])
            notes.append(f"{name}={environ[name]} is taken as {OPTIONS[option]}")
    level, devices = _log_level(environ), old_devices(environ)
    notes += [*devices.notes, *_other_notes(environ, level)]
    return Overrides(**values, log_level=level, devices=devices, notes=tuple(notes))


def _parsed(option: str, name: str, value: str) -> str | int | Path:
    if option in {"port", "grpc_port"}:
        if not value.isdecimal() or not 0 < int(value) < 2**16:
            raise ConfigError(f"{name}={value} is no port; a number from 1 to 65535 is")
        return int(value)
    return Path(value) if option in {"certificate", "key"} else value


def _log_level(environ: Mapping[str, str]) -> str | None:
    if (value := environ.get("LOGGER_LEVEL")) is None:
        return None
    if value.upper() not in LEVELS:
        raise ConfigError(f"LOGGER_LEVEL={value} is none of {', '.join(LEVELS)}")
    return value.upper()


def _other_notes(environ: Mapping[str, str], level: str | None) -> Iterator[str]:
    if level is not None:
        yield f"LOGGER_LEVEL={environ['LOGGER_LEVEL']} is taken as log_level: {level}"
    if "ENV" in environ:
        yield f"ENV={environ['ENV']} changes nothing: there is one way to run"
