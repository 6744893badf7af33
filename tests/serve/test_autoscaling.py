"""Load rises: nodes and replicas come; load falls: they go; every request is answered rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests import photos
from tests.serve.copies import wait_until, write_config
from tests.serve.namespaces import PrivateRay, why_not
from tests.serve.traffic import Counted, Recognised, Traffic, make_collection, sent

pytestmark = [
    pytest.mark.serve,
    pytest.mark.timeout(480),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

PEOPLE = {"hanks": photos.PORTRAIT, "collins": photos.ASTRONAUT}
MOST = 3
RESOURCES = {
    "ingress": {"num_cpus": 0.2},
    "detector": {"num_cpus": 1},  # the head has room for one, each worker node for one more
    "embedder": {"num_cpus": 0.2},
    "matcher": {"num_cpus": 0.2},
    "segmenter": {"num_cpus": 0.1},
    "captioner": {"num_cpus": 0.1},
    "recognizer": {"num_cpus": 0.05},
    "jobs": {"num_cpus": 0.05},
}
SCALING = {
    "min_replicas": 1,
    "max_replicas": MOST,
    "upscale_delay_s": 1,
    "downscale_delay_s": 2,
    "look_back_period_s": 3,
    "metrics_interval_s": 1,
    "policy": {
        "policy_function": "deployments.scaling:ByWait",
        "policy_kwargs": {"max_wait_s": 0.02},
    },
}


@pytest.fixture
def cluster(copies_folder: Path, make_database: Callable[[], str]) -> Iterator[PrivateRay]:
    folder = copies_folder / "scaled"
    folder.mkdir()
    path = write_config(folder, {}, resources=RESOURCES, segmenter="none", captioner="none")
    document = yaml.safe_load(path.read_text())
    document["proxy_location"] = "HeadOnly"  # all nodes have one address, so one door
    (application,) = document["applications"]
    (detector,) = (part for part in application["deployments"] if part["name"] == "detector")
    del detector["num_replicas"]
    detector["autoscaling_config"] = SCALING
    path.write_text(yaml.safe_dump(document))
    cluster = PrivateRay(
        folder,
        {"FACEGRAPH_DATABASE_URL": make_database()},
        cores=2,
        worker_cores=1,
        workers=MOST - 1,
    )
    try:
        cluster.start()
        cluster.deploy(path)
        wait_until(cluster.running, "the application")
        yield cluster
    finally:
        cluster.stop()


def test_replicas_and_nodes_follow_the_load(cluster: PrivateRay) -> None:
    seen: list[tuple[int, int]] = []
    traffic = Traffic(cluster.url)

    def reached(replicas: int, nodes: int) -> Callable[[], bool]:
        def look() -> bool:
            state: Any = cluster.state()
            now = (int(state["deployments"]["detector"][1]), int(state["nodes"]))
            if seen[-1:] != [now]:
                seen.append(now)
            assert not traffic.wrong, "\n".join(traffic.wrong[:5])
            return now == (replicas, nodes)

        return look

    with httpx.Client(base_url=cluster.url, timeout=60) as http:
        path = make_collection(http, "people")
        for name, picture in PEOPLE.items():
            http.post(f"{path}/subjects", json={"id": name}).raise_for_status()
            http.post(f"{path}/subjects/{name}/samples", **sent(picture)).raise_for_status()
    wait_until(reached(1, 1), "one replica on one node")

    clients = [Recognised(path, sent(picture), name) for name, picture in PEOPLE.items()]
    crowd = Counted(sent(photos.GROUP), photos.GROUP_FACES)
    with traffic.of(*clients, pause_s=0.5):  # these go on throughout
        with traffic.of(*[crowd] * 8):
            wait_until(reached(MOST, MOST), "a replica and a node for the load")
            wait_until(traffic.more(20), "answers of all replicas")
            assert cluster.known("detector") == MOST
        wait_until(reached(1, 1), "replicas and nodes to go")
        wait_until(traffic.more(4), "answers of the one that stays")
    assert traffic.wrong == []
    assert traffic.answered > 50
    assert (2, 2) in seen[: seen.index((MOST, MOST))]
