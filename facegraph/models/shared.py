"""One engine for many threads: what they want run at the same time runs together.

Law 7 at the network. A thread that finds the engine idle runs at once and alone; inputs that come
during a run wait, and the next run takes all of them that have one shape. So what else the threads
do (decoding, aligning) goes on meanwhile, and nobody waits for company. On a CPU batches gain
nothing, so there nothing is shared.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facegraph.models.engines import Engine
from facegraph.types import FloatArray


def open_shared(
    model: Path,
    max_batch: int,
    open_engine: Callable[[Path | bytes], Engine],
    *,
    may_gain: bool,
) -> Engine:
    """The engine that ``open_engine`` makes of a detector's file, or of its graph with a free batch
    where batches ``may_gain``; around one that does gain, a SharedEngine.

    A graph that cannot be changed goes on with one picture a run.
    """
    freed = None
    if may_gain:
        from facegraph.models.free_batch import free_batch  # onnx is needed for nothing else

        freed = free_batch(model)
    engine = open_engine(model if freed is None else freed)
    gains = freed is not None and engine.best_batch > 1
    return SharedEngine(engine, max_batch) if gains else engine


@dataclass(slots=True, eq=False)
class _Wanted:
    """The inputs of one caller and, when it is done, their outputs or the error."""

    batch: FloatArray
    outputs: list[FloatArray] = field(default_factory=list)
    error: Exception | None = None
    done: bool = False


class SharedEngine:
    """Implements :class:`facegraph.models.engines.Engine` around one with a free batch.

    A run takes at most ``max_batch`` inputs, and no more than the engine gains from. Where it
    fails, its callers' inputs run again one caller after the other: only the one at fault gets
    the error, and a batch too large for the memory costs nobody an answer.
    """

    def __init__(self, engine: Engine, max_batch: int) -> None:
        self._engine = engine
        self.name, self.provider = engine.name, engine.provider
        self.input_shape, self.best_batch = engine.input_shape, engine.best_batch
        self.choice = engine.choice
        self.max_batch = max_batch
        self._changed = threading.Condition()
        self._waiting: deque[_Wanted] = deque()
        self._busy = False

    def run(self, batch: FloatArray) -> list[FloatArray]:
        most = self.most
        if len(batch) > most:
            parts = [self.run(batch[at : at + most]) for at in range(0, len(batch), most)]
            return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
        mine = _Wanted(batch)
        with self._changed:
            self._waiting.append(mine)
        while not mine.done:
            self._take_turn(mine)
        if mine.error is not None:
            raise mine.error
        return mine.outputs

    @property
    def most(self) -> int:
        """Inputs in one run."""
        return min(self.max_batch, self.best_batch)

    @property
    def sizes(self) -> list[int]:
        """The batches that ever run: powers of two, since engines tune themselves for each."""
        return [2**power for power in range((self.most - 1).bit_length())] + [self.most]

    @property
    def waiting(self) -> int:
        """Inputs that wait for a run."""
        with self._changed:
            return sum(len(wanted.batch) for wanted in self._waiting)

    def _take_turn(self, mine: _Wanted) -> None:
        """Waits until ``mine`` is done or the engine idle, and then runs what waits longest."""
        with self._changed:
            self._changed.wait_for(lambda: mine.done or not self._busy)
            if mine.done:
                return
            self._busy = True
            group = self._next()
        try:
            self._run(group)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> list[_Wanted]:
        """The oldest and those after it of the same shape that fit into its run."""
        group: list[_Wanted] = []
        room, shape = self.most, self._waiting[0].batch.shape[1:]
        for wanted in list(self._waiting):
            if not group or (wanted.batch.shape[1:] == shape and len(wanted.batch) <= room):
                self._waiting.remove(wanted)
                group.append(wanted)
                room -= len(wanted.batch)
        return group

    def _run(self, group: Sequence[_Wanted]) -> None:
        try:
            outputs = self._engine.run(self._padded([wanted.batch for wanted in group]))
        except Exception as error:  # noqa: BLE001 - it becomes the caller's answer
            if len(group) > 1:
                for wanted in group:
                    self._run([wanted])
                return
            group[0].error, group[0].done = error, True
            return
        begin = 0
        for wanted in group:
            end = begin + len(wanted.batch)
            wanted.outputs = [output[begin:end] for output in outputs]
            wanted.done, begin = True, end

    def _padded(self, batches: Sequence[FloatArray]) -> FloatArray:
        rows = sum(len(batch) for batch in batches)
        size = next((size for size in self.sizes if size >= rows), rows)
        return np.concatenate([*batches, *[batches[-1][-1:]] * (size - rows)])
