"""``facegraph import`` and ``facegraph export``: people from old systems, and as files."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegraph.config import IngressTuning, Settings, settings_from
from facegraph.errors import ConfigError, InvalidRequest
from facegraph.models.packs import FacePack, find_pack
from facegraph.store import open_store
from facegraph.store.collections import DEFAULT
from facegraph.types import Contract

if TYPE_CHECKING:
    from facegraph.importing.dataset_files import Exported
    from facegraph.importing.old_tables import System
    from facegraph.importing.report import Report
    from facegraph.service import Service

LIMIT = 100_000
"""Entries of a dataset file, where no ``--limit`` is given."""

SHOWN = 20


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    importing = subparsers.add_parser(
        "import", help="people from an old system's database, or from a dataset.json"
    ).add_subparsers(metavar="what", required=True)
    for name in ("smartav", "frv2"):
        _register_old(name, importing)

    reading = importing.add_parser("dataset", help="labelled embeddings, in either form of gnosis")
    reading.add_argument("file", type=Path)
    reading.add_argument(
        "--contract",
        metavar="ID",
        required=True,
        help="what the embeddings were made under, since the file does not say: `active` for the "
        "active face pack's; those of another go into a collection of their own",
    )
    reading.add_argument("--limit", type=_count, default=LIMIT, help=f"entries; default: {LIMIT}")
    reading.set_defaults(run=run_import_dataset)
    add_common(reading, "default, or dataset-imported for another contract")
    _add_report(reading)

    exporting = subparsers.add_parser(
        "export", help="a collection as a dataset.json"
    ).add_subparsers(metavar="what", required=True)
    writing = exporting.add_parser("dataset", help="labelled embeddings, as gnosis reads them")
    writing.add_argument("file", type=Path)
    writing.set_defaults(run=run_export_dataset)
    add_common(writing, DEFAULT)


def _register_old(
    name: str, importing: argparse._SubParsersAction[argparse.ArgumentParser]
) -> None:
    parser = importing.add_parser(
        name,
        help=f"{name}'s faces from its PostgreSQL, which is only read",
        description="Without --images the old vectors are kept, in a collection of their own: "
        "another model made them. With --images the pictures are embedded anew.",
    )
    parser.add_argument(
        "url",
        help="postgresql://user@host/database; the password there, in PGPASSWORD or in ~/.pgpass",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="pictures: ID.jpg, ID_anything.jpg, or any name in a folder ID",
    )
    parser.set_defaults(run=run_import_old, system=name)
    add_common(parser, f"{name}-imported, or default with --images")
    _add_report(parser)


def add_common(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--collection", type=_collection_id, metavar="C", help=f"default: {default}"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the service's serve_config.yaml, where it names a database or a face pack",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write every rejection there, as JSON lines"
    )


def run_import_old(options: argparse.Namespace) -> int:
    from facegraph.importing.old_tables import SYSTEMS

    work = _import_vectors if options.images is None else _import_pictures
    return _counted(options, partial(work, options, SYSTEMS[options.system]))


async def _import_vectors(options: argparse.Namespace, system: System, report: Report) -> None:
    from facegraph.importing.collections import contract_of_old, own_collection
    from facegraph.importing.from_vectors import import_vectors
    from facegraph.importing.old_tables import open_old

    collection_id = options.collection or f"{system.name}-imported"
    async with open_old(options.url, system) as old, open_store(settings_of(options)) as store:
        contract = contract_of_old(system.name, await old.dimension())
        await own_collection(store, collection_id, contract, source=system.name)
        print(
            f"{system.name}'s vectors are kept as they are, {contract.dimension} numbers each, in "
            f"the collection {collection_id!r} under the contract {contract.id}.\n"
            "The active face pack's searches there are refused; with --images FOLDER people are "
            "embedded anew.",
            flush=True,
        )
        with _progress(report, await old.count(system.vectors)):
            await import_vectors(old, store, collection_id, contract, report)


async def _import_pictures(options: argparse.Namespace, system: System, report: Report) -> None:
    from facegraph.importing.collections import active_collection
    from facegraph.importing.from_pictures import import_pictures
    from facegraph.importing.old_tables import open_old
    from facegraph.importing.pictures import PictureFolder

    collection_id = options.collection or DEFAULT
    folder = PictureFolder(options.images)
    async with open_old(options.url, system) as old, _service(settings_of(options)) as service:
        await active_collection(service.store, collection_id, service.contract)
        print(
            f"{system.name}'s people are embedded anew from the pictures in {options.images}, by "
            f"the face pack {service.pack.name},\nin the collection {collection_id!r} under the "
            f"contract {service.contract.id}. The old vectors are not used.",
            flush=True,
        )
        with _progress(report, None):
            await import_pictures(old, folder, service, collection_id, report)
    print(f"{folder.unclaimed} files or folders belong to no id")


def run_import_dataset(options: argparse.Namespace) -> int:
    return _counted(options, partial(_import_dataset, options))


async def _import_dataset(options: argparse.Namespace, report: Report) -> None:
    from facegraph.importing.collections import active_collection, own_collection
    from facegraph.importing.dataset_files import import_dataset
    from facegraph.importing.dataset_reading import measure

    settings = settings_of(options)
    extent = await asyncio.to_thread(measure, options.file, options.limit)
    pack = find_pack(settings)
    contract, foreign = _contract(options.contract, pack, extent.dimension)
    collection_id = options.collection or ("dataset-imported" if foreign else DEFAULT)
    async with open_store(settings) as store:
        if foreign:
            await own_collection(store, collection_id, contract, source="dataset.json")
        else:
            await active_collection(store, collection_id, contract)
        print(
            f"{extent.entries} entries are taken for embeddings of the contract {contract.id}"
            + (f",\nwhich the active face pack {pack.name} does not make: " if foreign else ": ")
            + f"{contract.dimension} numbers each, into the collection {collection_id!r}.",
            flush=True,
        )
        with _progress(report, extent.entries):
            await import_dataset(options.file, store, collection_id, contract, report)


def run_export_dataset(options: argparse.Namespace) -> int:
    exported = asyncio.run(_export_dataset(options))
    renamed = list(exported.renamed.items())
    for subject_id, label in renamed[:SHOWN]:
        _complain(f"the name of subject {subject_id!r} is shared or too long: written as {label!r}")
    if len(renamed) > SHOWN:
        _complain(f"… and {len(renamed) - SHOWN} more")
    print(
        f"{exported.samples} embeddings of {exported.subjects} subjects, contract "
        f"{exported.contract_id}, in {options.file}"
    )
    return 0


async def _export_dataset(options: argparse.Namespace) -> Exported:
    from facegraph.importing.dataset_files import export_dataset

    async with open_store(settings_of(options)) as store:
        return await export_dataset(store, options.collection or DEFAULT, options.file)


@asynccontextmanager
async def _service(settings: Settings) -> AsyncIterator[Service]:
    """The service's own way from a picture to a sample, in this process."""
    # Slow to import, and every command of the command line imports this module.
    from facegraph.local import LocalGraph
    from facegraph.service import Service

    pack = find_pack(settings)
    async with open_store(settings) as store:
        graph = LocalGraph(settings, store)
        try:
            yield Service(graph, store, settings, IngressTuning(), pack)
        finally:
            await graph.close()


