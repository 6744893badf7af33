"""The English of ``inventory``: COCO's names as a writer would put them, numbers and lists."""

from __future__ import annotations

from collections.abc import Sequence

NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip

MOST_COUNTED = len(NUMBERS) - 1
"""Larger counts are said as "more than twelve": nobody counts further at a glance."""

SINGULARS = {
    "dining table": "table",
    "tv": "TV",
    "sports ball": "ball",
    "skis": "pair of skis",
    "scissors": "pair of scissors",
    "broccoli": "piece of broccoli",
}
"""Where a label is not what one of the thing is called."""

PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "mouse": "mice",
    "knife": "knives",
    "tv": "TVs",
    "skis": "pairs of skis",
    "scissors": "pairs of scissors",
    "broccoli": "pieces of broccoli",
}

SIBILANTS = ("s", "x", "z", "ch", "sh")
VOWELS = "aeiou"


def singular(label: str) -> str:
    return SINGULARS.get(label, label)


def plural(label: str) -> str:
    """What several are called: "people", "wine glasses", "pairs of skis"."""
    if label in PLURALS:
        return PLURALS[label]
    noun = singular(label)
    return noun + ("es" if noun.endswith(SIBILANTS) else "s")


def some(label: str) -> str:
    """As many as there are people to have them: "horses", "ties", "skis"."""
    return "skis" if label == "skis" else plural(label)


def number(count: int) -> str:
    return NUMBERS[count] if count <= MOST_COUNTED else f"more than {NUMBERS[MOST_COUNTED]}"


def counted(label: str, count: int) -> str:
    """ "a bus", "an apple", "two buses", "more than twelve buses"."""
    if count > 1:
        return f"{number(count)} {plural(label)}"
    noun = singular(label)
    return f"{'an' if noun[0] in VOWELS else 'a'} {noun}"


def counted_more(label: str, count: int) -> str:
    """Of a label that was counted before: "one more person", "eight more people"."""
    if count > MOST_COUNTED:
        return f"many more {plural(label)}"
    return f"{number(count)} more {plural(label) if count > 1 else singular(label)}"


def part_of(label: str, part: int, count: int) -> str:
    """ "one of three horses", "two horses" where part is all, "a horse" where that is one."""
    if part == count:
        return counted(label, count)
    of = plural(label) if count > MOST_COUNTED else f"{number(count)} {plural(label)}"
    return f"{number(part)} of {of}"


def listed(parts: Sequence[str]) -> str:
    """ "a dog", "a dog and a cat", "a dog, a cat and a bird"."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
