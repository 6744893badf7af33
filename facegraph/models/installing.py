"""Installing a pack: fetch, check, prepare, move into place.

A file appears under its name only whole and checked. The receipt is written last, so a pack is
either installed or not; where optional files lack, the next pull looks for them again. One process
at a time works on a pack; a second waits and finds it done.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from facegraph.errors import ConfigError, ModelMissing, StartupError
from facegraph.models.fetching import FetchFailed, Report, fetch, from_disk
from facegraph.models.insightface_packs import find_insightface_pack, model_paths
from facegraph.models.packfile import FacePackSpec, FileSpec, PackSpec
from facegraph.models.places import (
    RECEIPT,
    PackPlace,
    prepared_mark,
    read_receipt,
    sha256_of,
)


@dataclass(frozen=True, slots=True)
class FileState:
    """One file of a pack as it lies on disk. ``problem`` is empty where all is well; the pack works
    in spite of that of an optional one."""

    name: str
    path: Path
    sha256: str | None
    known: bool
    problem: str
    optional: bool = False


def pull(
    place: PackPlace[PackSpec], *, accept_licence: bool, given: Path | None, report: Report
) -> bool:
    """Bring every file of the pack; False when all of them were there already.

    given: a folder, zip archive, wheel or file of the user's, taken instead of the sources
    Raises ConfigError where the licence wants to be accepted, ModelMissing where a file cannot
    be had or its digest is not the expected one. Of optional files that is only reported.
    """
    spec = place.spec
    if is_complete(place):
        return False
    if not spec.licence.permissive and not accept_licence:
        raise ConfigError(
            f"pack {spec.name} has a licence that is not permissive ({spec.licence.name}); "
            f"to accept it run: facegraph models pull {spec.name} --accept-license"
        )
    with _locked(place.home) as work:
        if is_complete(place):
            return False
        installed = is_installed(place)
        for file in _all_files(place):
            if file.name in spec.optional:
                _install_optional(file, place, work, given, report)
            elif not installed:
                _install(file, place, work, given, report)
        _write_receipt(place)
    return True


def is_complete(place: PackPlace[PackSpec]) -> bool:
    """Whether the optional files are there, too."""
    return is_installed(place) and (
        _insightface(place) is not None or not any(state.problem for state in verify(place))
    )


def is_installed(place: PackPlace[PackSpec]) -> bool:
    """Whether the pack works."""
    foreign = _insightface(place)
    if foreign is None:
        return all(state.optional or not state.problem for state in verify(place))
    try:
        find_insightface_pack(foreign)
    except StartupError:
        return False
    return True


def verify(place: PackPlace[PackSpec]) -> list[FileState]:
    """What each file of the pack is like, in the order of the pack file.

    An InsightFace pack may hold other files than the known ones, so what is there is told.
    """
    foreign = _insightface(place)
    if foreign is not None and model_paths(foreign):
        return [_insightface_state(place, path) for path in model_paths(foreign)]
    receipt = read_receipt(place.home)
    return [
        replace(state, optional=file.name in place.spec.optional)
        for file in _all_files(place)
        for state in _states(file, place.folders, receipt)
    ]


def _insightface(place: PackPlace[PackSpec]) -> PackPlace[FacePackSpec] | None:
    spec = place.spec
    if isinstance(spec, FacePackSpec) and spec.layout == "insightface":
        return PackPlace(spec, place.folders, place.asked)
    return None


def _insightface_state(place: PackPlace[PackSpec], path: Path) -> FileState:
    found = sha256_of(path)
    return FileState(path.name, path, found, found == place.spec.file(path.name).sha256, "")


def _all_files(place: PackPlace[PackSpec]) -> tuple[FileSpec, ...]:
    spec = place.spec
    return spec.files or tuple(spec.file(name) for name in (*spec.opened, *spec.optional))


def _states(
    file: FileSpec, folders: tuple[Path, ...], receipt: dict[str, str]
) -> Iterator[FileState]:
    source = _state(file.name, folders)
    here = source.path == folders[0] / file.name
    wanted = file.sha256 or (receipt.get(file.name) if here else None)
    if source.sha256 is not None and wanted is not None:
        problem = "" if source.sha256 == wanted else f"damaged: expected {wanted}"
        source = replace(source, known=not problem, problem=problem)
    yield source
    if file.prepare:
        prepared = _state(file.runnable, folders)
        if prepared.sha256 is not None:
            as_installed = receipt.get(file.runnable) == prepared_mark(file, prepared.sha256)
            problem = "" if as_installed else "not what this version installs"
            prepared = replace(prepared, known=as_installed, problem=problem)
        yield prepared


def _state(name: str, folders: tuple[Path, ...]) -> FileState:
    path = next((f / name for f in folders if (f / name).is_file()), folders[0] / name)
    if not path.is_file():
        return FileState(name, path, None, False, "missing")
    return FileState(name, path, sha256_of(path), False, "")


def _install(
    file: FileSpec, place: PackPlace[PackSpec], work: Path, given: Path | None, report: Report
) -> None:
    target = place.home / file.name
    wanted = file.sha256 or read_receipt(place.home).get(file.name)
    if not _is_file(target, wanted):
        beside = [f / file.name for f in place.folders[1:] if _is_file(f / file.name, file.sha256)]
        given = given or next(iter(beside), None)
        report(f"{file.name}" + (f" ({file.bytes / 1e6:.1f} MB)" if file.bytes else ""))
        _obtain(file, work, given, report).replace(_parent_made(target))
    if file.prepare:
        from facegraph.models.preparing import prepare  # onnx is only needed here

        report(f"preparing {file.name}: {', '.join(file.prepare)}")
        write_atomically(place.home / file.runnable, prepare(target.read_bytes(), file.prepare))


def _install_optional(
    file: FileSpec, place: PackPlace[PackSpec], work: Path, given: Path | None, report: Report
) -> None:
    if not any(s.problem for s in _states(file, place.folders, read_receipt(place.home))):
        return
    try:
        _install(file, place, work, given, report)
    except ModelMissing as error:
        report(f"going on without {file.name}, which {place.spec.name} can do without: {error}")


def _is_file(path: Path, sha256: str | None) -> bool:
    return path.is_file() and sha256 in (None, sha256_of(path))


def _obtain(file: FileSpec, work: Path, given: Path | None, report: Report) -> Path:
    if given is not None:
        return _checked(from_disk(given, file.name, work), file, work)
    failures = []
    for source in file.sources:
        try:
            return _checked(fetch(source, work, report), file, work)
        except FetchFailed as error:
            report(f"  not from {source}: {error}")
            failures.append(f"{source}: {error}")
    why = "; ".join(failures) or "the pack file names no source"
    raise ModelMissing(f"{file.name} cannot be had: {why}. A copy of yours: --from PATH")


def _checked(path: Path, file: FileSpec, work: Path) -> Path:
    found = sha256_of(path)
    if file.sha256 in (None, found):
        return path
    shutil.rmtree(work)  # with the archive it came out of, or the next try would find that again
    work.mkdir()
    raise FetchFailed(f"SHA-256 is {found}, expected {file.sha256}")


def _write_receipt(place: PackPlace[PackSpec]) -> None:
    receipt = {}
    for file in _all_files(place):
        if not all((place.home / name).is_file() for name in {file.name, file.runnable}):
            continue  # optional, or it lies beside the pack file
        receipt[file.name] = sha256_of(place.home / file.name)
        if file.prepare:
            receipt[file.runnable] = prepared_mark(file, sha256_of(place.home / file.runnable))
    write_atomically(place.home / RECEIPT, json.dumps(receipt, indent=2).encode() + b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    fresh = _parent_made(path).with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


def _parent_made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _locked(home: Path) -> Iterator[Path]:
    """Hold the pack's lock; gives the folder for partial files, which outlives a failed try."""
    work = home.parent / f".{home.name}.download"
    work.mkdir(parents=True, exist_ok=True)
    with (home.parent / f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work.mkdir(parents=True, exist_ok=True)
        yield work
        shutil.rmtree(work)
