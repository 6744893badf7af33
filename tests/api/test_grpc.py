"""The contract over gRPC: a real server and client over the app with fake models."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette

from facegraph import errors
from facegraph.api.app import ENDPOINTS
from facegraph.api.endpoint import _ALLOWED
from facegraph.api.grpc import facegraph_pb2 as pb
from facegraph.api.grpc.errors import BY_STATUS, MAX_DETAILS_BYTES, status_code, status_details
from facegraph.api.grpc.facegraph_pb2_grpc import FacegraphStub
from facegraph.api.grpc.rpcs import RPCS, SERVICE
from facegraph.api.grpc.service import Rpcs, add_to_server
from facegraph.api.openapi import openapi
from facegraph.config import IngressTuning
from facegraph.errors import FacegraphError
from facegraph.service import Service
from tests.fake_graph import embedding_of, picture

ROOT = Path(__file__).parents[2]
SOURCE = "facegraph/api/grpc/facegraph.proto"

RENAMED = {"collection_id": "c", "subject_id": "s", "sample_id": "f"}


class FakeServe:
    """Calls a method by the rpc's name, as Serve does with the ingress."""

    def __init__(self, rpcs: Rpcs) -> None:
        self._rpcs = rpcs
        self.Check = rpcs.check

    def __getattr__(self, name: str) -> Any:
        async def method(request: Any, context: Any) -> Any:
            return await self._rpcs.answer(name, request, context)

        return method


@pytest.fixture
async def channel(app: Starlette) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2**23)])
    add_to_server(FakeServe(Rpcs(app)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return FacegraphStub(channel)  # type: ignore[no-untyped-call]


def schema_of(name: str, document: Any) -> set[str]:
    return set(document["components"]["schemas"][name]["properties"])


def test_generated_files_are_those_of_the_proto(tmp_path: Path) -> None:
    import subprocess

    flags = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT), *flags, SOURCE]
    subprocess.run(command, cwd=ROOT, check=True)
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [path.name for path in made] == [
        "facegraph_pb2.py",
        "facegraph_pb2.pyi",
        "facegraph_pb2_grpc.py",
    ]
    for path in made:
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text()


def test_every_rpc_has_its_endpoint() -> None:
    assert {method.name for method in SERVICE.methods} == RPCS.keys()
    assert all(rpc.endpoint in ENDPOINTS for rpc in RPCS.values())


@pytest.mark.parametrize("name", RPCS)
def test_requests_have_the_fields_of_their_endpoint(name: str) -> None:
    rpc, message = RPCS[name], SERVICE.methods_by_name[name].input_type
    images = {field for field in _ALLOWED[rpc.endpoint.images] if field != "images"}
    if rpc.endpoint.images == "several":
        images = {"images"}
    params = rpc.endpoint.params.model_fields.keys()
    assert {f.name for f in message.fields} == rpc.ids.keys() | images | params
    for field in message.fields:
        if field.name in images:
            assert field.type == field.TYPE_BYTES
        elif field.name not in rpc.ids and not field.is_repeated:
            assert field.has_presence, f"{field.name} must tell unset from its zero"


def test_answers_have_the_fields_of_their_schemas() -> None:
    schemas = openapi(ENDPOINTS)["components"]["schemas"]
    compared: set[str] = set()
    for name, rpc in RPCS.items():
        if rpc.endpoint.answer is not None:
            message = SERVICE.methods_by_name[name].output_type
            assert message.name == rpc.endpoint.answer.__name__
            _compare(message, schemas[message.name], schemas, compared)
    assert {"Box", "MatchAnswer", "AnalyzedSearchedFace", "Mask", "Problem"} <= compared


