"""Two matcher replicas, and processes killed in the middle: nothing stale, lost or wrong."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from tests import photos
from tests.serve.copies import Copy, postmaster, wait_until

ROUNDS = 100


def vector(seed: int) -> list[float]:
    """A person: random directions in 128 dimensions are nearly orthogonal."""
    rows = np.random.default_rng(seed).normal(size=128)
    values: list[float] = (rows / np.linalg.norm(rows)).tolist()
    return values


def make_collection(http: httpx.Client, name: str) -> str:
    http.delete(f"/v1/collections/{name}?force=true")
    assert http.post("/v1/collections", json={"id": name}).status_code == 201
    return f"/v1/collections/{name}"


def test_a_hundred_rounds_of_enrol_then_search_are_never_stale(
    served: Copy, http: httpx.Client
) -> None:
    path = make_collection(http, "fresh")
    contract = http.get("/v1/system").json()["contract"]["id"]
    assert len(served.replicas("matcher")) == 2
    for number in range(ROUNDS):
        embedding = vector(number)
        http.post(f"{path}/subjects", json={"id": f"s{number}"}).raise_for_status()
        body = {"embeddings": [embedding], "contract": contract}
        added = http.post(f"{path}/subjects/s{number}/samples", json=body).raise_for_status()
        probe = {"embedding": embedding, "contract": contract}
        for _ in range(3):  # whichever replica they land on
            found = http.post(f"{path}/search", json=probe).raise_for_status().json()
            assert found["version"] >= added.json()["version"]
            assert [m["subject_id"] for m in found["faces"][0]["matches"]] == [f"s{number}"]
        if number % 10 == 9:
            http.delete(f"{path}/subjects/s{number}").raise_for_status()
            for _ in range(3):
                found = http.post(f"{path}/search", json=probe).raise_for_status().json()
                assert found["faces"][0]["decision"] == "unknown"


@dataclass
class Traffic:
    """Clients that enrol and search without pause, and keep account of every answer."""

    url: str
    path: str
    contract: str
    acknowledged: list[int] = field(default_factory=list)
    searched: int = 0
    refused: list[int] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def enrol(self, first: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as http:
            for number in range(first, first + 100_000):
                if self.stop.is_set():
                    return
                body = {"embeddings": [vector(number)], "contract": self.contract}
                subject = f"{self.path}/subjects"
                made = self._send(http, subject, {"id": f"s{number}"})
                added = made and self._send(http, f"{subject}/s{number}/samples", body)
                if added:
                    self.acknowledged.append(number)

    def search(self) -> None:
        chance = random.Random(0)
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self.stop.is_set():
                if not self.acknowledged:
                    time.sleep(0.01)
                    continue
                number = chance.choice(self.acknowledged)
                probe = {"embedding": vector(number), "contract": self.contract}
                answer = self._send(http, f"{self.path}/search", probe)
                if answer:
                    self.searched += 1
                    if [m["subject_id"] for m in answer["faces"][0]["matches"]] != [f"s{number}"]:
                        self.wrong.append((number, answer))

    def _send(self, http: httpx.Client, path: str, body: Any) -> Any:
        try:
            response = http.post(path, json=body)
        except httpx.TransportError:
            self.refused.append(0)
            return None
        if response.status_code in (200, 201):
            return response.json()
        self.refused.append(response.status_code)
        if response.status_code != 503 or response.json()["code"] == "internal":
            self.wrong.append((path, response.status_code, response.text))
        return None

    def progress(self, enrolled: int, searched: int) -> Callable[[], bool]:
        """Whether so many more were enrolled and searched since now."""
        before = len(self.acknowledged), self.searched
        return lambda: (
            len(self.acknowledged) >= before[0] + enrolled and self.searched >= before[1] + searched
        )


@pytest.mark.parametrize("victim", ["matcher", "postgres", "detector", "embedder", "ingress"])
def test_killed_in_the_middle(served: Copy, http: httpx.Client, victim: str) -> None:
    path = make_collection(http, f"killed-{victim}")
    contract = http.get("/v1/system").json()["contract"]["id"]
    traffic = Traffic(served.url, path, contract)
    threads = [
        threading.Thread(target=traffic.enrol, args=(0,)),
        threading.Thread(target=traffic.enrol, args=(100_000,)),
        threading.Thread(target=traffic.search),
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(traffic.progress(20, 20), "traffic before the kill")
        if victim == "postgres":
            os.kill(postmaster(served.data_dir), signal.SIGKILL)
        else:
            served.kill(victim)
        wait_until(traffic.progress(40, 40), f"traffic after the {victim} was killed")
    finally:
        traffic.stop.set()
        for thread in threads:
            thread.join()
    assert traffic.wrong == []
    served.wait_ready()
    found = [lookup(http, path, contract, number) for number in traffic.acknowledged]
    assert found == [[f"s{number}"] for number in traffic.acknowledged]
    count = http.get(path).raise_for_status().json()["sample_count"]
    assert count >= len(traffic.acknowledged)
    expected = 2 if victim == "matcher" else 1
    if victim != "postgres":
        wait_until(lambda: len(served.replicas(victim)) >= expected, f"a new {victim}")


def lookup(http: httpx.Client, path: str, contract: str, number: int) -> list[str]:
    probe = {"embedding": vector(number), "contract": contract}
    found = http.post(f"{path}/search", json=probe).raise_for_status().json()
    return [match["subject_id"] for match in found["faces"][0]["matches"]]


def test_the_detector_killed_under_pictures(served: Copy, http: httpx.Client) -> None:
    path = make_collection(http, "pictures")
    files = {"images": photos.ASTRONAUT.read_bytes()}
    http.post(f"{path}/subjects?id=eileen", files=files).raise_for_status()
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            while not stop.is_set():
                try:
                    response = client.post(f"{path}/search", files={"image": files["images"]})
                except httpx.TransportError as error:
                    answers.append(error)
                    continue
                answers.append((response.status_code, response.json()))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(answers) >= 5, "answers before the kill")
        served.kill("detector")
        served.wait_ready()
        after = len(answers)
        wait_until(lambda: len(answers) >= after + 10, "answers after the kill")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {answer[0] for answer in answers} <= {200, 503}, answers
    good = [body for status, body in answers if status == 200]
    assert all(
        [m["subject_id"] for m in face["matches"]] == ["eileen"]
        for body in good
        for face in body["faces"]
    )
    assert [status for status, _ in answers[-5:]] == [200] * 5
