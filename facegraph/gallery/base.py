"""The immutable part of a gallery: all samples at one version, in one buffer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from facegraph.columns import TextIndex, Texts
from facegraph.gallery import layout
from facegraph.gallery.codes import Codes, Storage, best_storage, blocks, code_type, encode
from facegraph.gallery.device import DeviceCodes
from facegraph.gallery.scoring import BLOCK, Coded
from facegraph.types import WHOLE, FloatArray, Head, Shard, SubjectRecord


class _Embeddings(Protocol):
    def __getitem__(self, rows: slice, /) -> FloatArray: ...


class Records(Protocol):
    """What a base is built of: :class:`facegraph.types.GalleryRecords`, or those of a merge."""

    @property
    def head(self) -> Head: ...
    @property
    def subject_ids(self) -> Texts: ...
    @property
    def subject_details(self) -> Texts: ...
    @property
    def sample_ids(self) -> Texts: ...
    @property
    def row_subjects(self) -> npt.NDArray[np.int32]: ...
    @property
    def embeddings(self) -> _Embeddings: ...


_TEXTS = ("sample_ids", "subject_ids", "subject_details")


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """The samples of a collection, or of a shard of it, as they were at ``head.version``.

    embeddings: (rows, dimension) float32, in a file where the base lies in one
    row_subjects: (rows,) int32, index of each row's subject
    codes: what searches read of every row
    nbytes: of all of it
    """

    head: Head
    shard: Shard
    codes: Coded
    storage: Storage
    embeddings: FloatArray
    row_subjects: npt.NDArray[np.int32]
    sample_ids: Texts
    subject_ids: Texts
    subject_details: Texts
    sample_index: TextIndex
    subject_index: TextIndex
    nbytes: int

    @classmethod
    def build(
        cls,
        records: Records,
        storage: Storage | str = "auto",
        *,
        shard: Shard = WHOLE,
        path: Path | None = None,
        threads: int = 2,
    ) -> Base:
        """A base of ``records``, in memory or as a new file at ``path``; FileExistsError, OSError.

        A file is complete and on the disk when this returns, or it is removed.
        """
        kind: Any = best_storage(len(records.sample_ids)) if storage == "auto" else storage
        draft = layout.Draft(_shapes(records, kind), path)
        try:
            _fill(draft.arrays, records, kind, threads)
            return cls._of(draft.finish(_notes(records.head, kind, shard)))
        except BaseException:
            draft.abandon()
            raise

    @classmethod
    def open(cls, path: Path) -> Base:
        """The base in a file, every byte of it checked; DamagedGallery, OSError."""
        opened = layout.open_layout(path)
        try:
            return cls._of(opened)
        except (KeyError, TypeError) as error:
            raise layout.DamagedGallery(f"its parts do not fit: {error}") from error

    @classmethod
    def _of(cls, opened: layout.Layout) -> Base:
        notes, arrays = opened.notes, opened.arrays
        texts = {name: Texts(arrays[f"{name}.offsets"], arrays[f"{name}.data"]) for name in _TEXTS}
        storage = notes["storage"]
        data = arrays["embeddings"] if storage == "float32" else arrays["codes"]
        return cls(
            head=Head(**notes["head"]),
            storage=storage,
            shard=Shard(*notes["shard"]),
            codes=Codes(storage, data, arrays["scales"], arrays["errors"], arrays["norms"]),
            embeddings=arrays["embeddings"],
            row_subjects=arrays["row_subjects"],
            sample_index=TextIndex(arrays["sample_keys"], arrays["sample_rows"]),
            subject_index=TextIndex(arrays["subject_keys"], arrays["subject_rows"]),
            nbytes=opened.nbytes,
            **texts,
        )

    def on(self, device: str) -> Base:
        """The same with its codes on a torch device: bfloat16, unless they are to be float32.

        RuntimeError where its memory does not suffice.
        """
        kind: Any = "float32" if self.storage == "float32" else "bf16"
        return replace(self, codes=DeviceCodes.of(self.embeddings, kind, device))

    @property
    def rows(self) -> int:
        return len(self.embeddings)

    @property
    def subjects(self) -> int:
        return len(self.subject_ids)

    def subject(self, index: int | np.integer) -> SubjectRecord:
        """The subject of that index, as it was at the base's version."""
        name, metadata = json.loads(self.subject_details[index])
        return SubjectRecord(self.subject_ids[index], name, metadata)


def _notes(head: Head, storage: Storage, shard: Shard) -> dict[str, Any]:
    kept = {
        "incarnation": head.incarnation,
        "version": head.version,
        "log_floor": head.log_floor,
        "contract_id": head.contract_id,
        "dimension": head.dimension,
        "stamp": head.stamp,
    }
    return {"head": kept, "storage": storage, "shard": [shard.index, shard.count]}


def _shapes(records: Records, storage: Storage) -> dict[str, tuple[npt.DTypeLike, layout.Shape]]:
    rows, width = len(records.sample_ids), records.head.dimension
    count = blocks(rows)
    shapes: dict[str, tuple[npt.DTypeLike, layout.Shape]] = {
        "embeddings": (np.float32, (rows, width)),
        "row_subjects": (np.int32, (rows,)),
        "scales": (np.float32, (count,)),
        "errors": (np.float32, (count,)),
        "norms": (np.float32, (count,)),
        "sample_keys": (np.uint32, (rows,)),
        "sample_rows": (np.int32, (rows,)),
        "subject_keys": (np.uint32, (len(records.subject_ids),)),
        "subject_rows": (np.int32, (len(records.subject_ids),)),
    }
    if storage != "float32":
        shapes["codes"] = (code_type(storage), (rows, width))
    for name in _TEXTS:
        column: Texts = getattr(records, name)
        shapes[f"{name}.offsets"] = (np.int64, column.offsets.shape)
        shapes[f"{name}.data"] = (np.uint8, column.data.shape)
    return shapes


def _fill(arrays: layout.Arrays, records: Records, storage: Storage, threads: int) -> None:
    arrays["row_subjects"][:] = records.row_subjects
    for name in _TEXTS:
        column: Texts = getattr(records, name)
        arrays[f"{name}.offsets"][:], arrays[f"{name}.data"][:] = column.offsets, column.data

    def index(name: str) -> None:
        made = TextIndex.of(getattr(records, f"{name}_ids"))
        arrays[f"{name}_keys"][:], arrays[f"{name}_rows"][:] = made.keys, made.rows

    def block(number: int) -> None:
        rows = slice(number * BLOCK, (number + 1) * BLOCK)
        arrays["embeddings"][rows] = records.embeddings[rows]
        codes = arrays["codes"][rows] if "codes" in arrays else None
        bounds = encode(storage, arrays["embeddings"][rows], codes)
        for part, value in zip(("scales", "errors", "norms"), bounds, strict=True):
            arrays[part][number] = value

    with ThreadPoolExecutor(threads, thread_name_prefix="gallery") as pool:
        made = [pool.submit(index, name) for name in ("sample", "subject")]
        made += [pool.submit(block, number) for number in range(len(arrays["scales"]))]
        for one in made:
            one.result()
