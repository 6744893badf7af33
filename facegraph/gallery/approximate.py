"""Candidates for very large galleries, from a few bits of every row.

Each pair of an embedding's components becomes 4 bits (product quantisation), and a search looks at
the codes of all rows, 32 at a time in the processor's registers (FAISS's fast scan, after André,
Kermarrec and Le Scouarnec, "Cache locality is not enough", VLDB 2015). There are no cells and no
graph that a near row could be missed in: it is missed only where ``wanted`` others look nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from facegraph.types import FloatArray

Rows = npt.NDArray[np.int32]

_CODE_BITS = 4
_MOST_CODES = 256
"""Per row: the sum of so many table entries of 8 bits fits into 16."""

_TRAINED_ON = 4096
_BLOCK = 16_384
_PAIRS_PER_PASS = 2**22
"""Candidates held at once: 48 MiB of rows and scores in each part."""

_FIRST_ASKED = 256
_ASKED_PER_SUBJECT = 16
_WIDER = 8


class BuildCancelled(Exception):
    """Nobody wants what was being built any more."""


class Approximate:
    """Codes of all rows of one base, which never change; it holds no threads and no embeddings."""

    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts
        self._firsts = np.cumsum([0] + [part.ntotal for part in parts]).tolist()
        self.rows: int = self._firsts[-1]
        self.dimension: int = parts[0].d

    @classmethod
    def build(
        cls,
        embeddings: FloatArray,
        *,
        threads: int,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Approximate:
        """Of embeddings (n, d) float32, L2-normalised, n > 0, by ``threads`` threads.

        Reads a sample and then blocks; they alone are copied. The same embeddings and number of
        threads make the same index. It has a part for each thread, and a search takes a part at a
        time. Raises BuildCancelled within a block of ``cancelled()``, ValueError.
        """
        if not len(embeddings):
            raise ValueError("an approximate index needs at least one row")
        empty = _trained(embeddings)
        edges = np.linspace(0, len(embeddings), min(threads, len(embeddings)) + 1).astype(int)

        def encode(first: int, end: int) -> Any:
            faiss = _faiss()
            part = faiss.clone_index(empty)
            for start in range(first, end, _BLOCK):
                if cancelled():
                    raise BuildCancelled
                block = embeddings[start : min(end, start + _BLOCK)]
                part.add(np.ascontiguousarray(block, np.float32))
            return part

        with ThreadPoolExecutor(threads, thread_name_prefix="approximate") as pool:
            return cls(list(pool.map(encode, edges[:-1].tolist(), edges[1:].tolist())))

    @property
    def nbytes(self) -> int:
        """Memory of the codes and of what they stand for."""
        return sum(part.codes.size() + 4 * part.pq.centroids.size() for part in self._parts)

    @property
    def description(self) -> dict[str, str | int]:
        """What kind of index this is, for people."""
        return {
            "kind": "product quantisation, fast scan",
            "bits_per_sample": _CODE_BITS * self._parts[0].pq.M,
            "parts": len(self._parts),
            "nbytes": self.nbytes,
        }

    def candidates(
        self, probes: FloatArray, wanted: int, *, pool: Executor | None = None
    ) -> list[Rows]:
        """For each of probes (m, d) the ``wanted`` rows that look nearest, or all; best first.

        No row comes twice. Asked for as many as there are, it names all. Parts beyond the first
        are searched in ``pool``, or one after another.
        """
        wanted = min(wanted, self.rows)
        step = max(1, _PAIRS_PER_PASS // wanted)
        found: list[Rows] = []
        for start in range(0, len(probes), step):
            some = np.ascontiguousarray(probes[start : start + step], np.float32)
            found.extend(rows[rows >= 0] for rows in self._candidates(some, wanted, pool))
        return [self._completed(rows) for rows in found] if wanted == self.rows else found

    def _completed(self, rows: Rows) -> Rows:
        """With those that the library leaves out: rows that are the farthest by every code."""
        if len(rows) == self.rows:
            return rows
        return np.concatenate([rows, np.setdiff1d(np.arange(self.rows, dtype=np.int32), rows)])

    def _candidates(self, probes: FloatArray, wanted: int, pool: Executor | None) -> Rows:
        """The same as (m, wanted), -1 where the library named none."""

        def search(part: Any) -> tuple[FloatArray, npt.NDArray[np.int64]]:
            _faiss()
            scores, rows = part.search(probes, min(wanted, part.ntotal))
            return scores, rows

        helpers = [pool.submit(search, part) for part in self._parts[1:]] if pool else []
        answers = [search(part) for part in (self._parts[:1] if pool else self._parts)]
        answers += [helper.result() for helper in helpers]
        scores = np.hstack([scores for scores, _ in answers])
        rows = np.hstack(
            [
                np.where(rows < 0, -1, rows + first)
                for first, (_, rows) in zip(self._firsts, answers, strict=False)
            ]
        )
        best = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
        return np.take_along_axis(rows, best, axis=1).astype(np.int32)


def widening(limit: int, rows: int) -> Iterator[int]:
    """How many candidates of ``rows`` to ask for, again and again, until they name enough.

    Candidates name fewer than ``limit`` subjects where one has very many samples or many rows are
    dead. Each pass reads all the codes, however many it asks for, so few passes with ever
    more candidates cost least: eight times as many each time. The last asks for all.
    """
    wanted = max(_FIRST_ASKED, _ASKED_PER_SUBJECT * limit)
    while wanted < rows:
        yield wanted
        wanted *= _WIDER
    yield rows


def _trained(embeddings: FloatArray) -> Any:
    """An empty index whose codes suit ``embeddings``."""
    faiss = _faiss()
    width = embeddings.shape[1]
    index = faiss.IndexPQFastScan(width, _codes(width), _CODE_BITS, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.min_points_per_centroid = 1
    index.pq.cp.max_points_per_centroid = _TRAINED_ON // 2**_CODE_BITS
    count = min(len(embeddings), _TRAINED_ON)
    rows = np.random.default_rng(0).choice(len(embeddings), count, replace=False)
    sample = np.asarray(embeddings[np.sort(rows)], np.float32)
    index.train(np.resize(sample, (max(count, 2**_CODE_BITS), width)))
    return index


def _codes(width: int) -> int:
    """How many codes stand for an embedding: one for two components, or nearly."""
    possible = [codes for codes in range(1, _MOST_CODES + 1) if width % codes == 0]
    return min(possible, key=lambda codes: abs(width // codes - 2))


def _faiss() -> Any:
    """The library, which is to start no threads of its own for the calling one.

    Its OpenMP would keep a team of threads for each thread that calls it, beside those of torch.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss
