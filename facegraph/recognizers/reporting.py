"""How good a recognizer is, as a picture: who is taken for whom, and how its shape was found."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from facegraph.recognizers.training_set import ClassArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

MOST_NAMED = 40
"""Labels that stand beside the matrix; of more it is an image of at most CELLS a side."""
CELLS = 250

DPI = 100
LEAST_SIDE, MOST_SIDE, IMAGE_SIDE = 4.5, 11.0, 7.0
"""Of the matrix, in inches."""
COURSE_WIDTH, COURSE_HEIGHT = 6.0, 5.5
MARGIN = 2.0
LINE = 0.24
MOST_DOTS = 30

MOST_LINES, MOST_CHARACTERS, MOST_OF_LABEL = 8, 150, 22

FONT = "DejaVu Sans"
"""Comes with matplotlib."""
NO_GLYPH = "□"
AS_IT_IS: dict[str, Any] = {"parse_math": False, "fontfamily": FONT}
"""For texts from outside: a `$` is a `$`."""

ENDS = {
    "generations": "it had all its generations",
    "no_improvement": "nothing better came",
    "optimal": "nothing could be better",
    "time": "its time was up",
}

GOOD, BAD = "#2a6f97", "#c1443c"
QUIET = "#8a9aa6"

_drawing = threading.Lock()


def confusions(
    labels: Sequence[str], truth: ClassArray, predicted: ClassArray, most: int = 100
) -> list[dict[str, Any]]:
    """Who was taken for whom, how often, as JSON: the most frequent first, then in labels' order.

    truth, predicted: (n,) int32, indices of ``labels``
    """
    true, told, counts = _pairs(len(labels), truth, predicted)
    wrong = np.flatnonzero(true != told)
    wrong = wrong[np.argsort(-counts[wrong], kind="stable")][:most]
    return [
        {
            "label": labels[true[at]],
            "predicted": labels[told[at]],
            "count": int(counts[at]),
        }
        for at in wrong
    ]


def report_png(
    labels: Sequence[str],
    truth: ClassArray,
    predicted: ClassArray,
    course: Mapping[str, Any] | None,
    *,
    title: str,
    lines: Sequence[str] = (),
) -> bytes:
    """The confusion matrix of a cross-validation and the course of the search, as PNG.

    truth, predicted: (n,) int32, indices of ``labels``
    course: of :func:`facegraph.recognizers.searching.search`; None: there was no search
    lines: what stands under the title, at most MOST_LINES
    At most 2,000 × 1,600 pixels. Runs in any thread but the event loop's, a second or two; one
    call at a time in a process, since matplotlib promises nothing for several.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    header = [_shown(line, MOST_CHARACTERS) for line in lines[:MOST_LINES]]
    named = labels if len(labels) <= MOST_NAMED else ()
    if any(NO_GLYPH in _shown(label, MOST_OF_LABEL) for label in named):
        header.append(f"{NO_GLYPH} is a character that is not in the font of this picture")
    side = _side(len(labels))
    top = LINE * (len(header) + 3)
    width, height = side + MARGIN + COURSE_WIDTH, side + MARGIN + top
    with _drawing:
        layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 0.99 - top / height))
        figure = Figure((width, height), dpi=DPI, layout=layout, facecolor="white")
        _header(figure, _shown(title, 100), header)
        grid = figure.add_gridspec(1, 2, width_ratios=(side + MARGIN, COURSE_WIDTH))
        _matrix(figure.add_subplot(grid[0]), labels, truth, predicted)
        _course(figure, grid, course, side + MARGIN)
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()  # a layout is settled at the second time only
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _side(labels: int) -> float:
    if labels > MOST_NAMED:
        return IMAGE_SIDE
    return min(max(0.28 * labels, LEAST_SIDE), MOST_SIDE)


