"""Read your writes on every replica (law 4): any history, on a real database, against a model.

Three matchers with stores of their own follow two collections while writers enrol, replace and
erase, one after the other or side by side; while collections are cleared, deleted, made again and
bound to another contract; while the log is cut short and matchers come and go. Every write has a
name of its own, so an answer shows which version it is of, and none may be a mixture.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from facegraph.config import MatcherTuning
from facegraph.errors import CollectionNotFound, Conflict, ContractMismatch, NotFound
from facegraph.graph import Query
from facegraph.matcher import Matcher
from facegraph.store import Store
from facegraph.types import Consistency, Contract, SearchResult
from tests.store.law4 import (
    EVERYBODY,
    Clearing,
    Enrolment,
    Erasure,
    Life,
    World,
    Write,
    points,
    told,
)
from tests.store.making import CONTRACT, OTHER_CONTRACT

pytestmark = pytest.mark.store

T = TypeVar("T")

REPLICAS = 3
KEEP_VERSIONS = 4

collections = st.sampled_from(["default", "default", "other"])
replicas = st.integers(0, REPLICAS - 1)
contracts = st.sampled_from([CONTRACT, CONTRACT, OTHER_CONTRACT])
subjects = st.integers(0, 3).map("s{}".format)
rows = st.lists(st.integers(0, 7), max_size=3)


@dataclass(frozen=True)
class Plan:
    """A write, drawn before what the world looks like is known.

    Writes side by side commit in any order; were draws to depend on it, a history could not be
    played twice.
    """

    subject: str
    kind: str
    nth: int
    contract: Contract
    again: bool  # ids that may be in use, or were
    rows: list[int]


plans = st.builds(
    Plan,
    subjects,
    st.sampled_from(["append", "replace", "replace", "erase", "remove"]),
    st.integers(0, 5),
    contracts,
    st.booleans(),
    rows,
)


class Law4(RuleBasedStateMachine):
    url = ""
    folder = Path()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.serial = itertools.count()
        self.lives: dict[str, list[Life]] = {"default": [Life()], "other": []}
        self.present = {"default"}
        self.stamps: dict[tuple[int, int], str] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio.wait_for(work, 30))

    def life(self, collection: str) -> Life:
        return self.lives[collection][-1]

    @initialize()
    def begin(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute("DELETE FROM facegraph.collections")
        self.writer = await Store.open(self.url, keep_versions=KEEP_VERSIONS)
        await self.writer.ensure_default(CONTRACT)
        self.stores = [await Store.open(self.url, pool_size=2) for _ in range(REPLICAS)]
        self.matchers = [await self._matcher(n) for n in range(REPLICAS)]

    async def _matcher(self, n: int) -> Matcher:
        """One that does not poll, one beside it on its node, one that forgets what is unused."""
        tuning = MatcherTuning(
            poll_interval_s=60 if n == 0 else 0.02,
            catch_up_timeout_s=20,
            idle_timeout_s=0.01 if n == 2 else 60,
        )
        matcher = Matcher(
            self.stores[n],
            tuning,
            storage=["float32", "int8", "float32"][n],
            folder=self.folder if n < 2 else None,
        )
        await matcher.start()
        return matcher

    def teardown(self) -> None:
        if hasattr(self, "matchers"):
            self.run(self._end())
        self.runner.close()

    async def _end(self) -> None:
        for matcher in self.matchers:
            matcher.check()
            await matcher.close()
        for store in [*self.stores, self.writer]:
            await store.close()

    # What happens

    @rule(collection=collections, writes=st.lists(plans, min_size=1, max_size=4), replica=replicas)
    def write(self, collection: str, writes: list[Plan], replica: int) -> None:
        """Side by side, beside searches; then any replica sees all of it."""
        if collection in self.present:
            planned = [self._as_planned(plan, collection) for plan in writes]
            self.run(self._write_and_search(collection, planned, replica))

    def _as_planned(self, plan: Plan, collection: str) -> Write:
        now, subject = self.life(collection).now, plan.subject
        owned = sorted(sample for sample, (owner, _) in now.samples.items() if owner == subject)
        if plan.kind == "remove" and owned:
            return Erasure(subject, owned[plan.nth % len(owned)])
        if plan.kind == "erase":
            return Erasure(subject)
        number = next(self.serial)
        contract = now.contract if now.samples else plan.contract
        new = {
            f"again-{subject}-{i}" if plan.again else f"x{number}-{i}": row
            for i, row in enumerate(plan.rows)
        }
        return Enrolment(subject, f"write {number}", new, contract, anew=plan.kind == "replace")

    async def _write_and_search(self, collection: str, writes: list[Write], replica: int) -> None:
        life = self.life(collection)
        before, contract = life.now.version, life.now.contract
        written, *found = await asyncio.gather(
            self._write(collection, writes),
            *(self._search(n, collection, contract) for n in range(REPLICAS)),
        )
        assert isinstance(written, dict)
        life.take(written)
        for result in found:
            if isinstance(result, SearchResult):
                assert before <= result.version <= life.now.version
                self._require(collection, result, life.worlds[result.version], contract)
            else:  # a write beside it took another contract
                assert isinstance(result, ContractMismatch)
                assert life.now.contract != contract
        await self._require_fresh(replica, collection)

    async def _write(self, collection: str, writes: list[Write]) -> dict[int, Write]:
        """Those that were acknowledged, by version."""
        versions = await asyncio.gather(*(self._write_one(collection, one) for one in writes))
        acknowledged = [version for version in versions if version is not None]
        assert len(set(acknowledged)) == len(acknowledged)
        return {
            version: one
            for version, one in zip(versions, writes, strict=True)
            if version is not None
        }

    async def _write_one(self, collection: str, write: Write) -> int | None:
        store = self.writer
        try:
            match write:
                case Enrolment():
                    enrol = store.replace_subject if write.anew else store.append_samples
                    made = await enrol(
                        collection,
                        write.subject,
                        name=write.name,
                        samples=write.new_samples(),
                        contract=write.contract,
                    )
                    return made.version
                case Erasure(subject, None):
                    return await store.delete_subject(collection, subject)
                case Erasure(subject, str(sample)):
                    return await store.delete_sample(collection, subject, sample)
                case _:
                    return await store.clear_collection(collection)
        except (NotFound, Conflict):
            return None

    @rule(collection=collections, replica=replicas)
    def clear(self, collection: str, replica: int) -> None:
        if collection in self.present:
            self.run(self._write_and_search(collection, [Clearing()], replica))

    @rule(collection=collections, replica=replicas, contract=contracts)
    def delete_and_make(self, collection: str, replica: int, contract: Contract) -> None:
        """``default`` comes back by itself; the other one when it is made."""
        self.run(self._delete_and_make(collection, replica, contract))

    async def _delete_and_make(self, collection: str, replica: int, contract: Contract) -> None:
        if collection in self.present:
            await self.writer.delete_collection(collection, force=True)
            if collection == "default":
                self.lives[collection].append(Life(self.life(collection).now.contract))
            else:
                self.present.discard(collection)
        else:
            made = await self.writer.create_collection(collection, contract=contract)
            self.lives[collection].append(Life(contract, made.version))
            self.present.add(collection)
        await self._require_fresh(replica, collection)

    @rule(collection=collections, replica=replicas, threshold=st.sampled_from([None, 0.25, 0.5]))
    def change_threshold(self, collection: str, replica: int, threshold: float | None) -> None:
        if collection in self.present:
            self.run(self.writer.update_collection(collection, {"threshold": threshold}))
            self.life(collection).threshold = threshold
            self.run(self._require_fresh(replica, collection))

    @rule(nth=st.integers(0, 3), replica=replicas)
    def rename(self, nth: int, replica: int) -> None:
        life = self.life("default")
        present = sorted(life.now.subjects)
        if not present:
            return
        subject = present[nth % len(present)]
        change = Enrolment(subject, f"write {next(self.serial)}", {})
        self.run(self.writer.update_subject("default", subject, {"name": change.name}))
        life.take({life.now.version + 1: change})
        self.run(self._require_fresh(replica, "default"))

    @rule(replica=replicas)
    def restart(self, replica: int) -> None:
        self.run(self._restart(replica))

    async def _restart(self, replica: int) -> None:
        await self.matchers[replica].close()
        self.matchers[replica] = await self._matcher(replica)
        await self._require_fresh(replica, "default")

    @rule(replica=replicas, collection=collections)
    def search_eventually(self, replica: int, collection: str) -> None:
        """Some version there was, whole."""
        self.run(self._require_some_version(replica, collection))

    @rule(replica=st.integers(1, REPLICAS - 1))
    def polling_catches_up(self, replica: int) -> None:
        self.run(self._wait_for_polls(replica))

    # What must be true

    async def _search(
        self,
        replica: int,
        collection: str,
        contract: Contract,
        consistency: Consistency = "strong",
    ) -> SearchResult | CollectionNotFound | ContractMismatch:
        probes, query = points(contract.dimension), Query(EVERYBODY, consistency)
        try:
            return await self.matchers[replica].match(collection, contract.id, probes, query)
        except (CollectionNotFound, ContractMismatch) as error:
            return error

    async def _require_fresh(self, replica: int, collection: str) -> None:
        """A strong search answers the very last version, and the threshold in force."""
        if collection not in self.present:
            found = await self._search(replica, collection, CONTRACT)
            assert isinstance(found, CollectionNotFound)
            return
        life = self.life(collection)
        found = await self._search(replica, collection, life.now.contract)
        assert isinstance(found, SearchResult)
        assert (found.version, found.threshold) == (life.now.version, life.threshold)
        self._require(collection, found, life.now, life.now.contract)
        if life.now.samples:
            another = OTHER_CONTRACT if life.now.contract == CONTRACT else CONTRACT
            assert isinstance(await self._search(replica, collection, another), ContractMismatch)

    def _require(
        self, collection: str, found: SearchResult, world: World, contract: Contract
    ) -> None:
        assert found.version == world.version
        expected: list[list[Any]] = [[] for _ in points(contract.dimension)]
        assert told(found.matches) == (world.told if world.samples else expected)
        if found.stamp:
            known = self.stamps.setdefault((id(self.life(collection)), found.version), found.stamp)
            assert found.stamp == known

    async def _require_some_version(self, replica: int, collection: str) -> None:
        lives = self.lives[collection]
        contract = lives[-1].now.contract if lives else CONTRACT
        found = await self._search(replica, collection, contract, "eventual")
        match found:
            case SearchResult():
                answered = told(found.matches)
                nothing: list[list[Any]] = [[] for _ in answered]
                past = [life.worlds.get(found.version) for life in lives]
                assert answered in [
                    world.told if world.samples else nothing
                    for world in past
                    if world is not None and (world.contract == contract or not world.samples)
                ]
            case CollectionNotFound():
                assert collection not in self.present
            case _:
                assert any(
                    world.contract != contract
                    for known in (life.worlds for life in lives)
                    for world in known.values()
                )

    async def _wait_for_polls(self, replica: int) -> None:
        """Without a strong search, what is in memory comes to what is true."""
        self.matchers[replica].check()
        while True:
            galleries = self.matchers[replica].describe()["galleries"]
            version = self.life("default").now.version
            if galleries.get("default", {}).get("version") == version and (
                "other" in self.present or "other" not in galleries
            ):
                break
            await asyncio.sleep(0.005)
        await self._require_some_version(replica, "default")


@pytest.mark.parametrize("merging", ["seldom", "often"])
def test_read_your_writes_on_every_replica(
    merging: str, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if merging == "often":  # and every gallery gets a file
        monkeypatch.setattr("facegraph.gallery.gallery._FEW_ADDED", 3)
        monkeypatch.setattr("facegraph.gallery.gallery._FEW_GONE", 2)
        monkeypatch.setattr("facegraph.matching.upkeep.FEW_ROWS", 1)
    asyncio.run(_migrate(store_url))
    machine = type("Law4", (Law4,), {"url": store_url, "folder": tmp_path})
    limits = hypothesis_settings(
        max_examples=12,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=limits)


async def _migrate(url: str) -> None:
    async with Store.open(url):
        pass
