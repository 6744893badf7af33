"""The service as a user meets it: real models, real database, real HTTP, pictures of packages."""

from __future__ import annotations

import base64
import io
import os
import re
import select
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests import photos
from tests.serve.copies import ROOT, Copy


def readme_blocks() -> list[str]:
    """The README's shell blocks, without those that start what already runs here."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return [block for block in blocks if not block.startswith("make ")]


def test_the_readme(served: Copy) -> None:
    blocks = readme_blocks()
    script = "set -eu\n" + "\necho '=====';\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PORT": str(served.port)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = (
        "take",
        "enrol",
        "search",
        "compare",
        "attributes",
        "see",
        "redact",
        "recognizer",
        "forget",
        "models",
    )
    said = dict(zip(parts, done.stdout.split("=====\n"), strict=True))
    assert said["enrol"].count('"samples": [{"id"') == 2
    found = re.findall(r'"(?:decision|name)": "([^"]+)"', said["search"])
    assert found == ["match", "Tom Hanks", "unknown", "match", "Eileen Collins"]
    assert '"decision": "unknown"' in said["compare"]
    assert said["compare"].count('"detection_score"') == 2
    assert said["compare"].split()[-1] == "6"
    assert re.search(r'"label": "female"', said["attributes"])
    assert '"caption": "Six people' in said["see"]
    assert said["see"].count('"coco_rle_compressed"') == 3
    assert said["see"].split()[-1] == "6"
    assert re.findall(r"x-facegraph-(\w+): (\d)", said["redact"].lower()) == [
        ("concealed", "2"),
        ("kept", "1"),
    ]
    assert "event: ready" in said["recognizer"]
    assert '"pictures": 10' in said["recognizer"]
    told = re.findall(r'"decision": "(\w+)",\s+"label": "(\w+)"', said["recognizer"])
    assert told == [("match", "tom"), ("unknown", "unknown"), ("match", "eileen")]
    assert said["forget"] == ""
    assert re.search(r"^ *opencv +.*installed", said["models"], re.MULTILINE)


@pytest.fixture
def collection(http: httpx.Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """The path of a collection of the test's own."""
    name = re.sub(r"[^A-Za-z0-9]", "-", request.node.name)
    assert http.post("/v1/collections", json={"id": name}).status_code == 201
    yield f"/v1/collections/{name}"
    http.delete(f"/v1/collections/{name}?force=true")


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_a_turned_photo_is_the_same_photo(http: httpx.Client) -> None:
    upright = Image.open(photos.ASTRONAUT).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise when shown
    turned = jpeg(upright.rotate(90, expand=True), exif=exif, quality=95)
    files = {"source": ("a", jpeg(upright, quality=95)), "target": ("b", turned)}
    body = http.post("/v1/verify", files=files).json()
    assert body["decision"] == "match"
    assert body["similarity"] > 0.95
    for side in ("x", "y", "width", "height"):
        assert abs(body["source"]["bbox"][side] - body["target"]["bbox"][side]) < 6


def test_pictures_come_in_every_way_and_mean_the_same(http: httpx.Client) -> None:
    data = photos.ASTRONAUT.read_bytes()
    text = base64.b64encode(data).decode()
    answers = [
        http.post("/v1/embeddings", files={"image": data}),
        http.post("/v1/embeddings", content=data, headers={"content-type": "image/png"}),
        http.post("/v1/embeddings", json={"image": {"base64": text}}),
        http.post("/v1/embeddings", json={"image": f"data:image/png;base64,{text}"}),
    ]
    bodies = [answer.json() for answer in answers]
    assert [len(body["faces"]) for body in bodies] == [1, 1, 1, 1]
    assert all(body["faces"] == bodies[0]["faces"] for body in bodies)


