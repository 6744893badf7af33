"""How two kinds of things in a picture relate, as far as boxes can tell.

Each rule says what must hold; where none holds, things are only *with* each other. Coordinates
are parts of the image's width and height, y down. Rules that compare where things end at the
bottom rest on one fact: of two things on the ground, the nearer one reaches lower in the picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ANIMALS = frozenset(
    ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
)
VEHICLES = frozenset(
    ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat")
)  # fmt: skip
MOUNTS = {"bicycle": 1, "motorcycle": 2, "horse": 2, "elephant": 2}
"""What people ride, and how many at most on one."""

BOARDS = frozenset(("skateboard", "surfboard", "snowboard", "skis"))
TABLE = "dining table"
SEATS = frozenset(("bench", "chair", "couch", "bed"))
FLYING = frozenset(("kite", "bird", "airplane", "frisbee", "sports ball"))
APPLIANCES = frozenset(("toilet", "oven", "sink", "refrigerator", "microwave"))
FURNITURE = SEATS | APPLIANCES | {TABLE}
OUTDOOR = frozenset(("traffic light", "fire hydrant", "stop sign", "parking meter"))
GROUNDED = frozenset(("person",)) | ANIMALS | VEHICLES | SEATS
"""What stands on the ground, or on wheels upon it."""

LARGE = (VEHICLES | ANIMALS | SEATS) - {"bird", "cat", "chair"}
"""What others can be in front of."""

PORTABLE_EXCLUDED = GROUNDED - {"bird", "cat", "dog"} | FURNITURE | OUTDOOR | BOARDS
"""What is never said to be on a piece of furniture."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. left, top, right, bottom: its box; share: its mask's part of the image."""

    label: str
    left: float
    top: float
    right: float
    bottom: float
    share: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def x(self) -> float:
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        return (self.top + self.bottom) / 2


Things = Sequence[Thing]
"""One or more, of one label."""


@dataclass(frozen=True, slots=True)
class Relation:
    """``members`` of the subject's things stand in ``words`` to ``used`` of the other's.

    rank: in which order relations are said; two of one rank are never said together
    """

    words: str
    rank: int
    members: int
    used: int


WEARING, DOING, BEING = range(3)


def relation(subject: Things, other: Things) -> Relation | None:
    """The first rule that holds between two kinds; None where they are only with each other."""
    for rule in (_wearing, _riding, _on_board, _at_table, _on, _in_front, _next_to, _by):
        found = rule(subject, other)
        if found is not None:
            return found
    return None


def near(thing: Thing, other: Thing) -> bool:
    """Their boxes touch, or nearly: at most 3 % of the picture lies between them."""
    return _gap_x(thing, other) <= 0.03 and _gap_y(thing, other) <= 0.03


def side_by_side(things: Things) -> bool:
    """Two to four of like height, ending alike at the bottom, each close to the next.

    Heights differ by 40 % at most, bottoms by a fifth of the tallest; neighbours overlap by at
    most 30 % of the narrower and stand at most half the wider's width apart.
    """
    if not 2 <= len(things) <= 4:
        return False
    tallest = max(thing.height for thing in things)
    bottoms = [thing.bottom for thing in things]
    row = sorted(things, key=lambda thing: thing.x)
    return (
        min(thing.height for thing in things) >= 0.6 * tallest
        and max(bottoms) - min(bottoms) <= 0.2 * tallest
        and all(
            _shared_x(a, b) <= 0.3 * min(a.width, b.width)
            and _gap_x(a, b) <= 0.5 * max(a.width, b.width)
            for a, b in itertools.pairwise(row)
        )
    )


def in_front(things: Things, others: Things) -> bool:
    """All of ``things`` end lower than all of ``others``, across them.

    Lower by 8 % of the highest other, since boxes end unsurely in grass and shadow; half of each
    one's width lies before the others, and it begins above where they end.
    """
    left, right = min(b.left for b in others), max(b.right for b in others)
    low = max(b.bottom for b in others)
    step = 0.08 * max(b.height for b in others)
    return all(
        a.bottom >= low + step
        and a.top < low
        and min(a.right, right) - max(a.left, left) >= 0.5 * a.width
        for a in things
    )


def _wearing(subject: Things, other: Things) -> Relation | None:
    """A tie of which nine tenths lie within a person, near the middle, in the upper part."""
    if (subject[0].label, other[0].label) != ("person", "tie"):
        return None
    members, used = _paired(
        subject,
        other,
        lambda person, tie: (
            _within(tie, person) >= 0.9
            and abs(tie.x - person.x) <= 0.3 * person.width
            and tie.y <= person.top + 0.85 * person.height
            and tie.height <= 0.7 * person.height
        ),
        capacity=1,
    )
    return Relation("wearing", WEARING, members, used) if used == len(other) else None


def _riding(subject: Things, other: Things) -> Relation | None:
    """A person amid the mount, head above it, feet in its lower half but above its lowest point.

    Who stands beside or before it ends as low or lower; who stands behind a horse is hidden from
    its back down. The person is half to three times as high.
    """
    if subject[0].label != "person" or other[0].label not in MOUNTS:
        return None
    members, used = _paired(
        subject,
        other,
        lambda person, mount: (
            mount.left <= person.x <= mount.right
            and person.top < mount.top + 0.1 * mount.height
            and mount.y <= person.bottom <= mount.bottom - 0.03 * mount.height
            and 0.5 * mount.height <= person.height <= 3 * mount.height
        ),
        capacity=MOUNTS[other[0].label],
    )
    return Relation("riding", DOING, members, used) if members else None


