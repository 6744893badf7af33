"""Updates under load: not one request fails, and who was enrolled is found at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests import photos
from tests.serve.copies import wait_until, write_config
from tests.serve.namespaces import PrivateRay, why_not
from tests.serve.traffic import Newcomers, Recognised, Traffic, make_collection, sent

pytestmark = [
    pytest.mark.serve,
    pytest.mark.timeout(480),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

CORES = 4
"""Counted, not real: an update starts what is new before it stops what is old."""

FACES = ("ingress", "detector", "embedder", "matcher")


@dataclass(slots=True)
class Updated:
    """A service whose configuration is changed while it runs."""

    ray: PrivateRay
    config: Path
    fewest: int = 1
    """Replicas of any part of the face path that ran at any time."""

    def change(self, args: dict[str, Any], **deployments: dict[str, Any]) -> None:
        """Deploys it with other arguments, and other options of deployments."""
        document = yaml.safe_load(self.config.read_text())
        (application,) = document["applications"]
        application["args"] |= args
        for part in application["deployments"]:
            other = deployments.get(part["name"], {})
            part |= {k: part[k] | v if k == "user_config" else v for k, v in other.items()}
        self.config.write_text(yaml.safe_dump(document))
        self.ray.deploy(self.config)
        wait_until(self._is_there, "the changed application")
        assert self.fewest >= 1, "a part had no replica meanwhile"

    def replicas(self) -> dict[str, set[str]]:
        """The replicas' names of each part of the face path."""
        running = self.system()["running"]
        return {name: {replica["replica"] for replica in running[name]} for name in FACES[1:]}

    def _is_there(self) -> bool:
        state = self.ray.state()
        told = state["deployments"]  # nothing of an application that is being built
        self.fewest = min([self.fewest, *(told[name][1] for name in FACES if name in told)])
        return set(state["applications"].values()) == {"RUNNING"}

    def system(self) -> Any:
        with httpx.Client(base_url=self.ray.url, timeout=60) as http:
            return http.get("/v1/system").raise_for_status().json()


@pytest.fixture(scope="module")
def updated(copies_folder: Path, make_database: Callable[[], str]) -> Iterator[Updated]:
    folder = copies_folder / "updated"
    folder.mkdir()
    config = write_config(folder, {}, segmenter="none", captioner="none")
    ray = PrivateRay(folder, {"FACEGRAPH_DATABASE_URL": make_database()}, cores=CORES)
    try:
        ray.start()
        ray.deploy(config)
        wait_until(ray.running, "the application")
        yield Updated(ray, config)
    finally:
        ray.stop()


def in_place(updated: Updated) -> None:
    """Limits, which the replicas take up as they run."""
    before = updated.replicas()
    updated.change({}, detector={"user_config": {"max_queue": 100}})
    wait_until(lambda: _tuning(updated, "detector")["max_queue"] == 100, "the limit")
    assert updated.replicas() == before


def more_replicas(updated: Updated) -> None:
    updated.change({}, matcher={"num_replicas": 2})
    wait_until(lambda: len(updated.replicas()["matcher"]) == 2, "a second matcher")


def fewer_replicas(updated: Updated) -> None:
    updated.change({}, matcher={"num_replicas": 1})
    wait_until(lambda: len(updated.replicas()["matcher"]) == 1, "one matcher")


def everything_anew(updated: Updated) -> None:
    """An argument: every replica of every deployment is replaced, the ingress too."""
    before = updated.replicas()
    updated.change({"root_dialects": []})
    after = updated.replicas()
    assert all(before[name].isdisjoint(after[name]) for name in before)
    with httpx.Client(base_url=updated.ray.url, timeout=60) as http:
        assert http.get("/status").status_code == 404


def _tuning(updated: Updated, name: str) -> Any:
    return updated.system()["running"][name][0]["tuning"]


@pytest.mark.parametrize("update", [in_place, more_replicas, fewer_replicas, everything_anew])
def test_an_update_loses_no_request(updated: Updated, update: Callable[[Updated], None]) -> None:
    traffic = Traffic(updated.ray.url)
    with httpx.Client(base_url=updated.ray.url, timeout=60) as http:
        path = make_collection(http, update.__name__)
        contract = http.get("/v1/system").raise_for_status().json()["contract"]["id"]
        pictured = make_collection(http, "pictured")
        http.post(f"{pictured}/subjects", json={"id": "hanks"}).raise_for_status()
        picture = sent(photos.PORTRAIT)
        http.post(f"{pictured}/subjects/hanks/samples", **picture).raise_for_status()
    newcomers = Newcomers(path, contract)
    recognised = Recognised(pictured, picture, "hanks")
    with traffic.of(*[newcomers] * 6, *[recognised] * 2):
        wait_until(traffic.more(20), "traffic before")
        update(updated)
        wait_until(traffic.more(20), "traffic after")
    assert traffic.wrong == []
    with httpx.Client(base_url=updated.ray.url, timeout=60) as http:
        lost = [number for number in newcomers.enrolled if newcomers.look(http, number)]
        assert lost == []
        assert http.get(path).json()["sample_count"] == len(newcomers.enrolled)
