"""The peers that are libraries. Each holds the rows as it likes them best, and uses all cores.

A peer answers rows. Who wants subjects asks it for so many rows that they name enough subjects,
here five times the samples a subject has, and groups them: exact as long as no subject has more.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gallery.people import IntArray, People
from benchmarks.gallery.truth import LIMIT, grouped
from benchmarks.gallery.turns import Way, cores, torch_threads
from facegraph.types import FloatArray

HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 16, 64, 100
"""M, ef_construction and ef_search of every HNSW here."""

_BLOCK = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """What can be asked.

    ways: ``rows`` (the best samples) where it knows such, ``subjects``
    numbers: what ``subjects`` answers, as numbers of subjects
    batches: whether several probes cost less together
    about: what it chose by itself
    """

    ways: Mapping[str, Way]
    numbers: Callable[[Any], list[list[int]]] = list
    batches: bool = True
    about: str = ""


def engine_of(
    search: Callable[[FloatArray, int], IntArray], people: People, *, batches: bool = True
) -> Engine:
    """``search`` answers (n, k) rows, best first."""
    oversample = min(LIMIT * people.per_subject, people.samples)

    def subjects(probes: FloatArray) -> list[list[int]]:
        return grouped(search(probes, oversample), people.row_subjects)

    return Engine({"rows": partial(_rows, search), "subjects": subjects}, batches=batches)


def _rows(search: Callable[[FloatArray, int], IntArray], probes: FloatArray) -> IntArray:
    return search(probes, LIMIT)


@contextmanager
def numpy_matmul(people: People) -> Iterator[Engine]:
    def search(probes: FloatArray, k: int) -> IntArray:
        scores = probes @ people.embeddings.T
        rows = np.argpartition(scores, people.samples - k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, rows, 1), axis=1)
        return np.take_along_axis(rows, order, 1)

    yield engine_of(search, people)


@contextmanager
def torch_bf16(people: People) -> Iterator[Engine]:
    """Blocks, so that the scores of one stay in the cache until its best are taken."""
    import torch

    torch_threads(cores())
    parts = torch.split(torch.from_numpy(people.embeddings).bfloat16(), _BLOCK)

    def search(probes: FloatArray, k: int) -> IntArray:
        torch_threads(cores())
        asked = torch.from_numpy(probes).bfloat16()
        values, rows = [], []
        for number, part in enumerate(parts):
            best = (asked @ part.T).topk(min(k, len(part)))
            values.append(best.values)
            rows.append(best.indices + number * _BLOCK)
        best = torch.cat(values, 1).topk(k)
        found: IntArray = torch.cat(rows, 1).gather(1, best.indices).numpy()
        return found

    yield engine_of(search, people)


@contextmanager
def faiss_flat(people: People) -> Iterator[Engine]:
    """Its switch to a matrix product is set so low that batches of 64 take it."""
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(cores())
    faiss.cvar.distance_compute_blas_threshold = 20
    index = faiss.IndexFlatIP(people.dimension)
    index.add(people.embeddings)

    def search(probes: FloatArray, k: int) -> IntArray:
        rows: IntArray = index.search(probes, k)[1]
        return rows

    yield engine_of(search, people)


@contextmanager
def usearch_exact(people: People, storage: str) -> Iterator[Engine]:
    """``storage``: f32 or i8; its i8 are 127 times the numbers, rounded."""
    module: Any = importlib.import_module("usearch.index")

    def stored(rows: FloatArray) -> Any:
        return rows if storage == "f32" else np.rint(rows * np.float32(127)).astype(np.int8)

    codes, metric, threads = stored(people.embeddings), module.MetricKind.Cos, cores()

    def search(probes: FloatArray, k: int) -> IntArray:
        found = module.search(codes, stored(probes), k, metric, exact=True, threads=threads)
        keys: IntArray = found.keys.reshape(len(probes), k).astype(np.int64)
        return keys

    yield engine_of(search, people)


@contextmanager
def hnswlib_index(people: People) -> Iterator[Engine]:
    hnswlib: Any = importlib.import_module("hnswlib")
    index = hnswlib.Index(space="ip", dim=people.dimension)
    index.init_index(people.samples, M=HNSW_LINKS, ef_construction=HNSW_BUILD, random_seed=0)
    index.add_items(people.embeddings, num_threads=cores())
    index.set_ef(HNSW_SEARCH)

    def search(probes: FloatArray, k: int) -> IntArray:
        rows: IntArray = index.knn_query(probes, k, num_threads=cores())[0].astype(np.int64)
        return rows

    yield engine_of(search, people)