def _contract(given: str, pack: FacePack, dimension: int | None) -> tuple[Contract, bool]:
    """The contract of a file's embeddings, and whether it is another than the active pack's."""
    from facegraph.importing.collections import named_contract

    if given in {"active", pack.contract.id}:
        return pack.contract, False
    if dimension is None:
        raise InvalidRequest("the file has no embedding to take the contract's dimension from")
    return named_contract(given, dimension), True


def settings_of(options: argparse.Namespace) -> Settings:
    from facegraph.supervisor import configuration

    if options.config is None:
        return settings_from()
    return configuration.read(options.config, None).settings


def _counted(
    options: argparse.Namespace, work: Callable[[Report], Coroutine[Any, Any, None]]
) -> int:
    """Runs an import and says what it did, also when it ends early; the exit status."""
    with _report(options.report) as report:
        try:
            asyncio.run(work(report))
        except BaseException:
            if report.read:
                _say(report)
                print("not complete; the same command goes on where this one ended", flush=True)
            raise
        _say(report)
    return 1 if report.rejected else 0


def _say(report: Report) -> None:
    print(f"{report.read} read")
    print(f"subjects: {report.new_subjects} new, {report.known_subjects} there already")
    print(f"samples:  {report.new_samples} new, {report.known_samples} there already")
    print(f"rejected: {report.rejected.total()}")
    for code, times in report.rejected.most_common():
        print(f"  {times:7} {code}")
    for one in report.first:
        item = "" if one.item is None else f" {one.item!r}"
        _complain(f"rejected: {one.id!r}{item}: {one.detail} ({one.code})")
    if (more := report.rejected.total() - len(report.first)) > 0:
        _complain(f"… and {more} more; --report FILE writes them all")


@contextmanager
def _report(path: Path | None) -> Iterator[Report]:
    from facegraph.importing.report import Report

    if path is None:
        yield Report()
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    with file:
        yield Report(file)


@contextmanager
def _progress(report: Report, total: int | None) -> Iterator[None]:
    """A bar that counts the report's items; only on a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=" read", disable=None) as bar:
        report.step = bar.update
        yield


def _complain(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _collection_id(text: str) -> str:
    from facegraph.ids import is_id

    if not is_id(text):
        raise argparse.ArgumentTypeError("no id: 1-128 letters, digits or ._-@:")
    return text


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
