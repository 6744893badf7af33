"""A matcher replica in a process of its own; :mod:`tests.store.replicas` starts it and asks it.

Its first argument is its plan as JSON. Then it reads calls from its standard input and writes
their outcomes to its standard output, in frames of a pickle behind its length.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LENGTH = 4


class Clock:
    """This process's wall clock, wrong by ``shift_s``; what measures durations stays right."""

    def __init__(self) -> None:
        self.shift_s = 0.0
        seconds, nanoseconds = time.time, time.time_ns
        time.time = lambda: seconds() + self.shift_s
        time.time_ns = lambda: nanoseconds() + int(self.shift_s * 1e9)


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """The next object; IncompleteReadError when the other side is gone."""
    length = int.from_bytes(await reader.readexactly(LENGTH), "big")
    return pickle.loads(await reader.readexactly(length))


def frame(value: Any) -> bytes:
    data = pickle.dumps(value)
    return len(data).to_bytes(LENGTH, "big") + data


async def serve(plan: dict[str, Any], clock: Clock) -> None:
    """Answers calls until there are no more."""
    from facegraph.config import MatcherTuning
    from facegraph.matcher import Matcher
    from facegraph.store import Store

    loop = asyncio.get_running_loop()
    calls = asyncio.StreamReader(limit=2**26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(calls), sys.stdin)
    folder = plan["folder"] and Path(plan["folder"])
    async with Store.open(plan["url"]) as store, Store.open(plan["writer_url"]) as writer:
        matcher = Matcher(store, MatcherTuning(**plan["tuning"]), storage="float32", folder=folder)
        await matcher.start()
        methods: dict[str, Callable[..., Any]] = {
            "match": matcher.match,
            "replace_subject": writer.replace_subject,
            "describe": _later(matcher.describe),
            "check": _later(matcher.check),
            "shift": _later(lambda by_s: setattr(clock, "shift_s", by_s)),
            "clock": _later(time.time),
        }
        say(("ready", None))
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    number, name, args, kwargs = await read_frame(calls)
                except asyncio.IncompleteReadError:
                    break
                tasks.create_task(answer(number, methods[name], args, kwargs))
        await matcher.close()


def _later(work: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any) -> Any:
        return work(*args)

    return call


async def answer(number: int, method: Callable[..., Any], args: Any, kwargs: Any) -> None:
    try:
        say((number, (True, await method(*args, **kwargs))))
    except Exception as error:  # noqa: BLE001 - it is the call's outcome
        say((number, (False, error)))


def say(value: Any) -> None:
    sys.stdout.buffer.write(frame(value))
    sys.stdout.buffer.flush()


def main() -> None:
    plan = json.loads(sys.argv[1])
    os.environ["TZ"] = "UTC"
    clock = Clock()  # before anything of ours is imported
    clock.shift_s = plan["shift_s"]
    asyncio.run(serve(plan, clock))


if __name__ == "__main__":
    main()
