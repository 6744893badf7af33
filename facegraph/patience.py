"""Asking again, later and later, of what is busy or away for now."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from facegraph.errors import Unavailable

T = TypeVar("T")


async def patiently(
    call: Callable[[], Awaitable[T]],
    *,
    retries: int,
    first_s: float,
    most_s: float = math.inf,
    after: type[Unavailable] = Unavailable,
) -> T:
    """What ``call`` answers, asked again ``after`` each such error but that of the last try.

    The first pause is ``first_s``, each other twice the one before, at most ``most_s``.
    """
    for attempt in range(retries):
        try:
            return await call()
        except after:
            await asyncio.sleep(min(first_s * 2**attempt, most_s))
    return await call()
