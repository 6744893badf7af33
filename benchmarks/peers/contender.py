"""What a turn needs to know of a contender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import Answer
from benchmarks.pictures import Picture
from benchmarks.processes import Group

SAMPLES = 1000
"""In every gallery that takes embeddings: the people of the portraits, and a random crowd."""

Found = tuple[int | None, frozenset[str] | None]
"""How many faces an answer tells, and who was recognised; None: it does not tell. Who counts no
faces is taken to look at one of them."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A running service.

    ports: its clients are spread over them
    request: the whole request for the bytes of a picture in its best form
    found: what an answer of status 200 tells; ValueError or KeyError where it cannot be read
    """

    name: str
    ports: tuple[int, ...]
    group: Group
    request: Callable[[bytes, str], bytes]
    found: Callable[[bytes], Found]

    def requests(self, picture: Picture) -> list[bytes]:
        return [self.request(path.read_bytes(), media_type(path)) for path in picture.paths]

    def wrong(self, picture: Picture, place: int, answer: Answer) -> str | None:
        """What is wrong with an answer; None where it is right."""
        if answer.status != 200:
            return f"{answer.status} {answer.body[:200]!r}"
        try:
            faces, people = self.found(answer.body)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return f"unreadable: {error!r}"
        if faces is not None and faces != picture.faces:
            return f"{faces} faces in {picture.paths[place].name}"
        expected = picture.people[place]
        one_of_them = faces is None and people and people < expected
        if people is not None and people != expected and not one_of_them:
            return f"{sorted(people)} in {picture.paths[place].name}, not {sorted(expected)}"
        return None


def media_type(path: Path) -> str:
    return {".jpg": "image/jpeg", ".png": "image/png"}[path.suffix]


def multipart(fields: dict[str, str], name: str, image: bytes, media: str) -> tuple[bytes, str]:
    """A form with one file, and its content type."""
    boundary = "benchmark-f5b1c0d2"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'Content-Disposition: form-data; name="{name}"; filename="picture"'
    parts.append(f"--{boundary}\r\n{head}\r\nContent-Type: {media}\r\n\r\n".encode())
    end = f"\r\n--{boundary}--\r\n".encode()
    return b"".join([*parts, image, end]), f"multipart/form-data; boundary={boundary}"


def ports_of(urls: str) -> tuple[int, ...]:
    """The ports of ``http://127.0.0.1:PORT``, with commas between."""
    return tuple(int(url.rstrip("/").rpartition(":")[2]) for url in urls.split(","))