def _compare(message: Any, schema: Any, schemas: Any, compared: set[str]) -> None:
    """Every member is a field of its kind, and the other way round, below as well."""
    if message.name in compared:
        return
    compared.add(message.name)
    members: dict[str, Any] = {}
    for each in _choices(schema, schemas):
        members |= each["properties"]
    extra = {"problem"} if message.fields_by_name.get("problem") else set()
    assert {field.name for field in message.fields} == members.keys() | extra, message.name
    for field in message.fields:
        (kind, member) = _member(members.get(field.name, schemas["Problem"]), schemas)
        assert field.is_repeated == (kind == "array"), field.full_name
        if kind == "array" and field.message_type is not None:
            (_, member) = _member(member["items"], schemas)
        if field.message_type is None or field.message_type.name in {"Struct", "Point"}:
            continue
        _compare(field.message_type, member, schemas, compared)


def _choices(schema: Any, schemas: Any) -> list[Any]:
    """Of a union, its objects: the fields of the message are those of all of them."""
    if "$ref" in schema:
        return _choices(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return [found for each in schema["anyOf"] for found in _choices(each, schemas)]
    return [] if schema.get("type") == "null" else [schema]


def _member(schema: Any, schemas: Any) -> tuple[str, Any]:
    found = _choices(schema, schemas)
    return found[0].get("type", ""), schema if len(found) > 1 else found[0]


async def test_a_life_over_grpc_is_the_same_over_http(stub: Any, client: httpx.AsyncClient) -> None:
    await stub.CreateCollection(pb.CreateCollectionRequest(id="staff", threshold=0.5))
    metadata = struct_pb2.Struct()
    metadata.update({"team": "blue", "floor": 3, "height": 1.5, "tags": ["a", None, True]})
    made = await stub.CreateSubject(
        pb.CreateSubjectRequest(
            collection_id="staff",
            id="ann",
            name="Ann",
            metadata=metadata,
            images=[picture(1), picture()],
        )
    )
    assert (made.subject.id, made.subject.sample_count, len(made.samples)) == ("ann", 1, 1)
    assert [(r.index, r.code) for r in made.rejected] == [(1, "face_not_found")]
    told = (await client.get("/v1/collections/staff/subjects/ann")).json()
    assert told["metadata"] == {
        "team": "blue",
        "floor": 3,
        "height": 1.5,
        "tags": ["a", None, True],
    }
    read = await stub.GetSubject(pb.GetSubjectRequest(collection_id="staff", subject_id="ann"))
    assert (read.name, read.HasField("external_id")) == ("Ann", False)

    found = await stub.Search(
        pb.SearchRequest(collection_id="staff", image=picture(1, 5), attributes=True)
    )
    over_http = await client.post(
        "/v1/collections/staff/search?attributes=true",
        content=picture(1, 5),
        headers={"content-type": "image/png"},
    )
    assert _plain(found) == _plain_json(over_http.json())
    assert [face.decision for face in found.faces] == ["match", "unknown"]
    assert found.faces[0].matches[0].similarity == pytest.approx(1)

    embedded = await stub.Embed(pb.EmbedRequest(image=picture(7)))
    row = list(embedded.faces[0].embedding)
    assert row == embedding_of(7, embedded.contract.dimension).tolist()
    added = await stub.AddSamples(
        pb.AddSamplesRequest(
            collection_id="staff",
            subject_id="ann",
            embeddings=[pb.Embedding(values=row)],
            contract=embedded.contract.id,
        )
    )
    by_row = await stub.Search(
        pb.SearchRequest(collection_id="staff", embedding=row, contract=embedded.contract.id)
    )
    assert by_row.version == added.version
    assert by_row.faces[0].matches[0].sample_id == added.samples[0].id
    await stub.DeleteSample(
        pb.DeleteSampleRequest(
            collection_id="staff", subject_id="ann", sample_id=added.samples[0].id
        )
    )
    gone = await stub.DeleteSubject(
        pb.DeleteSubjectRequest(collection_id="staff", subject_id="ann")
    )
    assert len(gone.request_id) == 32
    await stub.DeleteCollection(pb.DeleteCollectionRequest(collection_id="staff"))
    assert (await client.get("/v1/collections/staff")).status_code == 404


async def test_integers_beyond_a_float(stub: Any, client: httpx.AsyncClient) -> None:
    """JSON brings them; a Struct's numbers are float64."""
    numbers = {"n": [7, 2**64, [-(10**30)], {"m": 10**400}, True]}
    made = await client.post(
        "/v1/collections/default/subjects", json={"id": "ann", "metadata": numbers}
    )
    assert made.status_code == 201
    read = await stub.GetSubject(pb.GetSubjectRequest(collection_id="default", subject_id="ann"))
    told = MessageToDict(read.metadata)
    assert told == {"n": [7, float(2**64), [-1e30], {"m": str(10**400)}, True]}
    assert told["n"][-1] is True


def _plain(message: Any) -> Any:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    ) | {"version": message.version, "request_id": ""}


