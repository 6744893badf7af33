"""Ray stays above the library, and dependencies point down."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import facegraph

pytestmark = pytest.mark.unit

ROOT = Path(facegraph.__file__).parent
SOURCES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""

FORBIDDEN = [
    # who, what it must never import, why
    ("facegraph", "deployments", "the library is under the deployments"),
    ("facegraph.gallery", "facegraph.store", "the matcher passes records between them"),
    ("facegraph.store", "facegraph.api", "dependencies point down"),
    ("facegraph.faces", "facegraph.store", "models know nothing of storage"),
    ("facegraph.models", "facegraph.api", "dependencies point down"),
]


def test_no_module_of_the_library_brings_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *SOURCES], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "facegraph" in loaded
    assert loaded.isdisjoint({"ray", "deployments"})


@pytest.mark.parametrize(("who", "what", "why"), FORBIDDEN)
def test_dependencies_point_down(who: str, what: str, why: str) -> None:
    offenders = [
        name
        for name in SOURCES
        if _within(name, who) and any(_within(imported, what) for imported in _imports(name))
    ]
    assert offenders == [], why


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _imports(name: str) -> set[str]:
    """What a module imports anywhere in it, as written."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found
