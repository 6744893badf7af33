"""How many replicas a deployment should have: an autoscaling policy for ``serve_config.yaml``.

Serve's own policy counts calls, and one call carries several pictures here, so it would see a
full queue as one call. This one goes by what hurts: how long items wait in the replicas. Serve
applies its delays, factors and bounds to what is answered.

The controller gets this module by value, so it imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

GROWTH = 2.0
"""A queue tells that there are too few, not how many are missing: at most so many times more."""


class ByWait:
    """More replicas where items wait for longer than ``max_wait_s`` on average; fewer where the
    rest would be busy for no more than ``max_busy`` of their time.

    What they tell is :meth:`facegraph.load.Load.read`, averaged over ``look_back_period_s``.
    """

    def __init__(self, max_wait_s: float = 0.2, max_busy: float = 0.8) -> None:
        if not (_number(max_wait_s) and max_wait_s > 0):
            raise ValueError(f"max_wait_s must be a number of seconds above 0, not {max_wait_s!r}")
        if not (_number(max_busy) and 0 < max_busy <= 1):
            raise ValueError(f"max_busy must lie above 0 and not above 1, not {max_busy!r}")
        self._max_wait_s = max_wait_s
        self._max_busy = max_busy

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Serve's protocol: the number of replicas, and no state."""
        told = context.aggregated_metrics or {}
        busy, wait_s = (told.get(key, {}).values() for key in ("busy", "wait_s"))
        if not busy:  # nobody has told anything yet
            return context.target_num_replicas, {}
        return self.desired(busy, wait_s, context.target_num_replicas), {}

    def desired(self, busy: Iterable[float], wait_s: Iterable[float], target: int) -> int:
        """The number of replicas for the load that each of the present ones tells, at least 1.

        ``target``: with those that are still to come, none of which goes while items wait.
        """
        shares, waits = list(busy), list(wait_s)
        present = len(shares)
        needed = min(_ceil(sum(shares) / self._max_busy), present)  # being busy hurts nobody yet
        if waits and (pressure := sum(waits) / len(waits) / self._max_wait_s) > 1:
            needed = max(_ceil(present * min(pressure, GROWTH)), target)
        return max(needed, 1)


def _ceil(replicas: float) -> int:
    """A tenth of a replica more is none."""
    return math.ceil(replicas - 0.1)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
