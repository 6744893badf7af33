"""Clients that ask without pause and keep account of everything that was not as it should be."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

Ask = Callable[[httpx.Client], str | None]
"""Sends requests; tells what was wrong with an answer, None where nothing was."""


def vector(seed: int) -> list[float]:
    """A person: random directions in 128 dimensions are nearly orthogonal."""
    rows = np.random.default_rng(seed).normal(size=128)
    values: list[float] = (rows / np.linalg.norm(rows)).tolist()
    return values


def sent(path: Path) -> dict[str, Any]:
    kind = "png" if path.suffix == ".png" else "jpeg"
    return {"content": path.read_bytes(), "headers": {"content-type": f"image/{kind}"}}


def make_collection(http: httpx.Client, name: str) -> str:
    http.delete(f"/v1/collections/{name}?force=true")
    http.post("/v1/collections", json={"id": name}).raise_for_status()
    return f"/v1/collections/{name}"


@dataclass(slots=True)
class Newcomers:
    """Enrols somebody and looks for them at once: law 4, whoever answers.

    Several clients may share one, and a client starts as many people as it likes.
    """

    path: str
    contract: str
    enrolled: list[int] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __call__(self, http: httpx.Client) -> str | None:
        number = next(self._numbers)
        name, embedding = f"s{number}", vector(number)
        body = {"embeddings": [embedding], "contract": self.contract}
        made = http.post(f"{self.path}/subjects", json={"id": name})
        added = http.post(f"{self.path}/subjects/{name}/samples", json=body)
        if (made.status_code, added.status_code) != (201, 201):
            return f"{made.status_code} {made.text} {added.status_code} {added.text}"
        self.enrolled.append(number)
        return self.look(http, number)

    def look(self, http: httpx.Client, number: int) -> str | None:
        """None where that one is found."""
        probe = {"embedding": vector(number), "contract": self.contract}
        return found(http.post(f"{self.path}/search", json=probe), f"s{number}")


@dataclass(slots=True)
class Recognised:
    """Searches for whom a picture shows."""

    path: str
    picture: dict[str, Any]
    subject: str

    def __call__(self, http: httpx.Client) -> str | None:
        return found(http.post(f"{self.path}/search", **self.picture), self.subject)


@dataclass(slots=True)
class Counted:
    """Finds the faces of a picture: work for the detector alone."""

    picture: dict[str, Any]
    faces: int

    def __call__(self, http: httpx.Client) -> str | None:
        response = http.post("/v1/detect", **self.picture)
        if response.status_code == 200 and len(response.json()["faces"]) == self.faces:
            return None
        return f"{response.status_code} {response.text}"


def found(response: httpx.Response, subject: str) -> str | None:
    """None where the answer decides for ``subject``; of hundreds, some are a little alike."""
    if response.status_code == 200:
        (face,) = response.json()["faces"]
        first = [match["subject_id"] for match in face["matches"][:1]]
        if (face["decision"], first) == ("match", [subject]):
            return None
    return f"{response.status_code} {response.text}"


@dataclass(slots=True)
class Traffic:
    """``answered`` counts what was right; ``wrong`` has the rest, with the second it came in.

    slowest_s: the longest that a client was held up by one of its rounds
    """

    url: str
    answered: int = 0
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def of(self, *clients: Ask, pause_s: float = 0.0) -> Iterator[None]:
        """While this is open, each of ``clients`` asks again and again in a thread of its own."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._repeat, args=(ask, stop, pause_s)) for ask in clients
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def more(self, count: int) -> Callable[[], bool]:
        """Whether so many more were right since now; fails at the first that is not."""
        before = self.answered

        def enough() -> bool:
            assert not self.wrong, "\n".join(self.wrong[:5])
            return self.answered >= before + count

        return enough

    def _repeat(self, ask: Ask, stop: threading.Event, pause_s: float) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not stop.is_set():
                begun = time.monotonic()
                try:
                    said = ask(http)
                except httpx.TransportError as error:
                    said = f"no answer: {error!r}"
                with self._lock:
                    self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
                    if said is None:
                        self.answered += 1
                    else:
                        self.wrong.append(f"{time.strftime('%X')} {said}")
                stop.wait(pause_s)
