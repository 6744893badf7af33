"""One recognizer in memory: who each probe is, by the network and by who is near."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from facegraph.errors import ConfigError, ContractMismatch, ModelUnavailable
from facegraph.models.engines.onnxruntime import OnnxRuntimeEngine
from facegraph.recognizers.exporting import INPUT, OUTPUTS, ModelCard
from facegraph.types import Candidate, Decision, FloatArray, Recognized

MOST = 5
"""Candidates that are told."""


class _Session(OnnxRuntimeEngine):
    """A session that tells what its file says of itself."""

    def properties(self) -> Mapping[str, str]:
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def signature(self) -> list[tuple[str, str, int | str | None]]:
        """Name, type and columns of each input, then of each output."""
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        return [
            (value.name, value.type, value.shape[1] if len(value.shape) == 2 else None)
            for value in values
        ]


class Predictor:
    """One recognizer in memory. Threads share it."""

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        """``model`` as :func:`facegraph.recognizers.exporting.export` made it.

        Raises ModelUnavailable where it is damaged or of another format.
        """
        try:
            self._session = _Session(model, cuda=False, threads=threads)
        except ConfigError as error:
            raise ModelUnavailable(f"the recognizer's file is damaged: {error}") from error
        self.card = ModelCard.read(self._session.properties())
        self.size_bytes = len(model)
        columns = len(self.card.labels)
        expected = [(INPUT, self.card.dimension), *((name, columns) for name in OUTPUTS)]
        if self._session.signature() != [(name, "tensor(float)", n) for name, n in expected]:
            raise ModelUnavailable("the recognizer's file is damaged: its graph is another one")
        self._run(np.eye(1, self.card.dimension, dtype=np.float32))

    def recognize(
        self, probes: FloatArray, threshold: float, margin: float, most: int = MOST
    ) -> tuple[Recognized, ...]:
        """Whom it takes each row of ``probes`` (n, d) float32, L2-normalised, for.

        Candidates are the ``most`` most probable labels, ties in the labels' order, and after
        them the label whose embedding is nearest, where it is none of these.
        Raises ContractMismatch where d is not its dimension, ModelUnavailable where a run fails.
        """
        if probes.ndim != 2 or probes.shape[1] != self.card.dimension:
            raise ContractMismatch(
                f"the recognizer takes n×{self.card.dimension} embeddings, got {probes.shape}"
            )
        probes = np.ascontiguousarray(probes, np.float32)
        # Row by row: what one is told depends on no other, nor does the memory that it takes.
        rows = (self._run(probes[at : at + 1]) for at in range(len(probes)))
        return tuple(self._told(*row, threshold, margin, most) for row in rows)

    def _run(self, probe: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Probability and similarity of each label."""
        probabilities, similarities = self._session.run(probe)
        if not (np.isfinite(probabilities).all() and np.isfinite(similarities).all()):
            raise ModelUnavailable("the recognizer computes no numbers")
        return probabilities[0], similarities[0]

    def _told(
        self,
        probabilities: FloatArray,
        similarities: FloatArray,
        threshold: float,
        margin: float,
        most: int,
    ) -> Recognized:
        order = np.argsort(-probabilities, kind="stable")[:most]
        nearest = int(np.argmax(similarities))
        if nearest not in order:
            order = np.append(order, nearest)
        candidates = tuple(
            Candidate(self.card.labels[at], float(probabilities[at]), float(similarities[at]))
            for at in order
        )
        best, largest = candidates[0].similarity, float(similarities[nearest])
        decision = _decide(best, largest, threshold, margin)
        return Recognized(decision, best if decision == "match" else largest, candidates)


def _decide(best: float, largest: float, threshold: float, margin: float) -> Decision:
    """From the similarity to the most probable label, and the largest to any; bars are inclusive.

    Somebody who is clearly nearer than the most probable label contradicts it: it is not told.
    """
    if best >= threshold and best >= largest - margin:
        return "match"
    return "ambiguous" if largest >= threshold else "unknown"