def _on_board(subject: Things, other: Things) -> Relation | None:
    """A board or skis at a person's feet: in the lowest 30 %, under at least half of it or them."""
    if subject[0].label != "person" or other[0].label not in BOARDS:
        return None
    members, used = _paired(
        subject,
        other,
        lambda person, board: (
            board.y >= person.top + 0.7 * person.height
            and person.bottom - 0.1 * person.height
            <= board.bottom
            <= person.bottom + 0.25 * person.height
            and _shared_x(person, board) >= 0.5 * min(person.width, board.width)
        ),
        capacity=1,
    )
    return Relation("on", DOING, members, used) if members else None


def _at_table(subject: Things, other: Things) -> Relation | None:
    """People whose boxes the table's upper edge crosses and who are before or beside it.

    *Around* takes three at one table, with one in its left third or beyond and one in its right.
    """
    if (subject[0].label, other[0].label) != ("person", TABLE):
        return None

    def at(person: Thing, table: Thing) -> bool:
        return (
            person.top < table.top < person.bottom and _gap_x(person, table) <= 0.2 * person.width
        )

    members, used = _paired(subject, other, at, capacity=len(subject))
    if not members:
        return None
    table = other[0]
    xs = [person.x for person in subject if at(person, table)]
    third = table.width / 3
    around = (
        len(other) == 1
        and members >= 3
        and min(xs) <= table.left + third
        and max(xs) >= table.right - third
    )
    return Relation("around" if around else "at", BEING, members, used)


def _on(subject: Things, other: Things) -> Relation | None:
    """Something smaller that ends within furniture's box, or lies in it by four fifths.

    The first goes for things and small animals, the second for people on seats.
    """
    label = subject[0].label
    if other[0].label not in SEATS | {TABLE}:
        return None
    if label == "person":
        if other[0].label == TABLE:
            return None
        members, used = _paired(subject, other, _lies_in, capacity=len(subject))
    elif label in PORTABLE_EXCLUDED:
        return None
    else:
        members, used = _paired(subject, other, _rests_on, capacity=len(subject))
    return Relation("on", BEING, members, used) if members else None


def _lies_in(person: Thing, seat: Thing) -> bool:
    return _within(person, seat) >= 0.8 and person.bottom <= seat.bottom


def _rests_on(thing: Thing, furniture: Thing) -> bool:
    return (
        furniture.left <= thing.x <= furniture.right
        and thing.width <= furniture.width
        and furniture.top - 0.02 <= thing.bottom <= furniture.bottom - 0.05 * furniture.height
        and _within(thing, furniture) > 0
    )


def _in_front(subject: Things, other: Things) -> Relation | None:
    """See :func:`in_front`; the others are large."""
    if subject[0].label not in GROUNDED or other[0].label not in LARGE:
        return None
    holds = in_front(subject, other)
    return Relation("in front of", BEING, len(subject), len(other)) if holds else None


def _next_to(subject: Things, other: Things) -> Relation | None:
    """One thing and one other on the ground: ending alike at the bottom, close, hardly overlapping.

    Bottoms differ by 15 % of the taller, the boxes overlap by 30 % of the narrower at most and
    are at most 8 % of the picture apart; neither is three times as high as the other.
    """
    if len(subject) != 1 or len(other) != 1:
        return None
    a, b = subject[0], other[0]
    tall, short = max(a.height, b.height), min(a.height, b.height)
    holds = (
        {a.label, b.label} <= GROUNDED
        and abs(a.bottom - b.bottom) <= 0.15 * tall
        and _shared_x(a, b) <= 0.3 * min(a.width, b.width)
        and _gap_x(a, b) <= 0.08
        and tall <= 3 * short
    )
    return Relation("next to", BEING, 1, 1) if holds else None


def _by(subject: Things, other: Things) -> Relation | None:
    """People whose boxes all meet a seat's: nothing tells sitting from standing beside it."""
    if subject[0].label != "person" or other[0].label not in SEATS:
        return None
    holds = all(any(_within(a, b) > 0 for b in other) for a in subject)
    return Relation("by", BEING, len(subject), len(other)) if holds else None


def _paired(
    subject: Things, other: Things, test: Callable[[Thing, Thing], bool], *, capacity: int
) -> tuple[int, int]:
    """How many of each find a partner, nearest first: one a subject, ``capacity`` an other."""
    pairs = sorted(
        (abs(a.x - b.x), i, j)
        for i, a in enumerate(subject)
        for j, b in enumerate(other)
        if test(a, b)
    )
    members: set[int] = set()
    taken: dict[int, int] = {}
    for _, i, j in pairs:
        if i not in members and taken.get(j, 0) < capacity:
            members.add(i)
            taken[j] = taken.get(j, 0) + 1
    return len(members), len(taken)


def _shared_x(a: Thing, b: Thing) -> float:
    return max(0.0, min(a.right, b.right) - max(a.left, b.left))


def _shared_y(a: Thing, b: Thing) -> float:
    return max(0.0, min(a.bottom, b.bottom) - max(a.top, b.top))


def _gap_x(a: Thing, b: Thing) -> float:
    return max(0.0, max(a.left, b.left) - min(a.right, b.right))


def _gap_y(a: Thing, b: Thing) -> float:
    return max(0.0, max(a.top, b.top) - min(a.bottom, b.bottom))


def _within(a: Thing, b: Thing) -> float:
    """The part of a's box that lies in b's."""
    return _shared_x(a, b) * _shared_y(a, b) / (a.width * a.height)