def _plain_json(body: Any) -> Any:
    """What JSON says as the message says it: landmarks as points, no null."""
    for face in body["faces"]:
        face["landmarks"] = [{"x": x, "y": y} for x, y in face["landmarks"]]
    return body | {"request_id": ""}


@pytest.mark.parametrize(
    ("method", "path", "body", "rpc", "request_message"),
    [
        ("POST", "/v1/detect", (4, 7), "Detect", pb.DetectRequest(image=picture(4, 7))),
        ("POST", "/v1/captions", (1,), "Caption", pb.CaptionRequest(image=picture(1))),
        ("POST", "/v1/segmentations", (1,), "Segment", pb.SegmentRequest(image=picture(1))),
        ("POST", "/v1/analyze", (1, 2), "Analyze", pb.AnalyzeRequest(image=picture(1, 2))),
    ],
)
async def test_answers_are_those_of_http(
    stub: Any, client: httpx.AsyncClient, method: str, path: str, body: Any, rpc: str,
    request_message: Any,
) -> None:  # fmt: skip
    answer = await getattr(stub, rpc)(request_message)
    same = await client.request(
        method, path, content=picture(*body), headers={"content-type": "image/png"}
    )
    expected = type(answer)()
    from facegraph.api.grpc.messages import fill

    fill(expected, same.json() | {"request_id": answer.request_id})
    assert answer == expected
    assert answer.ByteSize() > 40


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


