"""The sentence of what the segmenter found: its English, its rules, and that it never invents."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegraph.types import Segmentation
from facegraph.vision.inventory import MAX_WORDS, NOTHING, sentence
from facegraph.vision.inventory_words import counted, listed, number, plural, singular
from facegraph.vision.labels import COCO_LABELS
from facegraph.vision.masks import decode, encode, window_of

pytestmark = pytest.mark.unit

Row = tuple[str, float, float, float, float, float]
"""A label, a box in percent of the picture, a score."""


def at(label: str, *box: float, score: float = 0.9) -> Row:
    left, top, right, bottom = box
    return label, left, top, right, bottom, score


def series(label: str, count: int, step: float, *box: float) -> list[Row]:
    """``count`` of a kind, each ``step`` right of the one before."""
    left, top, right, bottom = box
    return [at(label, left + i * step, top, right + i * step, bottom) for i in range(count)]


def seen(*rows: Row, width: int = 400, height: int = 300) -> Segmentation:
    """A segmentation whose masks fill their boxes."""
    table = sorted(rows, key=lambda row: -row[5])
    corners = np.array([row[1:5] for row in table], np.float32).reshape(-1, 4)
    boxes = corners * np.array([width, height, width, height], np.float32) / np.float32(100)
    masks = []
    for box in boxes:
        left, top, right, bottom = window_of(box, width, height)
        masks.append(encode(np.ones((bottom - top, right - left), bool), left, top, width, height))
    scores = np.array([row[5] for row in table], np.float32)
    return Segmentation(
        width, height, tuple(row[0] for row in table), scores, boxes, tuple(masks), "fake"
    )


TABLE = at("dining table", 5, 60, 95, 100)
BUS = at("bus", 2, 10, 98, 80)
COUCH = at("couch", 10, 30, 90, 85)
PERSON = at("person", 30, 20, 60, 95)
THREE = series("person", 3, 28, 10, 20, 30, 70)

SENTENCES = [
    # nothing, and what does not count
    ([], NOTHING),
    ([at("dog", 30, 30, 60, 60, score=0.39)], NOTHING),
    ([at("dog", 30, 30, 30, 60)], NOTHING),
    ([PERSON, at("dog", 65, 60, 90, 95, score=0.39)], "A person in the middle."),
    # one kind alone: where it is
    ([at("person", 10, 5, 95, 100)], "A close-up of a person."),
    ([at("person", 40, 20, 60, 90)], "A person in the middle."),
    ([at("person", 5, 20, 25, 90)], "A person on the left."),
    ([at("apple", 80, 50, 95, 65)], "An apple on the right."),
    ([at("elephant", 20, 20, 70, 80)], "An elephant in the middle."),
    # several of a kind
    (series("person", 2, 25, 20, 20, 40, 90), "Two people side by side."),
    (series("person", 4, 23, 5, 20, 25, 90), "Four people side by side."),
    (series("person", 2, 60, 5, 20, 25, 90), "Two people."),  # too far apart
    ([at("dog", 40, 50, 60, 90), at("dog", 62, 80, 68, 90)], "Two dogs."),  # too unlike
    (series("person", 5, 19, 2, 20, 18, 90), "Five people."),
    (series("person", 12, 8, 1, 40, 8, 70), "Twelve people."),
    (series("person", 13, 7.5, 1, 40, 7, 70), "A crowd of more than twelve people."),
    (series("sheep", 13, 7.5, 1, 40, 7, 70), "More than twelve sheep."),
    # found twice
    (
        [PERSON, at("person", 32, 30, 55, 90, score=0.6), at("person", 31, 20, 60, 90, score=0.5)],
        "A person in the middle.",
    ),
    ([at("person", 35, 25, 55, 90, score=0.95), PERSON], "A person in the middle."),
    (
        [at("car", 20, 30, 70, 70, score=0.8), at("truck", 20, 31, 71, 70, score=0.6)],
        "A car in the middle.",
    ),
    # at a table
    (
        [*THREE, TABLE, *series("cup", 3, 15, 30, 62, 35, 70)],
        "Three people around a table with three cups.",
    ),
    ([*series("person", 2, 28, 20, 20, 40, 70), TABLE], "Two people at a table."),
    (
        [at("person", 40, 20, 60, 70), TABLE, at("laptop", 42, 60, 58, 75)],
        "A person at a table with a laptop.",
    ),
    (
        [*series("person", 2, 28, 20, 20, 40, 70), at("person", 82, 5, 95, 50), TABLE],
        "Three people, two at a table.",
    ),
    (
        [*THREE, TABLE, at("tie", 19, 30, 21, 45)],
        "Three people around a table, one wearing a tie.",
    ),
    (
        [at("pizza", 30, 50, 60, 75), at("cup", 65, 45, 72, 62), at("fork", 20, 60, 28, 66), TABLE],
        "A pizza, a cup and a fork on a table.",
    ),
    ([TABLE, at("cup", 50, 62, 52, 64), at("cup", 60, 70, 62, 72)], "A table with two cups."),
    # riding, and not
    ([at("person", 40, 10, 60, 75), at("horse", 25, 35, 75, 90)], "A person riding a horse."),
    (
        [
            *series("person", 2, 50, 15, 10, 30, 75),
            *series("horse", 2, 50, 5, 35, 40, 90),
        ],
        "Two people riding horses.",
    ),
    (
        [
            at("person", 15, 10, 30, 75),
            at("bicycle", 8, 45, 38, 85),
            at("person", 65, 10, 80, 92),
        ],
        "Two people, one riding a bicycle.",
    ),
    (
        [at("person", 15, 10, 30, 75), *series("horse", 3, 31, 5, 30, 35, 85)],
        "A person riding one of three horses.",
    ),
    (
        [*series("person", 2, 18, 32, 10, 48, 75), at("motorcycle", 25, 40, 75, 90)],
        "Two people riding a motorcycle.",
    ),
    (
        [*series("person", 2, 18, 32, 10, 48, 75), at("bicycle", 25, 40, 75, 90)],
        "Two people, one riding a bicycle.",
    ),
    (  # ends as low as the horse: stands before it or beside it
        [at("person", 40, 10, 60, 90), at("horse", 25, 35, 75, 90)],
        "A person with a horse.",
    ),
    (  # hidden from its back down
        [at("person", 40, 10, 60, 55), at("horse", 25, 35, 75, 90)],
        "A horse with a person.",
    ),
    (  # not above it
        [at("person", 45, 50, 55, 80), at("horse", 25, 35, 75, 90)],
        "A horse with a person.",
    ),
    ([at("person", 15, 10, 30, 85), at("bicycle", 32, 45, 62, 85)], "A person next to a bicycle."),
    ([at("dog", 40, 10, 60, 75), at("horse", 25, 35, 75, 90)], "A horse with a dog."),
    # boards
    ([at("person", 40, 10, 60, 80), at("skateboard", 38, 76, 62, 84)], "A person on a skateboard."),
    ([at("person", 40, 10, 60, 80), at("surfboard", 55, 20, 75, 70)], "A person with a surfboard."),
    ([at("person", 40, 10, 60, 80), at("skis", 35, 76, 65, 84)], "A person on skis."),
    (
        [*series("person", 2, 40, 20, 10, 35, 80), *series("skis", 2, 40, 15, 76, 40, 84)],
        "Two people on skis.",
    ),
    # ties
    ([at("person", 20, 10, 80, 100), at("tie", 46, 50, 54, 80)], "A person wearing a tie."),
    (
        [*series("person", 2, 50, 5, 10, 45, 100), *series("tie", 2, 50, 21, 50, 28, 80)],
        "Two people wearing ties.",
    ),
    ([at("person", 20, 10, 50, 100), at("tie", 60, 50, 64, 80)], "A person with a tie."),
    (
        [
            *series("person", 2, 35, 15, 30, 35, 95),
            *series("tie", 2, 35, 24, 45, 27, 60),
            BUS,
        ],
        "Two people wearing ties in front of a bus.",
    ),
    # before, beside, on
    ([*series("person", 3, 25, 10, 40, 25, 95), BUS], "Three people in front of a bus."),
    ([at("person", 30, 40, 45, 81), BUS], "A bus with a person."),  # ends no lower: unsure
    ([BUS, at("person", 50, 70, 53, 88)], "A bus with a person in front."),
    ([at("dog", 40, 40, 60, 70), COUCH], "A dog on a couch."),
    ([at("dog", 40, 60, 60, 95), COUCH], "A dog in front of a couch."),
    ([at("person", 30, 35, 55, 80), COUCH], "A person on a couch."),
    ([at("person", 30, 10, 55, 95), at("chair", 45, 50, 75, 95)], "A person by a chair."),
    ([at("person", 30, 30, 45, 90), at("horse", 48, 40, 85, 90)], "A person next to a horse."),
    # with, and where
    (
        [
            PERSON,
            at("umbrella", 25, 5, 65, 30),
            at("handbag", 55, 60, 66, 75),
            at("cell phone", 40, 40, 44, 46),
        ],
        "A person with an umbrella, a handbag and a cell phone.",
    ),
    (
        [at("dog", 5, 40, 30, 90), at("cat", 75, 50, 95, 90)],
        "A dog on the left and a cat on the right.",
    ),
    ([at("bus", 2, 20, 30, 70), at("car", 2, 75, 25, 95)], "A bus on the left with a car."),
    (
        [PERSON, at("dog", 62, 70, 75, 95), at("car", 80, 40, 88, 46)],
        "A person next to a dog, with a car in the background.",
    ),
    (
        [PERSON, at("car", 80, 40, 88, 46), at("boat", 5, 40, 12, 46), at("bird", 10, 5, 14, 8)],
        "A person with a car and a boat in the background, and a bird above.",
    ),
    (
        [PERSON, *series("person", 3, 5, 70, 40, 73, 48)],
        "A person with three more people in the background.",
    ),
    ([PERSON, at("person", 80, 40, 84, 50)], "A person with one more person in the background."),
    (
        [
            at("person", 40, 10, 70, 98),
            *series("person", 8, 4, 2, 40, 4, 46),
            *series("person", 6, 4, 75, 40, 77, 46),
        ],
        "A person with many more people in the background.",
    ),
    (
        [at("person", 20, 60, 30, 95), *series("kite", 5, 16, 10, 10, 16, 18)],
        "A person on the left with five kites above.",
    ),
    (
        [PERSON, BUS, at("traffic light", 5, 5, 8, 12)],
        "A person in front of a bus, with a traffic light in the background.",
    ),
    (
        [PERSON, at("cup", 62, 70, 65, 80), at("car", 80, 40, 88, 46)],
        "A person with a cup, and a car in the background.",
    ),
    # nouns that are not their label's
    ([at("sports ball", 40, 40, 60, 60)], "A ball in the middle."),
    (
        [*series("scissors", 2, 40, 20, 30, 40, 50), at("wine glass", 45, 20, 55, 60)],
        "Two pairs of scissors with a wine glass.",
    ),
    (
        [at("broccoli", 40, 30, 60, 60), *series("knife", 2, 10, 62, 30, 67, 60)],
        "A piece of broccoli with two knives.",
    ),
    (
        [*series("potted plant", 2, 70, 5, 40, 20, 80), at("tv", 35, 30, 65, 60)],
        "Two potted plants with a TV.",
    ),
    # the least important is left out
    (
        [
            *THREE,
            TABLE,
            at("cup", 30, 62, 35, 70),
            at("bottle", 40, 62, 44, 75),
            at("fork", 50, 62, 52, 70),
            at("knife", 55, 62, 57, 70),
            at("bowl", 60, 62, 70, 70),
            at("cake", 72, 62, 80, 70),
        ],
        "Three people around a table with a bowl, a cake, a bottle and a cup.",
    ),
]


@pytest.mark.parametrize(("rows", "expected"), SENTENCES, ids=lambda value: str(value)[:60])
def test_sentences(rows: list[Row], expected: str) -> None:
    assert sentence(seen(*rows)) == expected


def test_a_crowd_that_rides() -> None:
    people = series("person", 13, 7.4, 2, 10, 5, 50)
    bicycles = series("bicycle", 13, 7.4, 1, 30, 6, 60)
    said = sentence(seen(*people, *bicycles, width=4000))
    assert said == "A crowd of more than twelve people riding bicycles."


def test_min_score_is_inclusive() -> None:
    picture = seen(at("dog", 40, 30, 60, 60, score=0.3))
    assert sentence(picture, min_score=0.3) == "A dog in the middle."
    assert sentence(picture, min_score=0.31) == NOTHING


def test_an_empty_mask_is_nothing() -> None:
    whole = seen(at("dog", 40, 30, 60, 60))
    empty = encode(np.zeros((1, 1), bool), 0, 0, whole.width, whole.height)
    picture = Segmentation(
        whole.width, whole.height, whole.labels, whole.scores, whole.boxes, (empty,), "fake"
    )
    assert sentence(picture) == NOTHING


# fmt: off
PLURALS = {
    "person": "people", "bicycle": "bicycles", "car": "cars", "motorcycle": "motorcycles",
    "airplane": "airplanes", "bus": "buses", "train": "trains", "truck": "trucks",
    "boat": "boats", "traffic light": "traffic lights", "fire hydrant": "fire hydrants",
    "stop sign": "stop signs", "parking meter": "parking meters", "bench": "benches",
    "bird": "birds", "cat": "cats", "dog": "dogs", "horse": "horses", "sheep": "sheep",
    "cow": "cows", "elephant": "elephants", "bear": "bears", "zebra": "zebras",
    "giraffe": "giraffes", "backpack": "backpacks", "umbrella": "umbrellas",
    "handbag": "handbags", "tie": "ties", "suitcase": "suitcases", "frisbee": "frisbees",
    "skis": "pairs of skis", "snowboard": "snowboards", "sports ball": "balls", "kite": "kites",
    "baseball bat": "baseball bats", "baseball glove": "baseball gloves",
    "skateboard": "skateboards", "surfboard": "surfboards", "tennis racket": "tennis rackets",
    "bottle": "bottles", "wine glass": "wine glasses", "cup": "cups", "fork": "forks",
    "knife": "knives", "spoon": "spoons", "bowl": "bowls", "banana": "bananas",
    "apple": "apples", "sandwich": "sandwiches", "orange": "oranges",
    "broccoli": "pieces of broccoli", "carrot": "carrots", "hot dog": "hot dogs",
    "pizza": "pizzas", "donut": "donuts", "cake": "cakes", "chair": "chairs", "couch": "couches",
    "potted plant": "potted plants", "bed": "beds", "dining table": "tables",
    "toilet": "toilets", "tv": "TVs", "laptop": "laptops", "mouse": "mice", "remote": "remotes",
    "keyboard": "keyboards", "cell phone": "cell phones", "microwave": "microwaves",
    "oven": "ovens", "toaster": "toasters", "sink": "sinks", "refrigerator": "refrigerators",
    "book": "books", "clock": "clocks", "vase": "vases", "scissors": "pairs of scissors",
    "teddy bear": "teddy bears", "hair drier": "hair driers", "toothbrush": "toothbrushes",
}
# fmt: on


def test_plurals_of_all_labels() -> None:
    assert {label: plural(label) for label in COCO_LABELS} == PLURALS


def test_articles() -> None:
    with_an = {label for label in COCO_LABELS if counted(label, 1).startswith("an ")}
    assert with_an == {"airplane", "apple", "elephant", "orange", "oven", "umbrella"}


def test_numbers_and_lists() -> None:
    assert [number(n) for n in (2, 12, 13, 500)] == [
        "two", "twelve", "more than twelve", "more than twelve",
    ]  # fmt: skip
    assert listed(["a", "b", "c"]) == "a, b and c"


NUMBERS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
)  # fmt: skip
COUNT = rf"(?:a|an|more than twelve|{'|'.join(NUMBERS)})"
NOUNS = {
    noun: label
    for label in COCO_LABELS
    for noun in (singular(label), PLURALS[label], *(["skis"] if label == "skis" else []))
}
NOUN = "|".join(sorted(map(re.escape, NOUNS), key=len, reverse=True))
GLUE = {
    "a", "above", "and", "around", "at", "background", "by", "close-up", "crowd", "front", "in",
    "left", "many", "middle", "more", "next", "of", "on", "riding", "right", "side", "the", "to",
    "wearing", "with", *NUMBERS,
}  # fmt: skip


def mentions(said: str) -> list[tuple[str, str, str]]:
    """Each noun with the words before it that count: number, "more" or "", noun."""
    text = said[0].lower() + said[1:].rstrip(".") if not said.startswith("TV") else said
    return re.findall(rf"\b(?:({COUNT}|many) )?(more )?({NOUN})\b", text)


def value(count: str) -> int:
    if count in NUMBERS:
        return NUMBERS.index(count) + 1
    return 13 if count.startswith("more") else 1


SOME_LABELS = (
    "person", "person", "bicycle", "horse", "bus", "dog", "bird", "tie", "skis", "skateboard",
    "dining table", "chair", "couch", "cup", "teddy bear", "bear", "hot dog", "tv", "kite",
)  # fmt: skip


@st.composite
def pictures(draw: st.DrawFn) -> Segmentation:
    rows = []
    for _ in range(draw(st.integers(0, 18))):
        left, top = draw(st.integers(0, 98)), draw(st.integers(0, 98))
        right, bottom = draw(st.integers(left + 1, 100)), draw(st.integers(top + 1, 100))
        score = draw(st.sampled_from([0.3, 0.4, 0.5, 0.7, 0.9]))
        rows.append(at(draw(st.sampled_from(SOME_LABELS)), left, top, right, bottom, score=score))
    return seen(*rows, width=100, height=100)


def counts(picture: Segmentation) -> dict[str, int]:
    """How many there are of each label, computed with whole masks and loops."""
    kept: list[tuple[str, np.ndarray]] = []
    for label, score, counts in zip(picture.labels, picture.scores, picture.masks, strict=True):
        mask = decode(counts, picture.width, picture.height).astype(bool)
        if score < np.float32(0.4):
            continue
        for other, seen_mask in kept:
            both = (mask & seen_mask).sum()
            parts = both / mask.sum(), both / seen_mask.sum()
            if (max(parts) if other == label else min(parts)) >= 0.8:
                break
        else:
            kept.append((label, mask))
    labels = [label for label, _ in kept]
    return {label: labels.count(label) for label in labels}


@settings(max_examples=300, deadline=None)
@given(pictures())
def test_never_invents(picture: Segmentation) -> None:
    said = sentence(picture)
    there = counts(picture)
    if not there:
        assert said == NOTHING
        return
    assert said == sentence(picture)
    assert re.fullmatch(r"[A-Z][^.!?]*[a-z]\.|[A-Z][^.!?]*TVs?\.", said)
    assert len(said.split()) <= MAX_WORDS
    found = mentions(said)
    left = re.sub(rf"\b({NOUN})\b|more than twelve", "", said[0].lower() + said[1:].rstrip("."))
    assert set(re.findall(r"[\w-]+", left)) <= GLUE
    subject = NOUNS[found[0][2]]
    total: dict[str, int] = {}
    for count, _, noun in found:
        assert NOUNS[noun] in there
        if count and count != "many":  # "riding horses", "many more people" give no number
            total[NOUNS[noun]] = total.get(NOUNS[noun], 0) + value(count)
    more = any(more for _, more, _ in found)
    for label, number_said in total.items():
        if label == subject and not more:  # its far ones may have been left out
            assert number_said <= there[label]
        else:
            assert number_said == min(there[label], 13)
