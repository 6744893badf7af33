"""Choices of engines that outlive the process.

Two engines agree to a cosine of 0.999, which moves a similarity by some thousandths; two replicas
of one machine, and a restart, shall not even differ by that. So the first choice made under the
same circumstances holds for all: a small file, which whoever writes it first wins. It holds
nothing that cannot be measured again, so a damaged one is replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from facegraph.models.engines.base import Choice

log = logging.getLogger(__name__)

FORMAT = 1
MAX_BYTES = 65_536
MAX_FILES = 64
"""The oldest go beyond that: one for each model, number of threads and update of an engine."""

STORED = TypeAdapter(Choice)

ENGINES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")


class Memory:
    """The choice for one model under the circumstances of this machine, one of ``labels``."""

    def __init__(
        self, folder: Path, circumstances: Mapping[str, Any], labels: Collection[str]
    ) -> None:
        self._labels = labels
        said = json.dumps({"format": FORMAT, **circumstances}, sort_keys=True, default=str)
        self._path = folder / f"{hashlib.sha256(said.encode()).hexdigest()[:32]}.json"

    def read(self) -> Choice | None:
        try:
            with self._path.open("rb") as file:
                choice = STORED.validate_json(file.read(MAX_BYTES))
            if choice.label not in self._labels:
                raise ValueError(f"there is no engine {choice.label!r}")
            return choice
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.info("%s is not readable, engines are measured anew: %s", self._path, error)
            return None

    def keep(self, choice: Choice) -> Choice:
        """Writes it down; the choice that holds from now on, which may be another process's."""
        try:
            return self._keep(choice)
        except OSError as error:
            log.warning("the choice of an engine is not remembered: %s", error)
            return choice

    def _keep(self, choice: Choice) -> Choice:
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            file.write(STORED.dump_json(choice))
        written = Path(file.name)
        try:
            os.link(written, self._path)
        except FileExistsError:
            if (other := self.read()) is not None:
                return other
            written.replace(self._path)
        finally:
            written.unlink(missing_ok=True)
        _prune(folder)
        return choice


def circumstances(model: Path | bytes, **more: Any) -> dict[str, Any]:
    """All that a choice depends on: the model, the engines, the processors, and ``more``."""
    return {
        "model": _digest(model),
        "engines": {name: _version(name) for name in ENGINES},
        "processor": _processor(),
        "gpus": _gpus(),
        **more,
    }


def _digest(model: Path | bytes) -> str:
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Model and abilities of the processor; two machines of one kind say the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return f"{platform.machine()} {' '.join(sorted(set(told)))}"


def _gpus() -> list[str]:
    found = Path("/proc/driver/nvidia/gpus").glob("*/information")
    lines = (line for file in found for line in file.read_text().splitlines())
    return sorted({line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")})


def _prune(folder: Path) -> None:
    """Removes the oldest choices, and those that a killed process left half written."""
    files = sorted((file for file in folder.iterdir() if file.is_file()), key=_written)
    for file in files[:-MAX_FILES]:
        file.unlink(missing_ok=True)


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # another process's, which it has just put in place
        return 0.0