FAILING: list[tuple[str, Any, grpc.StatusCode, str]] = [
    ("Detect", pb.DetectRequest(), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
    ("Detect", pb.DetectRequest(image=b"x"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_image"),
    (
        "Detect",
        pb.DetectRequest(image=picture(1), max_faces=0),
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_request",  # zero is told from unset
    ),
    (
        "Detect",
        pb.DetectRequest(image=bytes(2**20 + 1)),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "image_too_large",
    ),
    (
        "CreateSubject",
        pb.CreateSubjectRequest(collection_id="default", images=[bytes(2**20)] * 4),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "image_too_large",  # the request as a whole
    ),
    (
        "GetSubject",
        pb.GetSubjectRequest(collection_id="default", subject_id="nobody"),
        grpc.StatusCode.NOT_FOUND,
        "subject_not_found",
    ),
    (
        "DeleteCollection",
        pb.DeleteCollectionRequest(collection_id="default/subjects/ann"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_request",  # an id is one step of a path, whatever it holds
    ),
    (
        "GetSubject",
        pb.GetSubjectRequest(collection_id="default"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_request",  # an empty id is no id
    ),
    (
        "CreateCollection",
        pb.CreateCollectionRequest(id="default"),
        grpc.StatusCode.ALREADY_EXISTS,
        "collection_exists",
    ),
    (
        "Search",
        pb.SearchRequest(collection_id="default", embedding=[1.0], contract="other"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "contract_mismatch",
    ),
]


@pytest.mark.parametrize(("rpc", "request_message", "status", "code"), FAILING)
async def test_errors_are_statuses_with_the_problem(
    stub: Any, service: Service, rpc: str, request_message: Any, status: Any, code: str
) -> None:
    service.tuning = IngressTuning(max_image_bytes=2**20, max_request_bytes=2**21)
    error = await failed(getattr(stub, rpc)(request_message, metadata=[("x-request-id", "mine")]))
    assert error.code() is status
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    assert (trailers["facegraph-code"], trailers["x-request-id"]) == (code, "mine")
    told = Status.FromString(trailers["grpc-status-details-bin"])
    problem, info = pb.Problem(), ErrorInfo()
    assert told.details[0].Unpack(problem)
    assert told.details[1].Unpack(info)
    assert (told.code, told.message) == (status.value[0], error.details())
    assert (problem.code, problem.request_id, problem.detail) == (code, "mine", error.details())
    assert (info.reason, info.domain) == (code.upper(), "facegraph")


async def test_an_unknown_field_is_an_error(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/facegraph.v1.Facegraph/Detect")
    newer = pb.DetectRequest(image=picture(1)).SerializeToString() + b"\xf8\x07\x01"
    error = await failed(call(newer))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "a field that this service does not know" in (error.details() or "")


async def test_a_deadline_ends_the_work(stub: Any, service: Service) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def slow(*_: Any, **__: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    service.graph.detect = slow  # type: ignore[method-assign, assignment]
    error = await failed(stub.Detect(pb.DetectRequest(image=picture(1)), timeout=0.5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert began.is_set()
    await asyncio.wait_for(ended.wait(), 10)

    service.tuning = IngressTuning(request_timeout_s=0.1)
    error = await failed(stub.Detect(pb.DetectRequest(image=picture(1))))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(error.trailing_metadata() or ())["retry-after"] == "1"


async def test_admission_and_metrics_are_those_of_http(
    stub: Any, client: httpx.AsyncClient
) -> None:
    await stub.Detect(pb.DetectRequest(image=picture(1)))
    metrics = (await client.get("/metrics")).text
    line = 'request_duration_seconds_count{method="POST",route="/v1/detect",status="200"} 1.0'
    assert line in metrics


async def test_an_idempotency_key_is_honoured(stub: Any) -> None:
    request = pb.CreateSubjectRequest(collection_id="default", images=[picture(3)])
    key = [("idempotency-key", "k1")]
    once = await stub.CreateSubject(request, metadata=key)
    again = await stub.CreateSubject(request, metadata=key)
    assert (once.subject.id, once.version) == (again.subject.id, again.version)


async def test_health(channel: grpc.aio.Channel, service: Service) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def broken() -> None:
        raise errors.ModelUnavailable("no replica")

    service.graph.describe = broken  # type: ignore[method-assign, assignment]
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


def _all_errors(kind: type[FacegraphError]) -> list[type[FacegraphError]]:
    below = [each for sub in kind.__subclasses__() for each in _all_errors(sub)]
    return [] if kind is errors.StartupError else [kind, *below]


@pytest.mark.parametrize("kind", _all_errors(FacegraphError), ids=lambda kind: kind.code)
def test_every_error_has_a_status(kind: type[FacegraphError]) -> None:
    assert status_code(kind("why").problem()) is not grpc.StatusCode.OK
    assert kind.status in BY_STATUS


def test_details_fit_into_a_trailer() -> None:
    many = tuple({"field": f"f{i}", "detail": "×" * 100} for i in range(100))
    problem = errors.InvalidRequest("é" * 10_000, many).problem() | {"request_id": "r"}
    assert len(status_details(problem)) < 2 * MAX_DETAILS_BYTES
    short = errors.InvalidRequest("no", ({"field": "f", "detail": "d"},)).problem()
    told, kept = Status.FromString(status_details(short | {"request_id": "r"})), pb.Problem()
    told.details[0].Unpack(kept)
    assert [dict(each) for each in kept.errors] == [{"field": "f", "detail": "d"}]
