"""MessagePack in and out: what is asked for, what is bin, and that malformed bodies are told."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

from facegraph.api import messagepack
from facegraph.errors import InvalidRequest
from tests.fake_graph import embedding_of, image, picture

SUBJECTS = "/v1/collections/default/subjects"
SEARCH = "/v1/collections/default/search"
TYPE = {"content-type": messagepack.MEDIA_TYPE}
BOTH = TYPE | {"accept": messagepack.MEDIA_TYPE}


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, False),  # no header
        ("*/*", False),  # a wildcard means JSON
        ("application/*", False),
        ("text/html", False),  # neither: JSON rather than 406
        ("application/json", False),
        ("application/msgpack", True),
        ("Application/MsgPack", True),
        ("application/msgpack, application/json", True),  # equally dear: named, so understood
        ("application/msgpack;q=0.5, application/json", False),
        ("application/msgpack, application/json;q=0.9", True),
        ("application/msgpack;q=0.5, */*;q=0.1", True),
        ("application/msgpack;q=0.5, */*", False),
        ("application/msgpack;q=0, */*", False),  # refused by name
        ("application/msgpack;q=much", False),
        ("application/msgpackish", False),
        ("application/msgpack; charset=x; q=1", True),
    ],
)
def test_what_an_accept_header_asks_for(accept: str | None, wanted: bool) -> None:
    assert messagepack.wanted(accept) is wanted


async def test_an_embedding_is_bin_and_says_what_json_says(client: httpx.AsyncClient) -> None:
    packed = await client.post(
        "/v1/embeddings",
        content=picture(4),
        headers={"content-type": "image/png", "accept": messagepack.MEDIA_TYPE},
    )
    text = await client.post("/v1/embeddings", **image(4))
    assert (packed.headers["content-type"], packed.headers["vary"]) == (
        "application/msgpack",
        "accept",
    )
    body, same = msgpack.unpackb(packed.content), text.json()
    row = body["faces"][0].pop("embedding")
    assert len(row) == 4 * body["contract"]["dimension"]
    assert np.frombuffer(row, "<f4").tolist() == same["faces"][0].pop("embedding")
    assert {**body, "request_id": ""} == {**same, "request_id": ""}


async def test_requests_bring_bytes(client: httpx.AsyncClient) -> None:
    body = {"id": "ann", "metadata": {"n": 1, "list": [None, True, 1.5]}, "images": [picture(1)]}
    made = await client.post(SUBJECTS, content=msgpack.packb(body), headers=BOTH)
    assert made.status_code == 201, made.text
    assert msgpack.unpackb(made.content)["subject"]["metadata"] == body["metadata"]
    contract = (await client.post("/v1/embeddings", **image(1))).json()["contract"]
    row = embedding_of(2, contract["dimension"]).astype("<f4").tobytes()
    body = {"embeddings": [row, list(np.frombuffer(row, "<f4").tolist())]}
    added = await client.post(
        f"{SUBJECTS}/ann/samples",
        content=msgpack.packb(body | {"contract": contract["id"]}),
        headers=TYPE,
    )
    assert (added.status_code, len(added.json()["samples"])) == (201, 2)
    probe = {"embedding": row, "contract": contract["id"], "limit": 1}
    found = await client.post(SEARCH, content=msgpack.packb(probe), headers=BOTH)
    (face,) = msgpack.unpackb(found.content)["faces"]
    assert (face["decision"], face["matches"][0]["subject_id"]) == ("match", "ann")
    pair = {"source": picture(4), "target": picture(4)}
    verified = await client.post("/v1/verify", content=msgpack.packb(pair), headers=TYPE)
    assert verified.json()["decision"] == "match"


LARGE: list[tuple[int, Any]] = [
    (2**64 - 1, 2**64 - 1),
    (2**64, float(2**64)),
    (-(2**63), -(2**63)),
    (-(10**30), -1e30),
    (10**400, str(10**400)),
    (-(10**400), str(-(10**400))),
]


async def test_integers_beyond_64_bits(client: httpx.AsyncClient) -> None:
    """JSON brings them, and gets them back; MessagePack has no such integers."""
    body = {"id": "ann", "metadata": {"n": [number for number, _ in LARGE]}}
    assert (await client.post(SUBJECTS, json=body)).status_code == 201
    told = (await client.get(f"{SUBJECTS}/ann")).json()
    assert told["metadata"] == body["metadata"]
    packed = await client.get(f"{SUBJECTS}/ann", headers={"accept": messagepack.MEDIA_TYPE})
    assert packed.status_code == 200
    numbers = msgpack.unpackb(packed.content)["metadata"]["n"]
    assert [(type(n), n) for n in numbers] == [(type(n), n) for _, n in LARGE]


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


MALFORMED: list[tuple[str, bytes, str]] = [
    ("empty", b"", "not MessagePack"),
    ("cut off", msgpack.packb({"image": picture(1)})[:-1], "not MessagePack"),
    ("more behind it", msgpack.packb({}) + b"\x01", "not MessagePack"),
    ("a byte that begins nothing", b"\xc1", "not MessagePack"),
    ("no object", msgpack.packb([1]), "must be an object"),
    ("a list that says it has 4 billion members", b"\xdd\xff\xff\xff\xff", "not MessagePack"),
    ("an object that says so", b"\xdf\xff\xff\xff\xff", "not MessagePack"),
    ("nested without end", b"\x91" * 100_000, "not MessagePack"),
    ("a time", b"\x81\xa1x\xd6\xff\x00\x00\x00\x01", "not MessagePack"),
    ("an empty extension", b"\x81\xa1x\xc7\x00\x05", "extension"),
    ("a number for a name", msgpack.packb({1: 2}), "not MessagePack"),
    ("bytes for a name", msgpack.packb({b"id": "x"}), "must be text"),
    ("text that is no text", b"\x81\xa2id\xa1\xff", "not MessagePack"),
    ("bytes for a text", msgpack.packb({"id": b"ann"}), "cannot be bytes"),
    ("bytes in metadata", msgpack.packb({"metadata": {"x": [b"y"]}}), "cannot be bytes"),
    ("bytes for a name in it", msgpack.packb({"metadata": {b"x": 1}}), "no text"),
    ("metadata too deep", msgpack.packb({"metadata": {"x": nested(90)}}), "deeper"),
    ("an image that is a number", msgpack.packb({"images": [1]}), "an image is"),
]


@pytest.mark.parametrize(
    ("body", "said"), [row[1:] for row in MALFORMED], ids=[r[0] for r in MALFORMED]
)
async def test_malformed_bodies_are_told(client: httpx.AsyncClient, body: bytes, said: str) -> None:
    answer = await client.post(SUBJECTS, content=body, headers=BOTH)
    problem = answer.json()  # a problem is JSON, whatever was asked for
    assert (answer.status_code, problem["code"]) == (400, "invalid_request"), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in problem["detail"]


@pytest.mark.parametrize("row", [b"123", b"", np.full(128, np.nan, "<f4").tobytes()])
async def test_bytes_that_are_no_embedding(client: httpx.AsyncClient, row: bytes) -> None:
    contract = (await client.post("/v1/embeddings", **image(1))).json()["contract"]["id"]
    body = msgpack.packb({"embedding": row, "contract": contract})
    answer = await client.post(SEARCH, content=body, headers=TYPE)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_values_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messagepack, "MAX_VALUES", 100)
    assert messagepack.unpack(msgpack.packb([[0] * 10] * 8)) == [[0] * 10] * 8
    with pytest.raises(InvalidRequest, match="more than 100 values"):
        messagepack.unpack(msgpack.packb([[0] * 10] * 11))


async def test_the_document_tells_both(client: httpx.AsyncClient) -> None:
    document: Any = (await client.get("/openapi.json")).json()
    for operations in document["paths"].values():
        for operation in operations.values():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for content in (body.get("content", {}) for body in bodies):
                assert ("application/json" in content) == (messagepack.MEDIA_TYPE in content)
    told = json.dumps(document["components"]["schemas"]["EmbeddedFace"])
    assert "float32 as bin" in told
