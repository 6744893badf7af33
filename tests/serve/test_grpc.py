"""gRPC beside HTTP: its door, the same answers, the largest messages; connections that are kept."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgpack
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from facegraph.api.grpc import facegraph_pb2 as pb
from facegraph.api.grpc.facegraph_pb2_grpc import FacegraphStub
from facegraph.supervisor.ports import free_ports
from tests import photos
from tests.serve.copies import Copy, write_config

MIB = 2**20
LARGEST = 16 * MIB
"""Of a picture, as shipped."""

NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def copy(copies_folder: Path) -> Iterator[Copy]:
    folder = copies_folder / "grpc"
    folder.mkdir()
    more = {
        "FACEGRAPH_GRPC_PORT": str(free_ports(1)[0]),
        "FACEGRAPH_SEGMENTER": "none",
        "FACEGRAPH_CAPTIONER": "none",
    }
    copy = Copy(folder, write_config(folder, {}), more=more)
    said = copy.start()
    assert f", gRPC on port {more['FACEGRAPH_GRPC_PORT']};" in said
    yield copy
    copy.stop()


@pytest.fixture
def channel(copy: Copy) -> Iterator[grpc.Channel]:
    address = f"127.0.0.1:{copy.more['FACEGRAPH_GRPC_PORT']}"
    with grpc.insecure_channel(address, options=NO_LIMIT) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return FacegraphStub(channel)  # type: ignore[no-untyped-call]


def padded(size: int) -> bytes:
    """A picture of one face with so many bytes; a decoder stops where a JPEG ends."""
    jpeg = photos.encoded(photos.pixels(photos.ASTRONAUT), "JPEG", quality=90)
    return jpeg + bytes(size - len(jpeg))


def listening() -> set[tuple[int | None, str, int]]:
    """Process, address and port of every socket that listens."""
    found: list[Any] = psutil.net_connections("tcp")
    return {(c.pid, *c.laddr[:2]) for c in found if c.status == psutil.CONN_LISTEN}


def failed(call: Any, *args: Any, **kwargs: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=60, **kwargs)
    return caught.value


def test_a_person_is_enrolled_and_found_over_both(copy: Copy, stub: Any) -> None:
    portrait = photos.ASTRONAUT.read_bytes()
    made = stub.CreateSubject(
        pb.CreateSubjectRequest(collection_id="default", id="eileen", images=[portrait])
    )
    assert (made.subject.sample_count, len(made.samples)) == (1, 1)
    found = stub.Search(pb.SearchRequest(collection_id="default", image=portrait))
    assert [face.decision for face in found.faces] == ["match"]
    assert found.faces[0].matches[0].subject_id == "eileen"
    with copy.client() as client:
        answer = client.post(
            "/v1/embeddings",
            content=portrait,
            headers={"content-type": "image/png", "accept": "application/msgpack"},
        )
    assert answer.headers["content-type"] == "application/msgpack"
    row = np.frombuffer(msgpack.unpackb(answer.content)["faces"][0]["embedding"], "<f4")
    same = stub.Embed(pb.EmbedRequest(image=portrait)).faces[0].embedding
    assert row.tolist() == list(same)


def test_an_error_has_its_code_and_one_request_id(stub: Any) -> None:
    request = pb.GetSubjectRequest(collection_id="default", subject_id="nobody")
    error = failed(stub.GetSubject, request)
    trailers = dict(error.trailing_metadata())
    assert (error.code(), trailers["facegraph-code"]) == (
        grpc.StatusCode.NOT_FOUND,
        "subject_not_found",
    )
    assert trailers["x-request-id"] == trailers["request_id"]


def test_health(channel: grpc.Channel) -> None:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_only_the_door_is_open(copy: Copy) -> None:
    """A replica's own port, which Serve opens on every interface, refuses."""
    door = int(copy.more["FACEGRAPH_GRPC_PORT"])
    ours = {process.pid for process in copy.processes()}
    assert {ip for pid, ip, port in listening() if pid in ours and port == door} == {"127.0.0.1"}
    (ingress,) = copy.replicas("ingress")
    refusing = 0
    for port in {port for pid, _, port in listening() if pid == ingress}:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = FacegraphStub(channel)  # type: ignore[no-untyped-call]
            for headers in ([], [("x-facegraph-door", "guessed")]):
                error = failed(stub.Detect, pb.DetectRequest(image=b"x"), metadata=headers)
                refusing += error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refusing >= 2


def test_the_largest_picture_passes_and_a_larger_one_is_told(copy: Copy, stub: Any) -> None:
    headers = {"content-type": "image/jpeg"}
    with copy.client() as client:
        fits = client.post("/v1/detect", content=padded(LARGEST), headers=headers)
        assert (fits.status_code, len(fits.json()["faces"])) == (200, 1)
        more = client.post("/v1/detect", content=padded(LARGEST + 1), headers=headers)
        assert (more.status_code, more.json()["code"]) == (413, "image_too_large")
        files = [("images", (f"{i}.jpg", padded(3 * MIB))) for i in range(20)]
        many = client.post("/v1/collections/default/subjects", files=files)
        assert (many.status_code, len(many.json()["samples"])) == (201, 20)
    assert len(stub.Detect(pb.DetectRequest(image=padded(LARGEST))).faces) == 1
    error = failed(stub.Detect, pb.DetectRequest(image=padded(LARGEST + 1)))
    assert dict(error.trailing_metadata())["facegraph-code"] == "image_too_large"
    error = failed(stub.Detect, pb.DetectRequest(image=bytes(100 * MIB)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # gRPC's own limit


REQUESTS: list[tuple[str, str, bytes | None, dict[str, str], int]] = [
    ("GET", "/livez", None, {}, 200),
    ("POST", "/v1/detect?nonsense=1", b"x", {"content-type": "image/png"}, 400),
    ("POST", "/v1/detect", b"{", {"content-type": "application/json"}, 400),
    ("GET", "/v1/nothing", None, {}, 404),
    ("PUT", "/v1/detect", b"x" * 100_000, {}, 405),  # with a body that nobody read
    ("POST", "/v1/detect", b"x", {"content-type": "text/plain"}, 415),
    ("POST", "/v1/detect", b"x", {"content-type": "image/png"}, 422),
    ("POST", "/v1/detect", bytes(LARGEST + 1), {"content-type": "image/png"}, 413),
    ("DELETE", "/v1/collections/default/subjects/nobody", None, {}, 404),
]


def test_a_connection_is_kept_after_every_kind_of_answer(copy: Copy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", copy.port, timeout=60)
    connection.connect()
    socket = connection.sock
    for method, path, body, headers, status in REQUESTS:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, path
        assert connection.sock is socket, f"closed after {status} of {method} {path}"
    connection.close()


def test_a_body_that_is_announced_too_large_is_answered_before_it_is_sent(copy: Copy) -> None:
    """The answer comes without the body; then the connection is of no use any more."""
    connection = http.client.HTTPConnection("127.0.0.1", copy.port, timeout=60)
    connection.putrequest("POST", "/v1/detect")
    connection.putheader("content-type", "image/png")
    connection.putheader("content-length", str(65 * MIB))
    connection.endheaders(bytes(MIB))
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (413, "image_too_large")
    connection.close()


def test_a_client_that_sends_all_of_it_reads_the_answer(copy: Copy) -> None:
    with httpx.Client(base_url=copy.url, timeout=60) as client:
        headers = {"content-type": "image/png"}
        answer = client.post("/v1/detect", content=bytes(65 * MIB), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")
        assert client.get("/livez").status_code == 200
