"""The v1 contract, request by request, and that nothing half done stays behind."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from facegraph.config import IngressTuning
from facegraph.service import Service
from tests.fake_graph import embedding_of, image, images, picture

SUBJECTS = "/v1/collections/default/subjects"
SEARCH = "/v1/collections/default/search"


async def enrol(client: httpx.AsyncClient, subject: str, *people: int, **fields: Any) -> None:
    data = {"id": subject, **fields}
    response = await client.post(SUBJECTS, data=data, **images(*((p,) for p in people)))
    assert response.status_code == 201, response.text


async def search(client: httpx.AsyncClient, *people: int, **params: Any) -> Any:
    response = await client.post(SEARCH, params=params, **image(*people))
    assert response.status_code == 200, response.text
    return response.json()


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert body["request_id"] == response.headers["x-request-id"]
    return response.status_code, body["code"]


async def test_detect(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/detect", **image(4, 7))).json()
    assert body["image"] == {"width": 200, "height": 100}
    assert [face["bbox"]["width"] for face in body["faces"]] == [12, 11]
    assert body["faces"][0]["bbox_normalized"]["height"] == pytest.approx(0.12)
    assert (await client.post("/v1/detect", **image())).json()["faces"] == []
    one = await client.post("/v1/detect?max_faces=1&attributes=true", **image(4, 7))
    assert [face["bbox"]["width"] for face in one.json()["faces"]] == [12]


async def test_embeddings_are_searchable_and_enrollable(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/embeddings", **image(4))).json()
    contract, vector = body["contract"], body["faces"][0]["embedding"]
    assert len(vector) == contract["dimension"]
    await client.post(SUBJECTS, json={"id": "four", "name": "Four"})
    added = await client.post(
        f"{SUBJECTS}/four/samples",
        json={"embeddings": [[2 * x for x in vector]], "contract": contract["id"]},
    )
    assert (added.status_code, len(added.json()["samples"])) == (201, 1)
    found = await client.post(SEARCH, json={"embedding": vector, "contract": contract["id"]})
    (face,) = found.json()["faces"]
    assert (face["decision"], face["matches"][0]["name"]) == ("match", "Four")
    assert face["matches"][0]["similarity"] == pytest.approx(1)
    foreign = await client.post(SEARCH, json={"embedding": vector, "contract": "other"})
    assert problem(foreign) == (409, "contract_mismatch")


async def test_verify(client: httpx.AsyncClient) -> None:
    async def verify(source: bytes, target: bytes, **params: Any) -> httpx.Response:
        files = {"source": ("s", source), "target": ("t", target)}
        return await client.post("/v1/verify", files=files, params=params)

    same = (await verify(picture(4), picture(4, 9))).json()
    assert (same["decision"], same["similarity"]) == ("match", pytest.approx(1))
    other = (await verify(picture(4), picture(9))).json()
    assert other["decision"] == "unknown"
    assert other["similarity"] < other["threshold"]
    lenient = (await verify(picture(4), picture(9), threshold=-1)).json()
    assert (lenient["decision"], lenient["threshold"]) == ("match", -1)
    assert problem(await verify(picture(4), picture())) == (422, "face_not_found")


async def test_people_are_found_and_strangers_are_not(client: httpx.AsyncClient) -> None:
    await enrol(client, "ann", 1, 2, name="Ann", metadata='{"team": "blue"}')
    await enrol(client, "bob", 3, name="Bob")
    body = await search(client, 3, 9, 2)
    assert [face["decision"] for face in body["faces"]] == ["match", "unknown", "match"]
    assert [m["subject_id"] for face in body["faces"] for m in face["matches"]] == ["bob", "ann"]
    assert body["faces"][2]["matches"][0]["metadata"] == {"team": "blue"}
    below = await search(client, 9, include_below="true", limit=10)
    assert {m["subject_id"] for m in below["faces"][0]["matches"]} == {"ann", "bob"}
    assert below["faces"][0]["decision"] == "unknown"


async def test_two_subjects_with_one_face_are_ambiguous(client: httpx.AsyncClient) -> None:
    await enrol(client, "ann", 1)
    await enrol(client, "twin", 1)
    for limit, expected in ((1, ["ann"]), (5, ["ann", "twin"])):
        (face,) = (await search(client, 1, limit=limit))["faces"]
        assert face["decision"] == "ambiguous"
        assert [m["subject_id"] for m in face["matches"]] == expected


async def test_thresholds_in_order_of_strength(client: httpx.AsyncClient, service: Service) -> None:
    pack_threshold = (await search(client, 1))["faces"][0]["threshold"]
    service.tuning = IngressTuning(threshold=0.7)
    assert (await search(client, 1))["faces"][0]["threshold"] == 0.7 != pack_threshold
    await client.patch("/v1/collections/default", json={"threshold": 0.8})
    assert (await search(client, 1))["faces"][0]["threshold"] == 0.8
    assert (await search(client, 1, threshold=0.9))["faces"][0]["threshold"] == 0.9
    await client.patch("/v1/collections/default", json={"threshold": None})
    assert (await search(client, 1))["faces"][0]["threshold"] == 0.7


async def test_a_search_sees_every_change_before_it(client: httpx.AsyncClient) -> None:
    await enrol(client, "ann", 1)
    samples = (await client.get(f"{SUBJECTS}/ann/samples")).json()["samples"]
    assert (await search(client, 1))["faces"][0]["decision"] == "match"
    await client.patch(f"{SUBJECTS}/ann", json={"name": "Anna"})
    assert (await search(client, 1))["faces"][0]["matches"][0]["name"] == "Anna"
    gone = await client.delete(f"{SUBJECTS}/ann/samples/{samples[0]['id']}")
    assert gone.status_code == 204
    assert (await search(client, 1))["faces"][0]["decision"] == "unknown"
    await client.post(f"{SUBJECTS}/ann/samples", **image(1))
    assert (await search(client, 1))["faces"][0]["decision"] == "match"
    assert (await client.delete(f"{SUBJECTS}/ann")).status_code == 204
    assert (await search(client, 1))["faces"][0]["decision"] == "unknown"


async def test_enrolment_may_succeed_in_part_and_says_why_not(client: httpx.AsyncClient) -> None:
    await client.post(SUBJECTS, json={"id": "ann"})
    files = [("images", ("p", data)) for data in (picture(1), picture(), b"junk", picture(2, 3))]
    response = await client.post(f"{SUBJECTS}/ann/samples", files=files)
    assert response.status_code == 201
    body = response.json()
    assert len(body["samples"]) == 1
    assert [(r["index"], r["code"]) for r in body["rejected"]] == [
        (1, "face_not_found"),
        (2, "invalid_image"),
        (3, "several_faces"),
    ]
    largest = await client.post(f"{SUBJECTS}/ann/samples?face=largest", **image(2, 3))
    assert largest.status_code == 201
    assert (await search(client, 2))["faces"][0]["decision"] == "match"
    assert (await search(client, 3))["faces"][0]["decision"] == "unknown"


async def test_a_request_sent_again_with_its_key_changes_nothing(
    client: httpx.AsyncClient,
) -> None:
    key = {"idempotency-key": "k1"}
    first = await client.post(SUBJECTS, data={"id": "ann"}, headers=key, **images((1,)))
    again = await client.post(SUBJECTS, data={"id": "ann"}, headers=key, **images((1,)))
    assert (again.status_code, again.json()["samples"]) == (201, first.json()["samples"])
    other = await client.post(SUBJECTS, data={"id": "bob"}, headers=key, **images((1,)))
    assert problem(other) == (409, "conflict")
    body = {"files": images((2,))["files"], "headers": {"idempotency-key": "k2"}}
    answers = [(await client.post(f"{SUBJECTS}/ann/samples", **body)).json() for _ in range(3)]
    assert len({str(answer["samples"]) for answer in answers}) == 1
    assert (await client.get(f"{SUBJECTS}/ann")).json()["sample_count"] == 2
    mixed = {"files": images((4,), ())["files"], "headers": {"idempotency-key": "k3"}}
    told = [(await client.post(f"{SUBJECTS}/ann/samples", **mixed)).json() for _ in range(2)]
    assert [[r["code"] for r in answer["rejected"]] for answer in told] == [["face_not_found"]] * 2
    bad = await client.post(SUBJECTS, json={}, headers={"idempotency-key": "a b"})
    assert problem(bad) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (image(), "face_not_found", "a picture without a face"),
        (image(1, 2), "several_faces", "a picture of two"),
        ({"files": [("images", ("p", b"junk"))] * 2}, "invalid_image", "no pictures at all"),
    ],
)
async def test_an_enrolment_without_any_sample_leaves_nothing(
    client: httpx.AsyncClient, request_: dict[str, Any], code: str, reason: str
) -> None:
    before = (await client.get("/v1/collections/default")).json()
    response = await client.post(SUBJECTS, params={"id": "ann"}, **request_)
    assert problem(response) == (422, code), reason
    after = (await client.get("/v1/collections/default")).json()
    assert (after["version"], after["subject_count"]) == (before["version"], 0)
    assert problem(await client.get(f"{SUBJECTS}/ann")) == (404, "subject_not_found")


async def test_collections(client: httpx.AsyncClient) -> None:
    made = await client.post(
        "/v1/collections",
        json={"id": "team", "name": "Team", "threshold": 0.4, "metadata": {"a": 1}},
    )
    assert (made.status_code, made.headers["location"]) == (201, "/v1/collections/team")
    again = await client.post("/v1/collections", json={"id": "team"})
    assert problem(again) == (409, "collection_exists")
    named = (await client.post("/v1/collections", json={})).json()
    assert len(named["id"]) == 36
    listed = (await client.get("/v1/collections?limit=1")).json()
    assert len(listed["collections"]) == 1
    rest = (await client.get("/v1/collections", params={"cursor": listed["next_cursor"]})).json()
    ids = [c["id"] for c in listed["collections"] + rest["collections"]]
    assert sorted(ids) == ids == sorted({"default", "team", named["id"]})
    changed = await client.patch("/v1/collections/team", json={"description": "ours"})
    assert (changed.json()["description"], changed.json()["name"]) == ("ours", "Team")
    stale = await client.patch(
        "/v1/collections/team", json={"name": "x"}, headers={"if-match": made.headers["etag"]}
    )
    assert problem(stale) == (412, "precondition_failed")
    await client.post("/v1/collections/team/subjects", data={"id": "ann"}, **images((1,)))
    assert problem(await client.delete("/v1/collections/team")) == (409, "collection_not_empty")
    assert (await client.delete("/v1/collections/team?force=true")).status_code == 204
    missing = await client.post("/v1/collections/team/search", **image(1))
    assert problem(missing) == (404, "collection_not_found")


async def test_how_a_collection_is_searched(client: httpx.AsyncClient, service: Service) -> None:
    made = await client.post("/v1/collections", json={"id": "many", "search_mode": "approximate"})
    assert (made.status_code, made.json()["search_mode"]) == (201, "approximate")
    listed = (await client.get("/v1/collections")).json()["collections"]
    assert {one["id"]: one["search_mode"] for one in listed} == {
        "default": "auto",
        "many": "approximate",
    }
    for mode in ("exact", "auto"):
        changed = await client.patch("/v1/collections/many", json={"search_mode": mode})
        assert changed.json()["search_mode"] == mode
        assert (await client.get("/v1/collections/many")).json()["search_mode"] == mode
        assert (await service.store.head("many")).search_mode == mode


async def test_a_collection_made_again_forgets(client: httpx.AsyncClient) -> None:
    for person in (1, 2, 3):
        await client.post("/v1/collections", json={"id": "team"})
        await client.post("/v1/collections/team/subjects", data={"id": "x"}, **images((person,)))
        for other in (1, 2, 3):
            found = await client.post("/v1/collections/team/search", **image(other))
            expected = "match" if other == person else "unknown"
            assert found.json()["faces"][0]["decision"] == expected
        await client.delete("/v1/collections/team?force=true")


async def test_subjects_are_listed_found_and_paged(client: httpx.AsyncClient) -> None:
    for name in ("Zoe", "Ann", "Bob"):
        fields = {"id": name.lower(), "name": name, "external_id": f"hr-{name}"}
        assert (await client.post(SUBJECTS, json=fields)).status_code == 201
    assert problem(await client.post(SUBJECTS, json={"id": "ann"})) == (409, "subject_exists")
    pages: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        body = (await client.get(SUBJECTS, params=params)).json()
        pages += [subject["id"] for subject in body["subjects"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
    assert pages == ["ann", "bob", "zoe"]
    for text in ("ZO", "hr-Z", "zoe"):
        found = (await client.get(SUBJECTS, params={"q": text})).json()["subjects"]
        assert [subject["id"] for subject in found] == ["zoe"], text
    cleared = await client.patch(f"{SUBJECTS}/zoe", json={"name": None})
    assert (cleared.json()["name"], cleared.json()["external_id"]) == (None, "hr-Zoe")


BAD: list[tuple[str, str, dict[str, Any], int, str, str]] = [
    ("GET", "/v1/nothing", {}, 404, "not_found", "no such route"),
    ("GET", "/v1/detect", {}, 405, "method_not_allowed", "the wrong method"),
    ("DELETE", "/v1/models", {}, 405, "method_not_allowed", "the wrong method"),
    ("POST", "/v1/detect", {}, 400, "invalid_request", "no image"),
    ("POST", "/v1/detect?max_face=3", image(1), 400, "invalid_request", "a misspelt parameter"),
    ("POST", "/v1/detect?max_faces=0", image(1), 400, "invalid_request", "out of bounds"),
    ("POST", "/v1/detect?max_faces=x", image(1), 400, "invalid_request", "no number"),
    ("POST", "/v1/detect", {"content": b"junk", "headers": {"content-type": "image/png"}}, 422,
     "invalid_image", "not an image"),
    ("POST", "/v1/detect", {"json": {"image": "/etc/passwd"}}, 400, "invalid_request", "a path"),
    ("POST", "/v1/detect", {"json": [1]}, 400, "invalid_request", "no object"),
    ("POST", "/v1/detect", images((1,)), 400, "invalid_request", "images where one belongs"),
    ("POST", "/v1/verify", image(1), 400, "invalid_request", "one picture to verify"),
    ("POST", "/v1/collections", {"json": {"id": "a/b"}}, 400, "invalid_request", "a slash"),
    ("POST", "/v1/collections", {"json": {"id": "a\0b"}}, 400, "invalid_request", "a NUL"),
    ("POST", "/v1/collections", {"json": {"id": ""}}, 400, "invalid_request", "an empty id"),
    ("POST", "/v1/collections", {"json": {"id": "-a"}}, 400, "invalid_request", "a leading dash"),
    ("POST", "/v1/collections", {"json": {"id": "a" * 129}}, 400, "invalid_request", "too long"),
    ("POST", "/v1/collections", {"json": {"id": "a\n"}}, 400, "invalid_request", "a line break"),
    ("POST", "/v1/collections", {"json": {"name": "a\0"}}, 400, "invalid_request", "NUL in a name"),
    ("POST", "/v1/collections", {"json": {"metadata": {"a": "\0"}}}, 400, "invalid_request",
     "NUL in metadata"),
    ("POST", "/v1/collections", {"json": {"metadata": {"a": "x" * 70000}}}, 400,
     "invalid_request", "metadata without end"),
    ("POST", "/v1/collections", {"json": {"threshold": 2}}, 400, "invalid_request", "no cosine"),
    ("POST", "/v1/collections", {"json": {"search_mode": "fast"}}, 400, "invalid_request",
     "no way to search"),
    ("PATCH", "/v1/collections/default", {"json": {"search_mode": None}}, 400, "invalid_request",
     "there is always one way to search"),
    ("GET", "/v1/collections?cursor=junk", {}, 400, "invalid_request", "no cursor of ours"),
    ("GET", "/v1/collections?limit=101", {}, 400, "invalid_request", "a page too large"),
    ("GET", "/v1/collections/nobody", {}, 404, "collection_not_found", "no such collection"),
    ("GET", "/v1/collections/a%00b", {}, 400, "invalid_request", "NUL in the path"),
    ("GET", "/v1/collections/a%2Fb", {}, 404, "not_found", "a slash in the path"),
    ("POST", "/v1/collections/nobody/search", image(1), 404, "collection_not_found", "unknown"),
    ("POST", "/v1/collections/nobody/search", image(), 404, "collection_not_found", "no face"),
    ("POST", "/v1/collections/nobody/subjects", {"json": {}}, 404, "collection_not_found", ""),
    ("POST", SEARCH, {}, 400, "invalid_request", "nothing to search"),
    ("POST", f"{SEARCH}?limit=101", image(1), 400, "invalid_request", "too many subjects"),
    ("POST", SEARCH, {"json": {"embedding": [1, 2]}}, 400, "invalid_request", "no contract"),
    ("GET", f"{SUBJECTS}/nobody", {}, 404, "subject_not_found", ""),
    ("PATCH", f"{SUBJECTS}/nobody", {"json": {"name": "x"}}, 404, "subject_not_found", ""),
    ("DELETE", f"{SUBJECTS}/nobody", {}, 404, "subject_not_found", ""),
    ("GET", f"{SUBJECTS}/nobody/samples", {}, 404, "subject_not_found", ""),
    ("POST", f"{SUBJECTS}/nobody/samples", image(1), 404, "subject_not_found", ""),
    ("DELETE", f"{SUBJECTS}/nobody/samples/x", {}, 404, "subject_not_found", ""),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "request_", "status", "code", "reason"), BAD)
async def test_bad_input_has_its_code_and_no_effect(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    request_: dict[str, Any],
    status: int,
    code: str,
    reason: str,
) -> None:
    before = (await client.get("/v1/collections")).json()["collections"]
    response = await client.request(method, path, **request_)
    assert problem(response) == (status, code), reason
    assert ("retry-after" in response.headers) == (status == 503)
    assert (await client.get("/v1/collections")).json()["collections"] == before


@pytest.mark.parametrize(
    ("vector", "reason"),
    [([0.0] * 128, "zeros"), ([1e400] * 128, "infinite"), ([1.0] * 3, "too short")],
)
async def test_embeddings_that_are_none(
    client: httpx.AsyncClient, vector: list[float], reason: str
) -> None:
    contract = (await client.get("/v1/system")).json()["contract"]["id"]
    text = f'{{"contract": "{contract}", "embedding": {vector}}}'.replace("inf", "1e400")
    response = await client.post(SEARCH, content=text, headers={"content-type": "application/json"})
    assert problem(response) == (400, "invalid_request"), reason


async def test_a_hundred_faces_are_answered_up_to_the_limit(
    client: httpx.AsyncClient, service: Service
) -> None:
    people = tuple(range(100))
    await enrol(client, "last", 99)
    body = await search(client, *people)
    assert [face["decision"] for face in body["faces"]] == ["unknown"] * 99 + ["match"]
    service.tuning = IngressTuning(max_faces=10)
    assert len((await search(client, *people, max_faces=50))["faces"]) == 10


async def test_request_ids(client: httpx.AsyncClient) -> None:
    sent = await client.get("/livez", headers={"x-request-id": "my-id"})
    assert (sent.headers["x-request-id"], sent.json()["request_id"]) == ("my-id", "my-id")
    made = await client.get("/livez", headers={"x-request-id": "a b"})
    assert made.headers["x-request-id"] == made.json()["request_id"] != "a b"


async def test_health_models_system_and_metrics(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez")).json()["status"] == "alive"
    assert (await client.get("/readyz")).json()["status"] == "ready"
    models = (await client.get("/v1/models")).json()
    assert models["face_pack"]["name"] == "opencv"
    assert models["face_pack"]["licence"]["permissive"] is True
    assert all(len(file["sha256"]) == 64 for file in models["face_pack"]["files"])
    system = (await client.get("/v1/system")).json()
    assert system["limits"]["max_images"] == 20
    assert "database_url" not in system["settings"]
    await enrol(client, "ann", 1)
    await search(client, 1)
    metrics = (await client.get("/metrics")).text
    assert 'facegraph_decisions_total{decision="match"} 1.0' in metrics
    assert "facegraph_samples_enrolled_total 1.0" in metrics
    assert 'route="/v1/collections/{c}/search"' in metrics
    assert "ann" not in metrics


async def test_what_a_request_waited_for_is_told(client: httpx.AsyncClient) -> None:
    await enrol(client, "ann", 1)
    answer = await client.post(
        "/v1/collections/default/search",
        content=picture(1),
        headers={"content-type": "image/png"},
    )
    told = [part.partition(";dur=") for part in answer.headers["server-timing"].split(", ")]
    assert [name for name, _, _ in told] == ["detect", "embed", "match"]
    assert all(float(milliseconds) >= 0 for _, _, milliseconds in told)
    for path in ("/v1/analyze?features=faces,search", "/v1/redact?keep=ann"):
        other = await client.post(path, content=picture(1), headers={"content-type": "image/png"})
        told = [part.partition(";dur=") for part in other.headers["server-timing"].split(", ")]
        assert {name for name, _, _ in told} >= {"detect", "embed", "match"}
    assert "server-timing" not in (await client.get("/livez")).headers
    metrics = (await client.get("/metrics")).text
    assert 'facegraph_stage_duration_seconds_count{stage="match"} 3.0' in metrics
    assert 'facegraph_stage_duration_seconds_count{stage="embed"} 4.0' in metrics


async def test_more_requests_than_the_gate_admits_are_overloaded(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.tuning = IngressTuning(max_concurrent_requests=1)
    responses = await asyncio.gather(*(client.post("/v1/detect", **image(1)) for _ in range(5)))
    codes = sorted(response.status_code for response in responses)
    assert codes[0] == 200
    assert set(codes[1:]) <= {200, 503}
    refused = [response for response in responses if response.status_code == 503]
    assert all(problem(response) == (503, "overloaded") for response in refused)
    assert (await client.post("/v1/detect", **image(1))).status_code == 200


async def test_a_fault_of_ours_is_told_without_a_traceback(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.graph, "detect", broken)
    response = await client.post("/v1/detect", **image(1))
    assert problem(response) == (500, "internal")
    assert "secret" not in response.text
    assert 'facegraph_errors_total{code="internal"} 1.0' in (await client.get("/metrics")).text


async def test_a_request_that_takes_too_long_ends(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(service.graph, "detect", slow)
    service.tuning = IngressTuning(request_timeout_s=0.05)
    response = await client.post("/v1/detect", **image(1))
    assert problem(response) == (503, "timeout")
    assert response.headers["retry-after"] == "1"


async def test_keep_crops_and_enrolled_vectors_are_lossless(
    client: httpx.AsyncClient, service: Service
) -> None:
    await client.post("/v1/collections", json={"id": "kept", "keep_crops": True})
    await client.post("/v1/collections/kept/subjects", data={"id": "ann"}, **images((7,)))
    records = await service.store.load("kept")
    assert (records.embeddings[0] == embedding_of(7, records.embeddings.shape[1])).all()
