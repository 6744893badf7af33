"""An old system's people, embedded anew from their pictures by the active face pack."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from facegraph.errors import FacegraphError
from facegraph.importing.enrolling import Entry, Person, enrol, known_samples, sample_id
from facegraph.importing.from_vectors import person_of
from facegraph.importing.old_tables import OldTables
from facegraph.importing.pictures import Picture, PictureFolder
from facegraph.importing.report import Rejected, Rejection, Report
from facegraph.service import Service

AT_ONCE = 8
"""Pictures in memory, and samples in one transaction: embedding them is what takes the time."""


@dataclass(frozen=True, slots=True)
class _Item:
    old_id: str
    person: Person
    picture: Picture


async def import_pictures(
    old: OldTables, folder: PictureFolder, service: Service, collection_id: str, report: Report
) -> None:
    """Every face's pictures; the largest face of each counts, as in smartav's update-samples."""
    async with aclosing(old.ids()) as ids:
        async for old_id in ids:
            folder.claim(old_id)
    work = _Work(old.system.name, folder, service, collection_id, report)
    batch: list[_Item] = []
    async with aclosing(old.faces()) as faces:
        async for face in faces:
            try:
                person = person_of(face)
                pictures = folder.pictures(face.id or "")
                if not pictures:
                    raise Rejected("no_picture", "the folder has no picture of this id")
            except Rejected as why:
                report.reject(Rejection(face.id, None, why.code, why.detail))
                continue
            for picture in pictures:
                batch.append(_Item(face.id or "", person, picture))
                if len(batch) == AT_ONCE:
                    await work.run(batch)
                    batch = []
    await work.run(batch)


@dataclass(frozen=True, slots=True)
class _Work:
    source: str
    folder: PictureFolder
    service: Service
    collection_id: str
    report: Report

    async def run(self, batch: Sequence[_Item]) -> None:
        """Embeds and enrols; pictures that are samples already are not embedded again."""
        loaded = [loaded for item in batch if (loaded := await asyncio.to_thread(self._load, item))]
        names = [name for _, name, _ in loaded]
        known = await known_samples(self.service.store, self.collection_id, names)
        entries = await asyncio.gather(
            *(self._entry(item, name, data) for item, name, data in loaded if name not in known)
        )
        contract = self.service.contract
        new = [entry for entry in entries if entry is not None]
        await enrol(self.service.store, self.collection_id, new, contract, self.report)
        self.report.samples(0, sum(name in known for name in names))
        self.report.subjects({item.person.id for item, name, _ in loaded if name in known}, set())

    def _load(self, item: _Item) -> tuple[_Item, str, bytes] | None:
        try:
            data = self.folder.read(item.picture, self.service.tuning.max_image_bytes)
        except Rejected as why:
            self._reject(item, why.code, why.detail)
            return None
        return item, sample_id(self.source, item.old_id, data), data

    async def _entry(self, item: _Item, name: str, data: bytes) -> Entry | None:
        try:
            (sample,), _ = await self.service.samples([data], "largest")
        except FacegraphError as error:
            if error.status >= 500:  # no fault of the picture
                raise
            self._reject(item, error.code, str(error))
            return None
        return Entry(item.person, name, replace(sample, id=name))

    def _reject(self, item: _Item, code: str, detail: str) -> None:
        self.report.reject(Rejection(item.old_id, item.picture.name, code, detail))