def _header(figure: Figure, title: str, lines: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    left = 0.25 / width
    figure.text(left, 1 - 0.2 / height, title, size=15, weight="bold", va="top", **AS_IT_IS)
    for at, line in enumerate(lines):
        down = 1 - (0.2 + LINE * (at + 1.7)) / height
        figure.text(left, down, line, size=10, color="#333333", va="top", **AS_IT_IS)


def _matrix(axes: Axes, labels: Sequence[str], truth: ClassArray, predicted: ClassArray) -> None:
    count = len(labels)
    true, told, counts = _pairs(count, truth, predicted)
    shares = counts / np.bincount(truth, minlength=count)[true]
    block = -(-count // CELLS) if count > MOST_NAMED else 1
    _image(axes, count, block, true, told, shares)
    by_place = " (place among the labels)" if count > MOST_NAMED else ""
    axes.set(xlabel="predicted" + by_place, ylabel="true" + by_place)
    correct = int(counts[true == told].sum())
    axes.set_title(f"Cross-validation: {correct} of {len(truth)} right", size=11)
    if count > MOST_NAMED:
        return
    names = [_named(at, label) for at, label in enumerate(labels)]
    size = 9 if count <= 25 else 7
    axes.set_xticks(range(count), names, rotation=90, size=size, **AS_IT_IS)
    axes.set_yticks(range(count), names, size=size, **AS_IT_IS)
    for row, column, number, share in zip(true, told, counts, shares, strict=True):
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, str(number), size=size, color=colour, ha="center", va="center")


def _image(
    axes: Axes,
    count: int,
    block: int,
    true: npt.NDArray[np.int64],
    told: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
) -> None:
    """Shares of rows, right ones blue and wrong ones red; each cell ``block`` labels a side.

    A cell shows its most frequent error, or on the diagonal its worst label.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    cells = -(-count // block)
    right = true == told
    recall = np.zeros(count)
    recall[true[right]] = shares[right]
    good = np.minimum.reduceat(recall, np.arange(0, count, block))
    bad = np.zeros((cells, cells))
    np.maximum.at(bad, (true[~right] // block, told[~right] // block), shares[~right])
    extent = (-0.5, cells * block - 0.5, cells * block - 0.5, -0.5)
    for values, hidden, colour in (
        (bad, bad == 0, BAD),
        (np.diag(good), ~np.eye(cells, dtype=bool), GOOD),
    ):
        axes.imshow(
            np.ma.masked_array(values, hidden),
            cmap=LinearSegmentedColormap.from_list("share", ["#f4f6f8", colour]),
            norm=PowerNorm(0.5, 0, 1),
            extent=extent,
            interpolation="nearest",
        )
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_color(QUIET)


def _course(
    figure: Figure, grid: GridSpec, course: Mapping[str, Any] | None, height: float
) -> None:
    used = min(COURSE_HEIGHT, height)
    rows = grid[1].subgridspec(3, 1, height_ratios=(0.7 * used, 0.3 * used, height - used + 1e-3))
    above = figure.add_subplot(rows[0])
    generations = [] if course is None else course["generations"]
    if course is None or not generations:
        said = "There was no search" if course is None else "No generation was finished"
        above.text(0.5, 0.5, f"{said}:\nthe default shape was trained.", ha="center", va="center")
        above.set_axis_off()
        return
    below = figure.add_subplot(rows[1], sharex=above)
    numbers = [told["generation"] for told in generations]
    _accuracies(above, numbers, generations)
    _sizes(below, numbers, [told["best"] for told in generations])
    stopped = course["stopped"]
    title = "Search" if stopped is None else f"Search, until {ENDS.get(stopped, stopped)}"
    above.set_title(_shown(title, 80), size=11, **AS_IT_IS)


def _accuracies(
    axes: Axes, numbers: Sequence[int], generations: Sequence[Mapping[str, Any]]
) -> None:
    best = [told["best"]["accuracy"] for told in generations]
    mean = [told["mean_accuracy"] for told in generations]
    dots = len(numbers) <= MOST_DOTS
    axes.plot(numbers, mean, "." * dots + "--", color=QUIET, label="mean of a generation")
    axes.plot(numbers, best, "o" * dots + "-", color=GOOD, label="best so far")
    least = min(*best, *mean)
    room = max(0.02, 0.08 * (1 - least))
    axes.set(ylabel="cross-validated accuracy", ylim=(least - room, 1 + room))
    axes.grid(axis="y", color="#e3e8ec")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelbottom=False)
    axes.legend(loc="lower right", frameon=False)


def _sizes(axes: Axes, numbers: Sequence[int], best: Sequence[Mapping[str, Any]]) -> None:
    """Parameters of the best; the number of layers wherever it changes."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    parameters = [one["parameters"] for one in best]
    axes.bar(numbers, parameters, color=GOOD, alpha=0.55)
    before = None
    for at, (number, one) in enumerate(zip(numbers, best, strict=True)):
        if one["layers"] != before:
            before = one["layers"]
            axes.annotate(
                f"{before} layer" if before == 1 else f"{before} layers",
                (number, one["parameters"]),
                (0, 3),
                textcoords="offset points",
                ha="left" if 6 * (len(best) - at) > len(best) else "right",
                size=8,
            )
    axes.set(xlabel="generation", ylabel="parameters", ylim=(0, 1.25 * max(parameters)))
    axes.set_xlim(numbers[0] - 0.8, numbers[-1] + 0.8)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)


def _pairs(
    labels: int, truth: ClassArray, predicted: ClassArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each pair of true and told that occurs, ascending, and how often."""
    codes, counts = np.unique(truth.astype(np.int64) * labels + predicted, return_counts=True)
    true, told = np.divmod(codes, labels)
    return true, told, counts


def _named(at: int, label: str) -> str:
    """With its place among the labels where the font lacks a character."""
    shown = _shown(label, MOST_OF_LABEL)
    return f"{at + 1}: {shown}" if NO_GLYPH in shown else shown


def _shown(text: str, most: int) -> str:
    """In one line, shortened in its middle, and with NO_GLYPH for what the font lacks.

    matplotlib warns of each such character, and draws a box that looks much the same.
    """
    known = _characters()
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) > most:
        line = f"{line[: most - most // 3 - 1]}…{line[len(line) - most // 3 :]}"
    return "".join(c if ord(c) in known else NO_GLYPH for c in line)


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())
