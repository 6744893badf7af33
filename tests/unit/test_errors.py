"""The error tree: every class drawn, every code unique, every one crosses a process border."""

from __future__ import annotations

import pickle
import re

import pytest

from facegraph import errors
from facegraph.api.problems import headers


def tree(kind: type[errors.FacegraphError]) -> list[type[errors.FacegraphError]]:
    return [kind, *(k for child in kind.__subclasses__() for k in tree(child))]


ALL = [kind for kind in tree(errors.FacegraphError) if kind.__module__ == errors.__name__]
SENT = [kind for kind in ALL if not issubclass(kind, errors.StartupError)]


def test_the_drawing_shows_every_error() -> None:
    drawn = re.findall(r"^[ │├└─]*([A-Z]\w+)(?: |$)", errors.__doc__ or "", re.MULTILINE)
    assert set(drawn) >= {kind.__name__ for kind in ALL}


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in SENT]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling(kind: type[errors.FacegraphError]) -> None:
    error = kind("what happened", ({"field": "x", "detail": "bad"},))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.errors) == (kind, "what happened", error.errors)


@pytest.mark.parametrize(
    ("kind", "status", "retry_after"),
    [
        (errors.InvalidRequest, 400, None),
        (errors.CollectionNotFound, 404, None),
        (errors.SubjectExists, 409, None),
        (errors.ImageTooLarge, 413, None),
        (errors.FaceNotFound, 422, None),
        (errors.RateLimited, 429, "1"),
        (errors.GalleryBehind, 503, "1"),
        (errors.ModelUnavailable, 503, "30"),
    ],
)
def test_problems(kind: type[errors.FacegraphError], status: int, retry_after: str | None) -> None:
    body = kind("said").problem()
    assert (body["status"], body["code"], body["detail"]) == (status, kind.code, "said")
    assert body["errors"] == []
    assert headers(kind("said")).get("retry-after") == retry_after


def test_every_unavailable_says_when_to_come_back() -> None:
    for kind in SENT:
        assert (kind.retry_after_s is not None) == (kind.status in (429, 503)), kind
