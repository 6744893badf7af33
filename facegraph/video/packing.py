"""Frames as JPEG files in a multipart body or a zip, written as they come."""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import cv2

from facegraph.errors import FacegraphError
from facegraph.types import ByteArray
from facegraph.video.reading import Frame
from facegraph.video.sampling import Sampler


class Packer(Protocol):
    """A body in the making: each method answers its next bytes."""

    media_type: str

    def begin(self, description: Mapping[str, Any]) -> bytes: ...

    def frame(self, frame: Frame, jpeg: bytes) -> bytes: ...

    def end(self, metadata: Mapping[str, Any]) -> bytes: ...

    def fail(self, problem: Mapping[str, Any]) -> bytes: ...


def packed(packer: Packer, quality: int, sampler: Sampler) -> Iterator[bytes]:
    """The whole body. What goes wrong after its beginning is told in its last part."""
    yield packer.begin(sampler.description())
    try:
        for frame in sampler.frames():
            yield packer.frame(frame, jpeg(frame.rgb, quality))
    except FacegraphError as error:
        yield packer.fail(error.problem())
    else:
        yield packer.end(sampler.metadata() | {"truncated": sampler.truncated})


def jpeg(rgb: ByteArray, quality: int) -> bytes:
    """``rgb`` (h, w, 3) as a JPEG file."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


class Multipart:
    """``multipart/mixed``: what is known at first, a JPEG a frame, then the metadata.

    A frame's part has its index and time in ``x-facegraph-index`` and ``x-facegraph-time-s``; the
    last part is the metadata, or the problem that ended the reading.
    """

    def __init__(self) -> None:
        self._boundary = f"facegraph-{secrets.token_hex(16)}"
        self.media_type = f"multipart/mixed; boundary={self._boundary}"

    def begin(self, description: Mapping[str, Any]) -> bytes:
        return self._part("application/json", _json(description))

    def frame(self, frame: Frame, jpeg: bytes) -> bytes:
        return self._part(
            "image/jpeg",
            jpeg,
            f'content-disposition: attachment; filename="{_name(frame)}"',
            f"x-facegraph-index: {frame.index}",
            f"x-facegraph-time-s: {frame.time_s:.6f}",
        )

    def end(self, metadata: Mapping[str, Any]) -> bytes:
        return self._part("application/json", _json(metadata)) + self._close()

    def fail(self, problem: Mapping[str, Any]) -> bytes:
        return self._part("application/problem+json", _json(problem)) + self._close()

    def _part(self, media_type: str, data: bytes, *headers: str) -> bytes:
        lines = (
            f"--{self._boundary}",
            f"content-type: {media_type}",
            f"content-length: {len(data)}",
            *headers,
            "",
            "",
        )
        return "\r\n".join(lines).encode() + data + b"\r\n"

    def _close(self) -> bytes:
        return f"--{self._boundary}--\r\n".encode()


class Zip:
    """``frames/000006.jpg``, …, and last ``metadata.json``, or ``problem.json`` in its place."""

    media_type = "application/zip"

    def __init__(self) -> None:
        self._written = _Written()
        self._file = zipfile.ZipFile(self._written, "w")

    def begin(self, description: Mapping[str, Any]) -> bytes:
        return b""

    def frame(self, frame: Frame, jpeg: bytes) -> bytes:
        return self._add(f"frames/{_name(frame)}", jpeg)

    def end(self, metadata: Mapping[str, Any]) -> bytes:
        return self._add("metadata.json", _json(metadata)) + self._close()

    def fail(self, problem: Mapping[str, Any]) -> bytes:
        return self._add("problem.json", _json(problem)) + self._close()

    def _add(self, name: str, data: bytes) -> bytes:
        self._file.writestr(zipfile.ZipInfo(name), data)  # with a date of its own: reproducible
        return self._written.take()

    def _close(self) -> bytes:
        self._file.close()
        return self._written.take()


class _Written:
    """Takes what is written and forgets it when it was taken; it cannot seek."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes, /) -> int:
        self._data += data
        return len(data)

    def flush(self) -> None:
        """Nothing waits anywhere."""

    def close(self) -> None:
        """Nor is anything open."""

    def take(self) -> bytes:
        data, self._data = bytes(self._data), bytearray()
        return data


def _name(frame: Frame) -> str:
    return f"{frame.index:06d}.jpg"


def _json(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, allow_nan=False).encode()
