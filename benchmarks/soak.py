"""Ten minutes under a constant load: does memory stay flat, and the rate?

    FACEGRAPH_TEST_ASSETS=… python -m benchmarks soak [--minutes 10] [--clients 8]

Clients search with all kinds of pictures without pause, while one enrols a sample and deletes it
again. Every 15 s it prints the memory of all processes of the service (RSS, and PSS, which counts
what they share once) and the answers since. The first fifth of the time warms. *Flat*: after that a
line through PSS rises by less than 1 MiB a minute, or by less than two of its standard errors; in
all by less than 2 % of PSS, whatever the noise; and the rate of the last quarter is at least 0.9 of
the first's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.client import Answer, Connection, post, run
from benchmarks.peers import facegraph
from benchmarks.peers.contender import Contender, media_type
from benchmarks.pictures import KINDS, Picture, kinds, portraits
from benchmarks.processes import Memory
from benchmarks.report import heading

SAMPLE_S = 15.0
WARM_PART = 0.2
MOST_RISE_MIB_A_MINUTE = 1.0
MOST_RISE_PART = 0.02
LEAST_RATE = 0.9


@dataclass(frozen=True, slots=True)
class Reading:
    """At ``minute``: memory, and answers a second and enrolments since the reading before."""

    minute: float
    memory: Memory
    rate: float
    enrolled: int


@dataclass(slots=True)
class Count:
    answers: int = 0
    enrolled: int = 0
    wrong: int = 0
    first_wrong: str = ""

    def fault(self, what: str) -> None:
        self.wrong += 1
        self.first_wrong = self.first_wrong or what


async def search(
    contender: Contender, pictures: Sequence[Picture], first: int, count: Count
) -> None:
    """Asks without end, with one picture after another."""
    work = [
        (picture, place, request)
        for picture in pictures
        for place, request in enumerate(contender.requests(picture))
    ]
    connection = await Connection.open(contender.ports[0])
    for number in range(first, 2**62):
        picture, place, request = work[number % len(work)]
        try:
            answer = await connection.ask(request)
        except (ConnectionError, TimeoutError) as error:
            answer = Answer(0, str(error).encode())
        if not connection.usable:
            connection = await Connection.open(contender.ports[0])
        fault = contender.wrong(picture, place, answer)
        count.answers += fault is None
        if fault is not None:
            count.fault(fault)
            await asyncio.sleep(0.1)


async def enrol(port: int, count: Count) -> None:
    """Enrols somebody and deletes them, without end; the portrait is one that nobody asks for."""
    path = next(iter(portraits().values()))
    subject = "/v1/collections/churn/subjects/passing"
    body = path.read_bytes()
    add = post(f"{subject}/samples?face=largest", body, media_type(path))
    remove = f"DELETE {subject} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    connection = await Connection.open(port)
    await connection.ask(post("/v1/collections", b'{"id": "churn"}', "application/json"))
    make = post("/v1/collections/churn/subjects", b'{"id": "passing"}', "application/json")
    while True:
        for request in (make, add, remove):
            answer = await connection.ask(request)
            if answer.status >= 300:
                count.fault(f"enrolling: {answer.status} {answer.body[:200]!r}")
                await asyncio.sleep(0.1)
        count.enrolled += 1


async def soak(
    contender: Contender, pictures: Sequence[Picture], clients: int, minutes: float
) -> tuple[list[Reading], Count]:
    count, readings = Count(), []
    async with contextlib.AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        busy = [
            tasks.create_task(search(contender, pictures, number, count))
            for number in range(clients)
        ]
        busy.append(tasks.create_task(enrol(contender.ports[0], count)))
        began = time.perf_counter()
        while (since := time.perf_counter() - began) < minutes * 60:
            answers, enrolled = count.answers, count.enrolled
            await asyncio.sleep(min(SAMPLE_S, minutes * 60 - since))
            now = time.perf_counter() - began
            memory = await asyncio.to_thread(contender.group.memory)
            rate = (count.answers - answers) / (now - since)
            readings.append(Reading(now / 60, memory, rate, count.enrolled - enrolled))
            print(line(readings[-1]), flush=True)
        for task in busy:
            task.cancel()
    return readings, count


def line(reading: Reading) -> str:
    memory = reading.memory
    figures = (f"{reading.minute:.2f}", f"{memory.rss:,.0f}", f"{memory.pss:,.0f}")
    rest = (str(memory.processes), f"{reading.rate:.1f}", str(reading.enrolled))
    return f"| {' | '.join((*figures, *rest))} |"


def verdict(readings: Sequence[Reading], minutes: float) -> str:
    """The slope after warming, and whether that is flat."""
    warm = [each for each in readings if each.minute >= minutes * WARM_PART]
    if len(warm) < 3:
        return "too short to tell"
    pss = [each.memory.pss for each in warm]
    slope, error = line_through([each.minute for each in warm], pss)
    part = slope * (warm[-1].minute - warm[0].minute) / float(np.mean(pss))
    quarter = max(1, len(warm) // 4)
    first, last = (
        float(np.mean([each.rate for each in part])) for part in (warm[:quarter], warm[-quarter:])
    )
    kept = last / first if first else 0.0
    little = slope < max(MOST_RISE_MIB_A_MINUTE, 2 * error) and part < MOST_RISE_PART
    return (
        f"PSS {slope:+.2f} ± {error:.2f} MiB a minute, {part:+.1%} in all; the last quarter's rate "
        f"is {kept:.2f} of the first's: {'flat' if little and kept >= LEAST_RATE else 'not flat'}"
    )


def line_through(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The slope of the line of least squares, and its standard error."""
    across = np.asarray(x) - np.mean(x)
    spread = float(across @ across)
    slope = float(across @ np.asarray(y)) / spread
    left = np.asarray(y) - np.mean(y) - slope * across
    return slope, math.sqrt(float(left @ left) / (len(y) - 2) / spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pictures", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--way", default="best engine", choices=list(facegraph.WAYS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fg-soak-") as name:
        pictures = kinds(Path(name), options.pictures)
        own = Path(name) / "service"
        own.mkdir()
        with facegraph.start(options.way, own) as contender:
            print(heading("soak"))
            print("| minute | RSS MiB | PSS MiB | processes | answers/s | enrolled, deleted |")
            print("| --- | --- | --- | --- | --- | --- |", flush=True)
            readings, count = run(soak(contender, pictures, options.clients, options.minutes))
    print(f"\n{verdict(readings, options.minutes)}; {count.answers} answers, {count.wrong} wrong")
    if count.first_wrong:
        print(count.first_wrong)


if __name__ == "__main__":
    main()
