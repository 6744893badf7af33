"""Malformed requests among good ones: what the good ones notice, and what the others get.

``python -m benchmarks serve --malformed 100``: turns of good requests alone and with the others
alternate. Every malformed one must get a 4xx with a code, and leave its connection usable; those
that hang up in the middle get nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from benchmarks.client import Connection, Traffic, post, run, traffic
from benchmarks.gallery.report import Table
from benchmarks.peers.contender import Contender
from benchmarks.peers.facegraph import SEARCH
from benchmarks.pictures import Picture, pictures
from benchmarks.turns import Rounds, Turn, judged, median

GOOD_CLIENTS = 4
SECONDS = 10.0
PIECES = 20
"""A slow sender sends its request in as many, over half of the turn."""

LIVE = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """``way``: sent at once, slowly, or left off in the middle."""

    name: str
    request: bytes
    way: str = "at once"


@dataclass(slots=True)
class Spoilt:
    """What malformed requests got, and what was wrong with that."""

    got: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def cases() -> tuple[Case, ...]:
    """One of each kind."""
    ok, png = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))
    jpeg = pictures()[1].paths[0].read_bytes()
    whole, cut = png.tobytes(), jpeg[: len(jpeg) * 3 // 10]
    thin = cv2.imencode(".png", np.zeros((5000, 1, 3), np.uint8))[1].tobytes()
    assert ok
    return (
        Case("PNG, broken chunk", post(SEARCH, broken_chunk(whole), "image/png")),
        Case("JPEG, cut at 30 %", post(SEARCH, cut, "image/jpeg")),
        Case("PNG of 1 × 5000, cut", post(SEARCH, thin[:-20], "image/png")),
        Case("PNG that claims 20,000 × 20,000", post(SEARCH, claiming(20_000), "image/png")),
        Case("nothing", post(SEARCH, b"", "image/jpeg")),
        Case("text as JPEG", post(SEARCH, b"no picture at all" * 99, "image/jpeg")),
        Case("a type nobody knows", post(SEARCH, whole, "application/x-unknown")),
        Case("JSON garbage", post(SEARCH, b'{"image": {"base64": ', "application/json")),
        Case("base64 garbage", post(SEARCH, b'{"image": {"base64": "%%%"}}', "application/json")),
        Case(
            "form without its end", post(SEARCH, b"--x\r\nConte", "multipart/form-data; boundary=x")
        ),
        Case("slow, cut JPEG", post(SEARCH, cut, "image/jpeg"), "slowly"),
        Case("hangs up", post(SEARCH, jpeg, "image/jpeg"), "left off"),
    )


def broken_chunk(png: bytes) -> bytes:
    """The PNG with a type of chunk that does not exist in place of its pixels."""
    return png.replace(b"IDAT", b"I\x00\xffT")


def claiming(side: int) -> bytes:
    """A PNG of few bytes that says it is ``side`` × ``side``."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def fault(case: Case, status: int, body: bytes) -> str | None:
    """What is wrong with the answer to a malformed request; None where it is as it must be."""
    if not 400 <= status < 500:
        return f"{case.name}: {status} {body[:200]!r}"
    return None if code(body) else f"{case.name}: no code in {body[:200]!r}"


def code(body: bytes) -> str:
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return ""


async def spoil(port: int, count: int, seconds: float) -> Spoilt:
    """``count`` malformed requests, evenly over ``seconds``, each on a connection of its own."""
    spoilt = Spoilt()

    async def one(number: int, case: Case) -> None:
        await asyncio.sleep(seconds * number / count)
        connection = await Connection.open(port)
        try:
            await _send(connection, case, seconds)
            if case.way == "left off":
                spoilt.got[case.name, 0, "hung up"] += 1
                return
            answer = await connection.answer()
            spoilt.got[case.name, answer.status, code(answer.body)] += 1
            wrong = fault(case, answer.status, answer.body)
            spoilt.faults += [wrong] if wrong else []
            after = await connection.ask(LIVE)
            if after.status != 200:
                spoilt.faults.append(f"{case.name}: then {after.status} for /livez")
        except (ConnectionError, TimeoutError) as error:
            spoilt.faults.append(f"{case.name}: {error}")
        finally:
            connection.close()

    async with asyncio.TaskGroup() as tasks:
        for number, case in zip(range(count), itertools.cycle(cases())):
            tasks.create_task(one(number, case))
    return spoilt


async def _send(connection: Connection, case: Case, seconds: float) -> None:
    if case.way == "at once":
        connection.send(case.request)
        return
    size = len(case.request) // PIECES + 1
    pieces = [case.request[at : at + size] for at in range(0, len(case.request), size)]
    for piece in pieces[: len(pieces) // 2 if case.way == "left off" else None]:
        connection.send(piece)
        await asyncio.sleep(seconds / 2 / PIECES if case.way == "slowly" else 0)


async def _turn(
    contender: Contender, requests: Sequence[bytes], bad: int, seconds: float
) -> tuple[Traffic, Spoilt]:
    port = contender.ports[0]
    good = asyncio.create_task(
        traffic(contender.ports, requests, GOOD_CLIENTS, seconds, contender.group.cpu_s)
    )
    spoilt = await spoil(port, bad, seconds) if bad else Spoilt()
    return await good, spoilt


def table(contender: Contender, picture: Picture, bad: int, rounds: int) -> str:
    """Good requests of ``picture`` alone and among ``bad`` malformed ones, by turns."""
    requests = contender.requests(picture)
    ways = {"alone": Rounds(), f"among {bad} malformed": Rounds()}
    spoilt = Spoilt()
    with contender.group.awake():
        for _ in range(rounds):
            base: Turn | None = None
            for name, count in zip(ways, (0, bad), strict=True):
                seen, others = run(_turn(contender, requests, count, SECONDS))
                turn = judged(seen, lambda place, answer: contender.wrong(picture, place, answer))
                base = base or turn
                ways[name].add(turn, base)
                spoilt.got.update(others.got)
                spoilt.faults += others.faults
    columns = (
        "good requests",
        "answers/s",
        "p50 ms",
        "p99 ms",
        "of alone",
        "CPU ms/answer",
        "wrong",
    )
    shown = Table("", f"{contender.name}: malformed requests among good ones", columns)
    for name, each in ways.items():
        figures = (each.rate, each.percentile_ms(50), each.percentile_ms(99))
        shown.add(name, *figures, median(each.of_loop), each.cpu_ms, len(each.wrong))
        shown.notes += [f"{name}: {each.wrong[0]}\n"] if each.wrong else []
    answers = Table("", "what they got", ("malformed", "status", "code", "times"))
    for (name, status, what), times in sorted(spoilt.got.items()):
        answers.add(name, status or None, what, times)
    answers.notes = [
        f"{len(spoilt.faults)} faults",
        *[f"- {fault}" for fault in spoilt.faults[:20]],
    ]
    return f"{shown.markdown()}\n{answers.markdown()}"
