"""The network and its head: what is seen in many inputs, of one picture or of several threads'."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from facegraph.faces.heads import Candidates, Head
from facegraph.faces.looks import Look
from facegraph.models.engines import Engine
from facegraph.models.shared import SharedEngine


class Sight:
    """Answers looks. Any number of threads may call it at once.

    Looks of one size and score run together where the engine gains from it; with a
    :class:`SharedEngine` also those of other threads.
    """

    def __init__(self, engine: Engine, head: Head) -> None:
        self._engine = engine
        self._head = head

    @property
    def most(self) -> int:
        """Inputs in one run."""
        return self._engine.most if isinstance(self._engine, SharedEngine) else 1

    def limit(self, max_batch: int) -> None:
        """To so many inputs in one run, from the next run on."""
        if isinstance(self._engine, SharedEngine):
            self._engine.max_batch = max_batch

    def see(self, looks: Sequence[Look]) -> list[Candidates]:
        """What the network saw in each, in its pixels."""
        seen: dict[int, Candidates] = {}
        most = self.most  # another thread may change it meanwhile
        kind = [(look.pixels.shape, look.min_score) for look in looks]
        order = sorted(range(len(looks)), key=kind.__getitem__)
        for _, alike in itertools.groupby(order, kind.__getitem__):
            rows = list(alike)
            for at in range(0, len(rows), most):
                part = rows[at : at + most]
                seen.update(zip(part, self._run([looks[row] for row in part]), strict=True))
        return [seen[row] for row in range(len(looks))]

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Run every size of input and batch once, so that no request pays for compiling."""
        sizes = self._engine.sizes if isinstance(self._engine, SharedEngine) else [1]
        for shape in shapes:
            blob = self._head.blob(np.zeros((*shape, 3), np.uint8))
            for size in sizes:
                self._engine.run(np.repeat(blob, size, axis=0))

    def _run(self, looks: Sequence[Look]) -> list[Candidates]:
        height, width = looks[0].pixels.shape[:2]
        blobs = [self._head.blob(look.pixels) for look in looks]
        outputs = self._engine.run(blobs[0] if len(blobs) == 1 else np.concatenate(blobs))
        return self._head.decode_many(outputs, len(looks), height, width, looks[0].min_score)
