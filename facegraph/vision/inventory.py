"""The captioner of machines without a captioning model: a sentence of what the segmenter found.

It never invents: every noun is a label that was found, every number a count, and every relation
follows from the boxes by a rule of ``inventory_relations``. What does not fit into some 25 words
is left out, the least important first; so is what scored low, and what was found twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facegraph.types import Segmentation
from facegraph.vision.inventory_relations import (
    BEING,
    FLYING,
    LARGE,
    Relation,
    Thing,
    in_front,
    near,
    relation,
    side_by_side,
)
from facegraph.vision.inventory_scene import FAR, Group, groups_of
from facegraph.vision.inventory_words import MOST_COUNTED, listed, number, part_of, some

NOTHING = "Nothing that could be recognised."

MAX_WORDS = 25
MAX_CLAUSES = 2
MAX_ITEMS = 4

CLOSE_UP = 0.4
"""A thing whose mask covers this part of the picture was taken from close by."""

MOST_PART = MOST_COUNTED
"""So many of the subject's things at most are said to do what the others do not."""

BACKGROUND = "in the background"
CLOSE = "close up"
SIDES = frozenset(("on the left", "on the right"))


@dataclass(frozen=True, slots=True)
class Clause:
    """A relation of the subject to ``group``, put into words."""

    relation: Relation
    group: Group
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """What is with the subject, and where: "" for just with it."""

    group: Group
    place: str


def sentence(segmentation: Segmentation, *, min_score: float = 0.4) -> str:
    """One sentence about the objects that score at least ``min_score``.

    The same segmentation always gives the same sentence. ``NOTHING`` where there is no object.
    """
    groups = groups_of(segmentation, min_score)
    if not groups:
        return NOTHING
    said = _described(groups[0], groups[1:])
    return said[0].upper() + said[1:] + "."


def _described(subject: Group, others: Sequence[Group]) -> str:
    whole, partial, rest = _clauses(subject, others)
    heads, rest = _heads(subject, whole, rest)
    place = "" if whole or partial else _own_place(subject, alone=not rest)
    places = [_place(group, subject) for group in rest]
    items = [Item(g, "" if at == place else at) for g, at in zip(rest, places, strict=True)]
    if place == CLOSE:
        return f"a close-up of {heads}"
    start = " ".join(part for part in (heads, *(clause.text for clause in whole), place) if part)
    if partial is not None:
        longer = f"{start}, {number(partial.relation.members)} {partial.text},"
        start = longer if len(longer.split()) <= MAX_WORDS else start
    elif whole and all(item.place for item in items):
        start += ","  # what comes is not with the clause's last noun
    chosen: list[Item] = []
    for item in items:
        longer = _with(start, [*chosen, item], place)
        if len(chosen) < MAX_ITEMS and len(longer.split()) <= MAX_WORDS:
            chosen.append(item)
    return _with(start, chosen, place)


def _clauses(
    subject: Group, others: Sequence[Group]
) -> tuple[list[Clause], Clause | None, list[Group]]:
    """What all of the subject does, what a part of it does, and the groups that neither names."""
    whole: dict[int, Clause] = {}
    partial: Clause | None = None
    rest: list[Group] = []
    for group in others:
        found = None if group.more else relation(subject.things, group.things)
        if found is None or found.rank in whole:
            rest.append(group)
            continue
        clause = Clause(found, group, _clause(found, group))
        if MOST_PART < found.used < len(group):
            rest.append(group)
        elif found.members == len(subject) and len(whole) < MAX_CLAUSES:
            whole[found.rank] = clause
        elif partial is None and found.members <= MOST_PART:
            partial = clause
        else:
            rest.append(group)
    if partial is not None and partial.relation.rank in whole:
        rest.insert(0, partial.group)
        partial = None
    return [whole[rank] for rank in sorted(whole)], partial, rest


def _clause(found: Relation, group: Group) -> str:
    """ "riding a horse", "riding horses" of as many people, "riding one of three horses"."""
    total = len(group)
    each = found.members == found.used == total and found.rank != BEING
    if each and (total > 1 or group.label == "skis"):
        return f"{found.words} {some(group.label)}"
    return f"{found.words} {part_of(group.label, found.used, total)}"


def _heads(
    subject: Group, whole: Sequence[Clause], rest: Sequence[Group]
) -> tuple[str, list[Group]]:
    """The subject, joined by up to two groups that lie on the same furniture."""
    rest = list(rest)
    names = [_crowd(subject)]
    if whole and whole[-1].relation.words == "on" and subject.label != "person":
        base = whole[-1]
        for group in list(rest):
            found = relation(group.things, base.group.things)
            like = found and (found.words, found.members, found.used)
            if len(names) < 3 and like == ("on", len(group), base.relation.used):
                names.append(group.name())
                rest.remove(group)
    return listed(names), rest


def _crowd(subject: Group) -> str:
    crowd = subject.label == "person" and len(subject) > MOST_COUNTED
    return f"a crowd of {subject.name()}" if crowd else subject.name()


def _place(group: Group, subject: Group) -> str:
    """Where a group is, beside being with the subject; "" where it is near, or nowhere special."""
    things = group.things
    if group.more:
        return BACKGROUND
    if group.label in FLYING and all(t.bottom < min(s.top for s in subject.things) for t in things):
        return "above"
    if subject.label in LARGE and in_front(things, subject.things):
        return "in front"
    if all(any(near(thing, other) for other in subject.things) for thing in things):
        return ""
    horizon = min(0.65, *(thing.bottom for thing in subject.things))
    if all(thing.share < FAR and thing.bottom < horizon for thing in things):
        return BACKGROUND
    return _side(things)


def _side(things: Sequence[Thing]) -> str:
    """The third of the picture in which all centres lie, unless that is the middle."""
    if all(thing.x < 1 / 3 for thing in things):
        return "on the left"
    if all(thing.x > 2 / 3 for thing in things):
        return "on the right"
    return ""


def _own_place(subject: Group, *, alone: bool) -> str:
    things = subject.things
    if alone and len(things) == 1 and things[0].share >= CLOSE_UP:
        return CLOSE
    if side := _side(things):
        return side
    if side_by_side(things):
        return "side by side"
    return "in the middle" if alone and len(things) == 1 else ""


def _with(start: str, items: Sequence[Item], place: str) -> str:
    """``start`` and the items, those near first, those of one place together."""
    names: dict[str, list[str]] = {}
    for item in sorted(items, key=lambda item: item.place != ""):
        names.setdefault(item.place, []).append(item.group.name())
    phrases = [f"{listed(group)} {where}".strip() for where, group in names.items()]
    if not phrases:
        return start.rstrip(",")
    apart = place in SIDES and len(phrases) == 1 and set(names) <= SIDES
    tail = listed(phrases)
    if len(phrases) > 1 and ("" in names or any(" and " in phrase for phrase in phrases)):
        tail = f"{', '.join(phrases[:-1])}, and {phrases[-1]}"  # or the last place is said of all
    return f"{start} {'and' if apart else 'with'} {tail}"
