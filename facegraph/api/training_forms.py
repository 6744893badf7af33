"""Forms of very many pictures to train with.

Their pictures lie one after the other in one file, on disk where they are large: a file of
its own for each would be thousands of open files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from facegraph.api.parsing import MAX_FIELDS, read_form, require_image_size
from facegraph.config import IngressTuning

IMAGES, ARCHIVE = "images", "archive"

_LARGE = 256 * 1024
_LABEL_BYTES = 2048
"""Of one label in a form, however it is escaped, with what stands around it."""


@dataclass(frozen=True, slots=True, eq=False)
class SentPicture:
    """name: of the file, as sent"""

    name: str | None
    data: bytes | Span

    def read(self) -> bytes:
        """Its compressed bytes; it may block."""
        return self.data if isinstance(self.data, bytes) else self.data.whole()


@dataclass(frozen=True, slots=True, eq=False)
class TrainingUpload:
    """What a request brought. pictures: in the order sent; archive: very many in one file."""

    pictures: tuple[SentPicture, ...] = ()
    archive: BinaryIO | None = None


class Span:
    """What one upload wrote into a file that several share, one after the other."""

    def __init__(self, shared: BinaryIO) -> None:
        self._shared = shared
        self._begin = 0
        self._length = 0

    def write(self, data: bytes) -> int:
        if not self._length:
            self._begin = self._shared.tell()  # uploads before it may still have been to be written
        self._length += len(data)
        return self._shared.write(data)

    def seek(self, position: int) -> int:
        return position  # Starlette does so when all is written

    def close(self) -> None:
        """The file is its owner's."""

    def whole(self) -> bytes:
        self._shared.seek(self._begin)
        return self._shared.read(self._length)


@asynccontextmanager
async def read_training_form(
    request: Request, tuning: IngressTuning, shared: BinaryIO
) -> AsyncIterator[FormData]:
    """A form whose files ``images`` are :class:`Span` of ``shared``."""
    most = tuning.max_training_pictures
    multipart = partial(_multipart, shared, most)
    max_field_bytes = 2**20 + _LABEL_BYTES * most
    async with read_form(
        request, tuning, tuning.max_bulk_bytes, max_field_bytes, multipart
    ) as form:
        yield form


def picture_of(upload: UploadFile, tuning: IngressTuning) -> SentPicture:
    """A file ``images`` of such a form; ImageTooLarge."""
    require_image_size(upload.size or 0, tuning)
    assert isinstance(upload.file, Span)
    return SentPicture(upload.filename, upload.file)


async def _multipart(
    shared: BinaryIO, most_pictures: int, request: Request, max_text: int
) -> FormData:
    async with aclosing(request.stream()) as stream:
        return await _Parser(request, stream, shared, most_pictures, max_text).parse()


class _Parser(MultiPartParser):
    """``max_text`` is of all fields together: each label may be one."""

    def __init__(
        self, request: Request, stream: Any, shared: BinaryIO, most_pictures: int, max_text: int
    ) -> None:
        super().__init__(
            request.headers,
            stream,
            max_files=most_pictures + 1,
            max_fields=most_pictures + MAX_FIELDS,
            max_part_size=max_text,
        )
        self.spool_max_size = _LARGE
        self._shared = shared
        self._most_pictures = most_pictures
        self._text_left = max_text
        self._others = 0

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        upload = self._current_part.file
        if upload is None:
            return
        if self._current_part.field_name != IMAGES:
            self._others += 1
            if self._others > 1:
                raise MultiPartException(f"a form has files {IMAGES!r}, or one {ARCHIVE!r}")
            return
        if self._current_files - self._others > self._most_pictures:
            raise MultiPartException(f"a form may have {self._most_pictures} pictures")
        self._files_to_close_on_error.pop().close()
        upload.file = cast(BinaryIO, Span(self._shared))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._text_left -= end - start
            if self._text_left < 0:
                raise MultiPartException("its fields are too long")
        super().on_part_data(data, start, end)
