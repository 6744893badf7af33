"""COPY's binary format: decoded where it is sound, refused where it is not."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from facegraph.store.copying import Malformed, Rows

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


class FakeCopy:
    """What psycopg's Copy is to a reader."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = list(messages)

    def read(self) -> memoryview:
        return memoryview(self.messages.pop(0) if self.messages else b"")

    def __iter__(self) -> Iterator[memoryview]:
        while data := self.read():
            yield data


def row(*fields: bytes | None) -> bytes:
    told = [
        struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field
        for field in fields
    ]
    return struct.pack(">h", len(fields)) + b"".join(told)


def number(value: int) -> bytes:
    return struct.pack(">q", value)


def read(*messages: bytes, tail_width: int | None = None) -> Rows:
    rows = Rows(fields=3, tail_width=tail_width)
    rows.read(FakeCopy(*messages))  # type: ignore[arg-type]
    return rows


ROWS = [row(number(-1), b"", "ä".encode()), row(number(2**40), b"id", b"")]


@pytest.mark.parametrize(
    ("messages", "rows"),
    [
        ([HEADER + ROWS[0], ROWS[1], TRAILER], 2),
        ([HEADER, *ROWS, TRAILER], 2),  # the header by itself
        ([HEADER[:-4] + struct.pack(">i", 3) + b"ext" + ROWS[0], TRAILER], 1),
        ([HEADER + ROWS[0]], 1),  # no trailer: newer protocols may end without
        ([HEADER + TRAILER], 0),
        ([HEADER, TRAILER], 0),
    ],
)
def test_what_servers_send(messages: list[bytes], rows: int) -> None:
    first, second, third = read(*messages).columns()
    assert first.integers().tolist() == [-1, 2**40][:rows]
    assert list(second.texts()) == ["", "id"][:rows]
    assert list(third.texts()) == ["ä", ""][:rows]


def test_a_last_field_kept_apart() -> None:
    whole = [row(number(n), b"x" * n, bytes([n]) * 4) for n in range(3)]
    rows = read(HEADER + whole[0], *whole[1:], TRAILER, tail_width=4)
    first, second = rows.columns()
    assert first.integers().tolist() == [0, 1, 2]
    assert list(second.texts()) == ["", "x", "xx"]
    assert bytes(rows.tails) == bytes([0] * 4 + [1] * 4 + [2] * 4)


GOOD = row(number(1), b"id", b"tail")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (row(number(1), b"id"), "fewer fields"),
        (row(number(1), b"id", b"x", b"tail"), "more fields"),
        (row(number(1), b"id", None), "NULL at the end"),
        (row(number(1), None, b"tail"), "NULL before"),
        (row(None, None, None), "nothing but NULL"),
        (row(number(1), b"id", b"tai"), "too narrow"),
        (row(number(1), b"id", b"tail!"), "too wide"),
        (row(number(1), b"id", b"tailtail"), "twice as wide"),
        (GOOD + GOOD, "two rows in a message"),
        (GOOD[:-1], "cut at its end"),
        (GOOD[:11], "cut within a field"),
        (GOOD[:4], "cut within a length"),
        (b"\0\3" + b"\x7f\xff\xff\xff" + GOOD[6:], "a length beyond the end"),
        (b"\0\3" + b"\x80\0\0\0" + GOOD[6:], "a length below zero"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_that_is_not_as_expected(bad: bytes, why: str, place: int) -> None:
    messages = [GOOD, GOOD]
    messages.insert(place, bad)
    rows = read(HEADER + messages[0], *messages[1:], TRAILER, tail_width=4)
    with pytest.raises(Malformed, match=r"row \d"):
        rows.columns()


@pytest.mark.parametrize("start", [b"", b"PGCOPY", b"a\tb\n", b"PGCOPY\n\xff\n\0" + bytes(9)])
def test_another_format(start: bytes) -> None:
    with pytest.raises(Malformed, match="not the binary format"):
        read(start)


def test_a_number_of_another_width() -> None:
    first, *_ = read(HEADER + row(b"1234", b"", b""), TRAILER).columns()
    with pytest.raises(Malformed, match="8 bytes"):
        first.integers()
