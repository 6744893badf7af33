"""Whose picture a path is, by its form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from facegraph.errors import ConfigError

SUBJECT = "{subject}"
PATTERN = f"{SUBJECT}/**"
"""A folder for each subject, however deep its pictures lie."""

MAX_PATTERN = 200
MAX_STARS = 8
MAX_PATH = 1024

_SIGNS = re.compile(r"(\*\*|\*)")


class Pattern:
    """Whose picture a path is: ``{subject}/**``, ``{subject}_*``, ``*/{subject}/**``.

    ``*`` is any text without a slash, ``**`` any text; ``{subject}`` is a text without a slash, as
    long as it may be. The path's suffix does not count. ConfigError for no pattern.
    """

    def __init__(self, text: str) -> None:
        if text.count(SUBJECT) != 1 or len(text) > MAX_PATTERN or text.count("*") > MAX_STARS:
            raise ConfigError(
                f"the pattern {text[:MAX_PATTERN]!r} must have {SUBJECT} once and few stars, like "
                f"{PATTERN} or {SUBJECT}_*"
            )
        self.text = text
        before, after = (_SIGNS.split(part) for part in text.split(SUBJECT))
        self._before = before
        self._after = [part[::-1] for part in reversed(after)]

    def subject(self, path: str) -> str | None:
        """Whose picture ``path`` is; None where it does not fit, or in several folders of it."""
        stem = re.sub(r"\.[^./]*$", "", path)
        begins = _reached(self._before, stem)
        ends = {len(stem) - end for end in _reached(self._after, stem[::-1])}
        found = []
        begin = 0
        for segment in stem.split("/"):
            end = begin + len(segment)
            first = min((at for at in begins if begin <= at < end), default=end)
            last = max((at for at in ends if begin < at <= end), default=begin)
            if first < last:
                found.append(stem[first:last])
            begin = end + 1
        return found[0] if len(found) == 1 else None


def _reached(parts: Sequence[str], text: str) -> set[int]:
    """Where ``parts`` can end that begin where ``text`` does.

    All places at once, part after part: its time is bounded by their product, whatever they are.
    """
    at = {0}
    for part in parts:
        if part == "**":
            at = set(range(min(at), len(text) + 1)) if at else at
        elif part == "*":
            at = _along(at, text)
        else:
            at = {begin + len(part) for begin in at if text.startswith(part, begin)}
    return at


def _along(at: Iterable[int], text: str) -> set[int]:
    """From each place up to the next slash."""
    reached: set[int] = set()
    for begin in sorted(at):
        if begin not in reached:
            slash = text.find("/", begin)
            reached.update(range(begin, (len(text) if slash < 0 else slash) + 1))
    return reached


def check_layout(pattern: str, paths: Iterable[str]) -> None:
    """ConfigError where the default pattern would make one subject of several people's folders."""
    if pattern != PATTERN:
        return
    tops: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        top, *others = path.split("/")[:3]
        if not others:
            continue  # a picture beside the folders
        tops.add(top)
        if len(tops) > 1:
            return
        if len(others) > 1 and len(folders) < 2:
            folders.add(others[0])
    if len(folders) > 1:
        one, two = sorted(folders)
        raise ConfigError(
            f"every picture lies in the one folder {min(tops)!r}, in several folders of it "
            f"({one!r}, {two!r}): by the pattern {PATTERN} all would be one subject. Give the "
            f"pattern */{PATTERN} for a subject each, {SUBJECT}/*/** if they are one"
        )
