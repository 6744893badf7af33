"""Three matchers that share the subjects: everybody is found, and a lost shard is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from tests.serve.copies import Copy, wait_until, write_config
from tests.serve.test_freshness_and_recovery import vector

pytestmark = pytest.mark.serve

PEOPLE = 40
SEARCH = "/v1/collections/default/search"
MATCHERS = ("matcher", "matcher-1", "matcher-2")
REQUEST_TIMEOUT_S = 8.0


def write_sharded(folder: Path, shards: int) -> Path:
    """One replica each, and little patience, so that a loss shows soon."""
    path = write_config(folder, {}, matcher_shards=shards)
    document = yaml.safe_load(path.read_text())
    for deployment in document["applications"][0]["deployments"]:
        if deployment["name"] == "ingress":
            deployment["user_config"]["request_timeout_s"] = REQUEST_TIMEOUT_S
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def _sharded(copies_folder: Path) -> Iterator[Copy]:
    folder = copies_folder / "sharded"
    folder.mkdir()
    copy = Copy(folder, write_sharded(folder, len(MATCHERS)))
    copy.start()
    with copy.client() as http:
        contract = http.get("/v1/system").json()["contract"]["id"]
        for number in range(PEOPLE):
            subject = {"id": f"s{number:02}"}
            http.post("/v1/collections/default/subjects", json=subject).raise_for_status()
            sample = {"embeddings": [vector(number)], "contract": contract}
            path = f"/v1/collections/default/subjects/s{number:02}/samples"
            http.post(path, json=sample).raise_for_status()
    yield copy
    copy.stop()


@pytest.fixture
def sharded(_sharded: Copy) -> Copy:
    """The module's copy, ready: whatever a test before this one has hurt is back."""
    _sharded.wait_ready()
    return _sharded


@pytest.fixture
def http(sharded: Copy) -> Iterator[httpx.Client]:
    with sharded.client() as client:
        yield client


def running(http: httpx.Client) -> Any:
    return http.get("/v1/system").raise_for_status().json()["running"]


def sizes(http: httpx.Client) -> list[int]:
    """How many samples each matcher has, in the shards' order."""
    parts = [replicas for name, replicas in running(http).items() if name.startswith("matcher")]
    return [replica["galleries"]["default"]["samples"] for (replica,) in parts]


def ask(http: httpx.Client, number: int, **more: Any) -> httpx.Response:
    """A search for that person, in which everybody is listed."""
    contract = http.get("/v1/system").json()["contract"]["id"]
    probe = {"embedding": vector(number), "contract": contract}
    return http.post(SEARCH, json=probe | {"limit": 100, "include_below": True} | more)


def listed(response: httpx.Response) -> list[str]:
    (face,) = response.raise_for_status().json()["faces"]
    return [match["subject_id"] for match in face["matches"]]


def ranking(number: int) -> list[str]:
    """Everybody by similarity, by brute force."""
    rows = np.array([vector(each) for each in range(PEOPLE)], np.float32).astype(np.float64)
    return [f"s{each:02}" for each in np.argsort(-(rows @ rows[number]), kind="stable")]


def assert_whole(http: httpx.Client, *numbers: int) -> None:
    for number in numbers:
        response = ask(http, number)
        assert listed(response) == ranking(number)
        assert "partial" not in response.json()
        assert response.json()["faces"][0]["decision"] == "match"


def test_everybody_is_found_whichever_shard(sharded: Copy, http: httpx.Client) -> None:
    assert_whole(http, *range(PEOPLE))
    shares = sizes(http)
    assert sum(shares) == PEOPLE
    assert min(shares) > 0
    described = running(http)
    assert [described[name][0]["shard"] for name in MATCHERS] == [
        {"index": index, "count": 3} for index in range(3)
    ]
    assert [len(sharded.replicas(name)) for name in MATCHERS[1:]] == [1, 1]
    indexes = http.get("/v1/collections/default").json()["indexes"]
    assert [(index["shard"], index["samples"]) for index in indexes] == list(enumerate(shares))


def test_a_shard_that_hangs_is_told_and_comes_back(sharded: Copy, http: httpx.Client) -> None:
    shares = sizes(http)
    (pid,) = sharded.replicas("matcher-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        partial = ask(http, 0, partial=True)
        strict = ask(http, 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert partial.json()["partial"] == {"missing_shards": [1], "shards": 3}
    present = listed(partial)
    assert len(present) == PEOPLE - shares[1]
    assert present == [subject for subject in ranking(0) if subject in set(present)]
    assert partial.json()["faces"][0]["decision"] == "ambiguous"
    assert (strict.status_code, strict.json()["code"]) == (503, "shard_unavailable")
    (missing,) = strict.json()["errors"]
    assert (missing["shard"], missing["code"]) == (1, "timeout")
    assert strict.headers["retry-after"] == "1"
    (log,) = (sharded.data_dir / "logs").glob(f"serve-{sharded.port}.log")
    wait_until(lambda: "partial answers, for want of shard 1" in log.read_text(), "a line of it")
    sharded.wait_ready()
    wait_until(lambda: ask(http, 0).status_code == 200, "a whole answer")
    assert_whole(http, *range(PEOPLE))


def test_a_shard_that_is_killed_is_told_until_it_is_back(sharded: Copy, http: httpx.Client) -> None:
    shares = sizes(http)
    killed = sharded.kill("matcher-2")

    def whole_again() -> bool:
        """Looks at an answer of each kind: none may lack anybody in silence."""
        strict, partial = ask(http, 1), ask(http, 1, partial=True)
        if strict.status_code == 200:
            assert listed(strict) == ranking(1)
        else:
            assert (strict.status_code, strict.json()["code"]) == (503, "shard_unavailable")
        if "partial" in partial.json():
            assert partial.json()["partial"] == {"missing_shards": [2], "shards": 3}
            assert len(listed(partial)) == PEOPLE - shares[2]
        else:
            assert listed(partial) == ranking(1)
        return strict.status_code == 200 and "partial" not in partial.json()

    assert ask(http, 1, partial=True).json().get("partial", {}).get("missing_shards") == [2]
    assert httpx.get(f"{sharded.url}/readyz", timeout=30).status_code == 503
    wait_until(whole_again, "a whole answer after the kill")
    sharded.wait_ready()
    assert killed not in sharded.replicas("matcher-2")
    assert_whole(http, *range(PEOPLE))
    with sharded.client() as client:
        metrics = client.get("/metrics").text
    assert "facegraph_partial_searches_total 0.0" not in metrics


def test_another_number_of_shards_moves_nothing(sharded: Copy) -> None:
    """The last test here: the copy goes on with two."""
    sharded.stop()
    write_sharded(sharded.folder, 2)
    sharded.start()
    with sharded.client() as http:
        sharded.wait_ready()
        assert_whole(http, *range(PEOPLE))
        shares = sizes(http)
    assert (len(shares), sum(shares)) == (2, PEOPLE)
