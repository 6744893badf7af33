"""The picture of docs/performance.md: what a picture costs alone, and in the service."""

from __future__ import annotations

from pathlib import Path

from benchmarks.profile.library import STAGES, Stages
from benchmarks.profile.service import ROLES, Shares


def draw(alone: dict[str, Stages], shares: dict[tuple[str, int], Shares], path: Path) -> None:
    """Writes an SVG: a bar a row, milliseconds of CPU."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "facegraph"  # the same numbers make the same file
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, figsize=(10, 6.5), layout="constrained")
    _bars(above, "One picture in the library, one thread", STAGES, alone)
    named = {f"{kind}, {clients} clients": share for (kind, clients), share in shares.items()}
    _bars(below, "One picture in the service, all processes", ROLES, named)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(axes: object, title: str, parts: tuple[str, ...], rows: dict[str, Stages]) -> None:
    import matplotlib as mpl
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    names = list(rows)[::-1]
    left = [0.0] * len(names)
    colours = mpl.colormaps["tab10"]
    for number, part in enumerate(parts):
        widths = [rows[name].get(part, 0.0) for name in names]
        axes.barh(names, widths, left=left, label=part, color=colours(number % 10))
        left = [at + width for at, width in zip(left, widths, strict=True)]
    axes.set_title(title, loc="left")
    axes.set_xlabel("CPU milliseconds")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
