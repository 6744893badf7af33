"""``facegraph enroll``: very many pictures into a collection."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from facegraph.bulk.patterns import PATTERN
from facegraph.commands.enroll_progress import progress, say, say_first
from facegraph.commands.transfer import add_common, settings_of
from facegraph.errors import ConfigError
from facegraph.store.collections import DEFAULT

if TYPE_CHECKING:
    from facegraph.bulk.items import Source
    from facegraph.bulk.known import KnownPhotos
    from facegraph.bulk.mapping import Map
    from facegraph.bulk.report import BulkReport, Write
    from facegraph.bulk.sampling import Rules
    from facegraph.config import Settings

IN_ONE_PROCESS = 4
"""Cores up to which one process uses them all; on more, Python's lock holds its threads up."""

NICENESS = 15
"""A service on the same machine goes before, as before Ray's own workers."""


DESCRIPTION = f"""\
Enrols a picture after the other, in transactions of 200, and counts what it leaves out.

SOURCE is one of
  a folder      pictures whose paths say whose they are: --pattern, by default {PATTERN},
                a folder for each subject
  a .csv        columns subject_id and path or url, and if wanted name, external_id, metadata (JSON)
  a .parquet    the same columns, or the pictures themselves in a column image; or a folder of them
  a .zip        pictures as in a folder, or with one .csv beside them

No service is needed, and one that runs is not disturbed: the pictures are read, detected and
embedded here, at the lowest priority, and only enrolled in the database that both use. Up to
{IN_ONE_PROCESS} cores this one process does it; on more, or with --address, Ray Data does: on the
cluster that --address or RAY_ADDRESS names, else in a Ray instance of its own on this machine.

Killed or ended, the same command goes on where it was: pictures that are samples of their subject
already are known by what they are, whatever they are called, and skipped.

Exit status: 0 all enrolled or there already, 1 some rejected or not complete, 2 asked for wrongly.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "enroll",
        help="a folder, CSV, Parquet or zip of pictures into a collection, however many",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="folder, .csv, .parquet or .zip")
    add_common(parser, DEFAULT)
    _add_what(parser)
    _add_where(parser)
    parser.set_defaults(run=run)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pattern",
        default=PATTERN,
        help="whose picture a path is: {subject} as long as it may be without a slash, * any text "
        "without a slash, ** any text, the suffix left out; {subject}_* (mary_ann_1.jpg is of "
        "mary_ann) or */{subject}/** for example; default: %(default)s",
    )
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help="what paths in a table start from; default: its"
    )
    parser.add_argument(
        "--face",
        choices=("only", "largest"),
        default="only",
        help="of a picture with several faces: only rejects it, largest takes the largest",
    )
    parser.add_argument(
        "--min-quality", type=_quality, metavar="Q", help="0-1; reject faces of less quality"
    )
    parser.add_argument(
        "--rejected", type=Path, metavar="FILE", help="every item left out: .csv, else JSON lines"
    )


def _add_where(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--local", action="store_true", help="in this process, however many cores there are"
    )
    where.add_argument(
        "--address",
        metavar="RAY",
        help="of the Ray cluster that does it; local: a Ray instance of its own on this machine",
    )
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="pictures at a time; default: the cores"
    )
    parser.add_argument(
        "--worker-gpus",
        type=_fraction,
        default=0.0,
        metavar="G",
        help="share of a GPU for each worker of a cluster; default: 0, the CPU",
    )


def run(options: argparse.Namespace) -> int:
    from facegraph.bulk.report import BulkReport

    report = BulkReport(keep=0)
    began = time.monotonic()
    try:
        asyncio.run(_enroll(options, report))
    except BaseException:
        if report.read:
            say(report, began)
            print("not complete; the same command goes on where this one ended", flush=True)
        raise
    say(report, began)
    return 1 if report.rejected else 0


async def _enroll(options: argparse.Namespace, report: BulkReport) -> None:
    from facegraph.bulk.enrolling import enrol_outcomes
    from facegraph.bulk.known import known_photos
    from facegraph.bulk.opening import open_path
    from facegraph.bulk.sampling import Rules
    from facegraph.config import IngressTuning
    from facegraph.importing.collections import active_collection
    from facegraph.models.packs import find_pack
    from facegraph.store import open_store

    settings = settings_of(options)
    most = IngressTuning().max_image_bytes
    source = open_path(options.source, pattern=options.pattern, root=options.root, max_bytes=most)
    pack = find_pack(settings)
    source.check()
    with _rejections(options.rejected, options.source) as report.write:
        async with open_store(settings) as store:
            _be_nice()  # after the database was started, which others may come to use
            collection_id = options.collection or DEFAULT
            held = await active_collection(store, collection_id, pack.contract)
            rules = Rules(options.face, options.min_quality, held.keep_crops, most)
            known = await known_photos(store, collection_id)
            opened = _mapping(options, settings, rules, known, pack.contract.id)
            async with opened as (mapped, place):
                print(
                    f"{options.source} into the collection {collection_id!r} by the face pack "
                    f"{pack.name}, {place}; {len(known)} pictures are there already",
                    flush=True,
                )
                await asyncio.to_thread(say_first, source)
                async with progress(report, source):
                    await enrol_outcomes(
                        mapped(source), store, collection_id, pack.contract, report
                    )


def _mapping(
    options: argparse.Namespace,
    settings: Settings,
    rules: Rules,
    known: KnownPhotos,
    contract_id: str,
) -> AbstractAsyncContextManager[tuple[Map, str]]:
    address = options.address or os.environ.get("RAY_ADDRESS") or None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = options.workers or cores or 1
    if options.local or (address is None and workers <= IN_ONE_PROCESS):
        return _in_this_process(settings, rules, known, workers)
    bulk = importlib.import_module("deployments.bulk")
    where = bulk.Where(address or "local", options.workers, options.worker_gpus)
    opened: AbstractAsyncContextManager[tuple[Map, str]] = bulk.over_ray(
        where, settings, rules, known, contract_id
    )
    return opened


@asynccontextmanager
async def _in_this_process(
    settings: Settings, rules: Rules, known: KnownPhotos, workers: int
) -> AsyncIterator[tuple[Map, str]]:
    from facegraph.api.fetch import url_fetcher
    from facegraph.bulk.mapping import in_process
    from facegraph.bulk.sampling import Outcome, Sampler
    from facegraph.local_faces import LocalFaces

    faces = await asyncio.to_thread(LocalFaces, settings, threads=workers)
    sampler = Sampler(faces, rules, known, url_fetcher(settings.fetch_urls))

    def mapped(source: Source) -> AsyncGenerator[Sequence[Outcome]]:
        # Twice as many as are detected, so that reading and embedding keep up.
        return in_process(source, sampler, lambda: 2 * workers)

    try:
        yield mapped, f"in this process, {workers} at a time"
    finally:
        await faces.close()


@contextmanager
def _rejections(path: Path | None, source: Path) -> Iterator[Write]:
    """What writes rejections into ``path``; ConfigError where that cannot be, or is the source."""
    from facegraph.bulk.report import writer

    if path is None:
        yield lambda _: None
        return
    if path.exists() and path.samefile(source):
        raise ConfigError(f"{path} is what is enrolled; --rejected needs another file")
    try:
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    with file:
        yield writer(file, as_csv=path.suffix.lower() == ".csv")


def _be_nice() -> None:
    if hasattr(os, "nice"):
        os.nice(max(0, NICENESS - os.nice(0)))


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _quality(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 64:
        raise argparse.ArgumentTypeError("must be from 0 to 64")
    return value
