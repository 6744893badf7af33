"""``facegraph calibrate <folder of person folders>``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from facegraph.bulk.items import SUFFIXES
from facegraph.calibration import (
    Pairs,
    Recommendation,
    draw_curve,
    equal_error,
    pairs_of,
    recommend,
)
from facegraph.config import DetectorTuning, Settings, settings_from
from facegraph.errors import ConfigError, FacegraphError
from facegraph.models.packs import FacePack, find_pack
from facegraph.types import FloatArray

STEP = 0.05
"""Distance of the thresholds in the printed table."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="find the threshold for a face pack from labelled pictures",
        description="The largest face of each picture counts; the name of its folder is the "
        "person's. Prints FAR and FRR against the threshold and recommends one.",
    )
    parser.add_argument("folder", type=Path, help="folder that holds one folder per person")
    parser.add_argument("--pack", help="face pack (default: the face_pack setting)")
    parser.add_argument("--output", type=Path, metavar="PNG", help="draw the curve into this file")
    parser.add_argument("--far", type=_rate, default=0.001, help="wanted FAR (default 0.001)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    settings = settings_from()
    if options.pack:
        settings = settings.model_copy(update={"face_pack": options.pack})
    if not options.folder.is_dir():
        raise ConfigError(f"{options.folder} is no folder")
    pack = find_pack(settings)
    embeddings, labels = embed_folder(options.folder, pack, settings)
    pairs = pairs_of(embeddings, labels)
    chosen = recommend(pairs, options.far)
    print_report(pairs, chosen, options.far, labels, pack)
    if options.output:
        draw_curve(pairs, chosen, f"{pack.name} on {options.folder.name}", options.output)
        print(f"curve: {options.output}")
    return 0


def embed_folder(folder: Path, pack: FacePack, settings: Settings) -> tuple[FloatArray, list[str]]:
    """(n, d) embeddings of the largest faces and their people; prints what gave no face."""
    # Slow to import, and every command of the command line imports this module.
    from facegraph.faces.detection import Detector
    from facegraph.faces.embedding import EmbeddingModel

    detector = Detector(
        pack,
        DetectorTuning(),
        engine=settings.engine,
        accelerator=settings.accelerator,
        engines_dir=settings.engines_path,
    )
    model = EmbeddingModel(
        pack,
        engine=settings.engine,
        accelerator=settings.accelerator,
        engines_dir=settings.engines_path,
    )
    rows = [np.zeros((0, pack.contract.dimension), np.float32)]
    labels = []
    for path in pictures(folder):
        try:
            found = detector.detect(path.read_bytes(), max_faces=1, crops=True)
        except FacegraphError as error:
            print(f"left out: {path.relative_to(folder)}: {error}")
            continue
        if not len(found.faces):
            print(f"left out: {path.relative_to(folder)}: no face")
            continue
        rows.append(model.embed(found.crops))
        labels.append(path.parent.name)
    return np.concatenate(rows), labels


def pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)


def print_report(
    pairs: Pairs, chosen: Recommendation, target: float, labels: list[str], pack: FacePack
) -> None:
    print(
        f"pack {pack.name}: {len(labels)} faces of {len(set(labels))} people, "
        f"{len(pairs.genuine)} genuine and {len(pairs.impostor)} impostor pairs"
    )
    print(f"genuine   {_spread(pairs.genuine)}")
    print(f"impostor  {_spread(pairs.impostor)}")
    print("threshold      FAR      FRR")
    thresholds = np.arange(0.0, 0.8 + STEP / 2, STEP)
    for row in zip(thresholds, pairs.far(thresholds), pairs.frr(thresholds), strict=True):
        print("{:9.2f}  {:7.4f}  {:7.4f}".format(*row))
    at, rate = equal_error(pairs)
    print(f"equal error rate {rate:.4f} at {at:.3f}")
    print(
        f"recommended threshold {chosen.threshold:.2f} for FAR {target:g}: "
        f"observed FAR {chosen.far:.4f} (true FAR likely below {chosen.far_bound:.4f}), "
        f"FRR {chosen.frr:.4f}, pair accuracy {pairs.accuracy(chosen.threshold):.4f}"
    )
    if chosen.extrapolated:
        print(
            f"{len(pairs.impostor)} impostor pairs cannot show a FAR of {target:g}; the threshold "
            "comes from the shape of their distribution. More people make it surer."
        )
    if chosen.threshold != pack.threshold:
        print(f"the pack's own threshold is {pack.threshold:g} ({pack.calibration.data})")


def _spread(values: np.typing.NDArray[np.float64]) -> str:
    low, high = values[0], values[-1]
    return f"{low:.3f} … {high:.3f}, mean {values.mean():.3f}, deviation {values.std():.3f}"


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value