def test_smartav_clients_go_on_working(http: httpx.Client) -> None:
    def uri(path: Any) -> str:
        return f"data:image/jpg;base64, {base64.b64encode(path.read_bytes()).decode()}"

    root = "/face-recognition"
    row = {"id": "e1", "name": "Eileen", "metadata": "nasa", "action": "embedlink"}
    assert http.get(f"{root}/clear-samples").status_code == 200
    updated = http.post(f"{root}/update-samples", json=[row | {"image": uri(photos.ASTRONAUT)}])
    assert updated.json() == {"success": ["e1"], "fail": []}
    changed = http.post(f"{root}/update-metadata/e1", json={"name": "Eileen C.", "metadata": "x"})
    assert changed.json() == {"success": '"e1" has been configured successfully.'}
    (known,) = http.post(root, json={"image": uri(photos.ASTRONAUT)}).json()
    assert (known["id"], known["name"], known["metadata"]) == ("e1", "Eileen C.", "x")
    strangers = http.post(root, json={"image": uri(photos.GROUP)}).json()
    assert len({row["id"] for row in strangers}) == 6
    again = http.post(root, json={"image": uri(photos.GROUP)}).json()
    assert [row["id"] for row in again] == [row["id"] for row in strangers]
    assert http.post(f"{root}/clear-samples").json()["success"]


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that claims a size, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


PORTRAIT = jpeg(Image.open(photos.ASTRONAUT))


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        pytest.param(b"", 422, "invalid_image", id="empty"),
        pytest.param(b"GIF89a", 422, "invalid_image", id="six bytes"),
        pytest.param(b"hello" * 100, 422, "invalid_image", id="text"),
        pytest.param(b"%PDF-1.7 " + b"x" * 99, 422, "invalid_image", id="a PDF"),
        pytest.param(PORTRAIT[: len(PORTRAIT) // 3], 422, "invalid_image", id="cut at a third"),
        pytest.param(png(0, 0), 422, "invalid_image", id="0x0"),
        pytest.param(png(60_000, 60_000), 413, "image_too_large", id="60,000x60,000"),
        pytest.param(png(20_032, 20_032, bytes(9)), 413, "image_too_large", id="20,032x20,032"),
        pytest.param(png(1, 5000), 422, "invalid_image", id="1x5000 without pixels"),
        pytest.param(b"\xff" * (16 * 2**20 + 1), 413, "image_too_large", id="over 16 MiB"),
        pytest.param(jpeg(Image.new("RGB", (64, 64))), 422, "face_not_found", id="nobody"),
        pytest.param(photos.GROUP.read_bytes(), 422, "several_faces", id="six people"),
    ],
)
def test_bad_pictures_are_refused_and_nothing_is_enrolled(
    http: httpx.Client, collection: str, data: bytes, status: int, code: str
) -> None:
    response = http.post(
        f"{collection}/subjects", content=data, headers={"content-type": "image/jpeg"}
    )
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    after = http.get(collection).json()
    assert (after["version"], after["subject_count"], after["sample_count"]) == (0, 0, 0)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_200_mb_is_refused_and_the_service_goes_on(
    served: Copy, http: httpx.Client, announced: bool
) -> None:
    length = "content-length: 200000000" if announced else "transfer-encoding: chunked"
    head = f"POST /v1/detect HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n{length}\r\n\r\n"
    chunk = bytes(10**6) if announced else b"F4240\r\n" + bytes(10**6) + b"\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        connection.sendall(head.encode())
        for _ in range(200):
            if select.select([connection], [], [], 0)[0]:
                break  # the answer is there before the body is
            connection.sendall(chunk)
        answer = b""
        while not answer.endswith(b"}") and (more := connection.recv(65536)):
            answer += more  # head and body may come one after the other
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "image_too_large"' in answer
    assert http.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/detect", 405, "method_not_allowed"),
        ("POST", "/v1/collections/nobody/search", 404, "collection_not_found"),
    ],
)
def test_problems_carry_code_and_request_id(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    headers = {"x-request-id": "mine-1"}
    files = {"image": PORTRAIT} if method == "POST" else None
    response = http.request(method, path, headers=headers, files=files)
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, body["code"]) == (status, code)
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert body["request_id"] == "mine-1"


def test_health_and_documentation(http: httpx.Client) -> None:
    assert http.get("/readyz").json()["face_pack"] == "opencv"
    running = http.get("/v1/system").json()["running"]
    assert len(running["matcher"]) == 2
    assert http.get("/docs").status_code == 200
    assert "facegraph_http_request_duration_seconds_count" in http.get("/metrics").text
