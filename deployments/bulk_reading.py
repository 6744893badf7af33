"""A source of items as Ray Data reads it: a part a task, streamed in small blocks.

Items and outcomes travel pickled, a list of them in each row: they hold pictures, arrays and texts
of any length.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from facegraph.bulk.items import Found, Item, Source

ITEMS_PER_BLOCK = 16
"""What a worker takes at a time: few enough that every worker has some."""

BYTES_PER_BLOCK = 8 * 2**20
"""Of pictures that lie in the table itself."""

COLUMN = "pickled"


def datasource(source: Source) -> Any:
    """``source`` as a ``ray.data.Datasource``."""
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    class Items(Datasource):
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            unknown = BlockMetadata(
                num_rows=None, size_bytes=None, exec_stats=None, input_files=None
            )
            return [ReadTask(_reader(part), unknown) for part in source.parts()]

    made: Any = Items
    return made()


def _reader(part: Source) -> Any:
    def read() -> Iterator[pa.Table]:
        for found in blocks(part.items()):
            yield pickled([found])

    return read


def blocks(items: Iterator[Found]) -> Iterator[list[Found]]:
    """``items`` a few at a time: fewer where they bring their pictures with them."""
    block: list[Found] = []
    size = 0
    for item in items:
        block.append(item)
        if isinstance(item, Item) and isinstance(item.content, bytes):
            size += len(item.content)
        if len(block) == ITEMS_PER_BLOCK or size >= BYTES_PER_BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def pickled(lists: Sequence[Sequence[Any]]) -> pa.Table:
    """A row for each list."""
    rows = [pickle.dumps(one, protocol=pickle.HIGHEST_PROTOCOL) for one in lists]
    return pa.table({COLUMN: pa.array(rows, pa.large_binary())})


def unpickled(table: pa.Table) -> Iterator[Any]:
    """The lists of a table that :func:`pickled` made, in this run of this program."""
    for row in table.column(COLUMN):
        yield pickle.loads(row.as_buffer())  # noqa: S301 - from our own workers
