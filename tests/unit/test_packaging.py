"""What is installed is what was promised: no Qt, the right ONNX Runtime, exact versions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import cv2
import onnxruntime
import pytest
from packaging.specifiers import SpecifierSet

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]


def test_opencv_is_the_headless_build() -> None:
    gui = re.search(r"GUI:\s+(\S+)", cv2.getBuildInformation())
    assert gui is not None
    assert gui[1] == "NONE"
    assert metadata.version("opencv-python") == "5.0.0.93+headless"


def test_onnxruntime_has_the_providers_of_its_build() -> None:
    gpu = metadata.version("onnxruntime").endswith("+gpu")
    providers = onnxruntime.get_available_providers()
    assert "CPUExecutionProvider" in providers
    assert ("CUDAExecutionProvider" in providers) == gpu


@pytest.mark.parametrize("requirement", DEPENDENCIES)
def test_direct_dependencies_are_pinned_and_installed(requirement: str) -> None:
    name, version = requirement.split("==")
    assert SpecifierSet(f"=={version}").contains(metadata.version(name.split("[")[0]))


def test_constraints_pin_every_dependency_alike() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {_normal(name): version for name, version in pins.items()}
    for requirement in DEPENDENCIES:
        name, version = requirement.split("==")
        if "+" not in version:
            assert pins[_normal(name.split("[")[0])] == version


def test_nothing_installed_lacks_what_it_requires() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "No broken requirements found.\n")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
