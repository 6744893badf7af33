"""face: frames and faces as jsonpickle texts, which the real jsonpickle of old and new clients
writes and reads; and nothing that a client sends is run."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from facegraph.api.compat.face import pickles
from facegraph.api.compat.face.pickles import BITS, picture_text, read
from facegraph.api.parsing import MAX_FILELESS_FORM
from facegraph.config import IngressTuning
from facegraph.errors import FacegraphError, ImageTooLarge, InvalidRequest
from facegraph.service import Service
from tests.api.test_vision import graph
from tests.fake_graph import FakeGraph, embedding_of, photo
from tests.photos import GROUP, PORTRAIT
from tests.video_making import clip, number_of

__all__ = ["graph"]

VERSIONS = ("2.0.0", "4.1.4")
OLD = Path(sys.prefix) / "jsonpickle-2.0.0"
"""Where `make pytest` installs it, since two versions cannot lie in one place."""

PREFIXES = pytest.mark.parametrize("prefix", ["", "/compat/face"])
BOTH = pytest.mark.parametrize("version", VERSIONS)


def real(version: str, program: str, text: str = "") -> Any:
    """What ``program`` prints as JSON, with jsonpickle of this version and ``text`` as input."""
    environ = dict(os.environ)
    if version == "2.0.0":
        if not OLD.is_dir():
            pytest.skip(f"needs jsonpickle 2.0.0 in {OLD.name} of the environment: make pytest")
        environ["PYTHONPATH"] = str(OLD)
    program = f"import jsonpickle, json, sys\nassert jsonpickle.__version__ == {version!r}\n" + (
        program
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input=text,
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


READ_FRAMES = """
import hashlib
from PIL import Image
answer = jsonpickle.decode(sys.stdin.read())
assert all(type(frame) is Image.Image for frame in answer["frames"])
json.dump({
    "frames": [[f.mode, f.size, hashlib.sha256(f.tobytes()).hexdigest()] for f in answer["frames"]],
    "means": [sum(f.convert("L").tobytes()) / (f.width * f.height) for f in answer["frames"]],
    "metadata": answer["metadata"],
}, sys.stdout)
"""

READ_FACES = """
import numpy
def told(value):
    if isinstance(value, numpy.ndarray):
        value[...] = value  # it can be written to
        return [str(value.dtype), value.shape, value.ravel().tolist()]
    return [type(value).__name__, value]
answer = jsonpickle.decode(sys.stdin.read())
assert list(answer) == ["fa_results"]
json.dump([{n: told(v) for n, v in face.items()} for face in answer["fa_results"]], sys.stdout)
"""


def pickled_photo(*people: int) -> str:
    """A grey picture that says in its first pixels who is in it, as jsonpickle writes it."""
    raw = f"faces:{','.join(map(str, people))}.".encode().ljust(200 * 100, b"\0")
    return json.dumps(pil("L", (200, 100), raw))


def pil(mode: str, size: tuple[int, int], raw: bytes, **changes: Any) -> dict[str, Any]:
    data = {"py/b64": base64.b64encode(raw).decode()}
    state = [changes.get("info", {}), mode, {"py/tuple": size}, changes.get("palette"), data]
    name = changes.get("name", "PIL.Image.Image")
    return {"py/object": name, "py/state": [*state, *changes.get("more", [])]}


# Frames


@pytest.fixture(scope="module")
def documented() -> bytes:
    """The clip of the old system's document."""
    return clip(555, fps=60, size=(1280, 720))


@pytest.mark.parametrize(("prefix", "version"), [("", "2.0.0"), ("/compat/face", "4.1.4")])
async def test_the_documented_example(
    client: httpx.AsyncClient, documented: bytes, prefix: str, version: str
) -> None:
    response = await client.post(
        prefix + "/extract-frames",
        files={"video": ("v.mp4", documented, "video/mp4")},
        data={"fps_max": "10", "width_max": "640", "height_max": "480"},
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    decoded = real(version, READ_FRAMES, response.text)
    assert decoded["metadata"] == {
        "num_frames_original": 555,
        "num_frames": 93,
        "duration_seconds": 9.25,
        "fps_original": 60,
        "fps": 10.054054054054054,
        "width_original": 1280,
        "height_original": 720,
        "width": 640,
        "height": 360,
        "frame_idx_original": list(range(0, 553, 6)),
    }
    assert [frame[:2] for frame in decoded["frames"]] == [["RGB", [640, 360]]] * 93
    numbers = [round((mean - 4) / 8) for mean in decoded["means"]]
    assert numbers == [index % 30 for index in range(0, 553, 6)]


async def test_the_clients_defaults(client: httpx.AsyncClient) -> None:
    data = clip(25, fps=10, size=(1920, 1080))
    response = await client.post("/extract-frames", files={"video": data})
    answer = json.loads(response.text)
    assert answer["metadata"]["frame_idx_original"] == [0, 10, 20]
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == (1280, 720)


async def test_a_truncated_video_gives_what_it_has_and_says_so(client: httpx.AsyncClient) -> None:
    data = clip(30, container="matroska")
    files, fields = {"video": data[: len(data) // 2]}, {"fps_max": "10"}
    answer = json.loads((await client.post("/extract-frames", files=files, data=fields)).text)
    assert answer["metadata"]["truncated"] is True
    assert 0 < len(answer["frames"]) == answer["metadata"]["num_frames"] < 30


@PREFIXES
@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"files": {"video": b"no video"}}, "not a video of a known container"),
        ({"files": {"video": b"x"}, "data": {"fps_max": "0"}}, "fps_max"),
        ({"files": {"video": b"x"}, "data": {"fps_max": "fast"}}, "fps_max"),
        ({"files": {"video": b"x"}, "data": {"width_max": "-1"}}, "width_max"),
        ({"files": {"movie": b"x"}}, "unknown file field 'movie'"),
        ({"data": {"video": "x"}}, "multipart/form-data"),
        ({}, "multipart/form-data"),
    ],
)
async def test_bad_requests_for_frames(
    client: httpx.AsyncClient, prefix: str, request_: dict[str, Any], said: str
) -> None:
    response = await client.post(prefix + "/extract-frames", **request_)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert said in response.json()["error"]


async def test_too_much_of_a_video(client: httpx.AsyncClient, service: Service) -> None:
    service.tuning = IngressTuning(max_video_frames=2)
    response = await client.post("/extract-frames", files={"video": clip(25)})
    assert response.status_code == 400
    assert "more than 2 frames" in response.json()["error"]


# Faces


def faces_of(people: list[int], dimension: int) -> list[dict[str, Any]]:
    """What the old system would have answered of the fake graph's faces, as READ_FACES tells it."""
    return [
        {
            "age": ["int", 20 + person],
            "bbox": ["float64", [4], [20.0 * i, 0, 20.0 * i + 10 + n, 10.0 + n]],
            "det_score": ["float", float(np.float32(0.9))],
            "gender": ["int", person % 2],
            "landmark": ["float32", [5, 2], [0.0] * 10],
            "normed_embedding": ["float32", [dimension], embedding_of(person, dimension).tolist()],
        }
        for i, (person, n) in enumerate(zip(people, range(len(people), 0, -1), strict=True))
    ]


@BOTH
@PREFIXES
async def test_faces(
    client: httpx.AsyncClient, service: Service, prefix: str, version: str
) -> None:
    files = {"image": (None, pickled_photo(3, 8))}
    response = await client.post(prefix + "/face-analysis", files=files)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    decoded = real(version, READ_FACES, response.text)
    assert decoded == faces_of([3, 8], service.contract.dimension)


async def test_the_picture_may_be_a_file(client: httpx.AsyncClient) -> None:
    answers = [
        (await client.post("/face-analysis", files={"image": sent})).text
        for sent in (pickled_photo(3), photo(3), json.dumps(pickled_photo(3)))
    ]
    assert len(json.loads(answers[0])["fa_results"]) == 1
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 400)])
async def test_a_form_that_is_not_multipart_is_small(
    client: httpx.AsyncClient, more: int, status: int
) -> None:
    """It is decoded in one piece, which takes gigabytes where every letter is escaped."""
    body = "image=" + quote(pickled_photo(3)) + "&x="
    body += "x" * (MAX_FILELESS_FORM + more - len(body))
    kind = {"content-type": "application/x-www-form-urlencoded"}
    response = await client.post("/face-analysis", content=body, headers=kind)
    assert response.status_code == status
    assert status == 200 or response.json() == {"error": "a request may have 1048576 bytes"}


async def test_no_faces(client: httpx.AsyncClient) -> None:
    response = await client.post("/face-analysis", files={"image": (None, pickled_photo())})
    assert (response.status_code, response.text) == (200, '{"fa_results": []}')


async def test_a_pack_without_age_and_gender_answers_null(
    client: httpx.AsyncClient, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = graph.detect

    async def plain(*args: Any, **options: Any) -> Any:
        return await detect(*args, **options | {"attributes": False})

    monkeypatch.setattr(graph, "detect", plain)
    response = await client.post("/face-analysis", files={"image": (None, pickled_photo(3))})
    (face,) = json.loads(response.text)["fa_results"]
    assert (face["age"], face["gender"]) == (None, None)
    assert set(face) == {"age", "bbox", "det_score", "gender", "landmark", "normed_embedding"}


# The later client


@PREFIXES
async def test_a_later_client_sends_either_to_one_address(
    client: httpx.AsyncClient, prefix: str
) -> None:
    def string(data: bytes, **beside: Any) -> str:
        shape: Any = {"py/b64": base64.b64encode(data).decode()}
        return json.dumps({"video": shape} | beside if beside else shape)

    faces = (await client.post("/face-analysis", files={"image": photo(3)})).text
    video = {"fps_max": "5", "width_max": "32", "height_max": "32"}
    frames = (await client.post("/extract-frames", files={"video": clip(25)}, data=video)).text
    assert len(json.loads(frames)["frames"]) == 13

    for body in (string(photo(3)), pickled_photo(3)):
        assert (await client.post(prefix + "/", json=body)).text == faces
        assert (await client.post(prefix + "/", content=body)).text == faces
    assert (await client.post(prefix + "/", files={"image": photo(3)})).text == faces

    numbers = {"fps_max": 5, "width_max": 32, "height_max": 32}
    assert (await client.post(prefix + "/", json=string(clip(25), **numbers))).text == frames
    assert (await client.post(prefix + "/", files={"video": clip(25)}, data=video)).text == frames
    kind = {"content-type": "video/mp4"}
    answer = await client.post(prefix + "/", content=clip(25), params=video, headers=kind)
    assert answer.text == frames
    plain = json.loads((await client.post(prefix + "/", json=string(clip(25)))).text)
    assert len(plain["frames"]) == 3


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"json": "no pickle"},
        {"json": 3},
        {"json": [1]},
        {"json": json.dumps({"py/b64": "AAAA"})},  # neither picture nor video
        {"json": json.dumps({"py/b64": "not base64!"})},
        {"content": b"\xff\xfe"},
        {"content": b"[" * 100_000},
        {"files": {"other": b"x"}},
        {"files": {"video": b"x"}},
    ],
)
async def test_bad_requests_to_the_one_address(
    client: httpx.AsyncClient, request_: dict[str, Any]
) -> None:
    response = await client.post("/", **request_)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


# Shapes


def pixels_of(tiff: bytes) -> Image.Image:
    with Image.open(io.BytesIO(tiff), formats=["TIFF"]) as image:
        return image.copy()


@BOTH
@pytest.mark.parametrize("mode", [*BITS])
def test_pictures_that_jsonpickle_writes(version: str, mode: str) -> None:
    text = real(
        version,
        "from PIL import Image\n"
        f"image = Image.open({str(PORTRAIT)!r}).convert('RGB').crop((0, 0, 77, 50))\n"
        f"image = image.convert({mode!r}) if {mode!r} != 'I;16' else image.convert('L')\n"
        f"image = image if image.mode == {mode!r} else image.convert('I').convert('I;16')\n"
        "json.dump([jsonpickle.encode(image), image.tobytes().hex(),\n"
        "           image.convert('RGB').tobytes().hex()], sys.stdout)",
    )
    image = pixels_of(read(text[0].encode()).data)
    assert (image.mode, image.size) == (mode, (77, 50))
    assert image.tobytes().hex() == text[1]
    assert image.convert("RGB").tobytes().hex() == text[2]


@BOTH
@pytest.mark.parametrize(
    ("format_", "options", "rational"),
    [
        ("JPEG", {}, False),
        ("JPEG", {}, True),  # resolutions become objects among the notes
        ("PNG", {"dpi": (72, 72)}, False),
        ("TIFF", {"dpi": (72, 72)}, True),
        ("WEBP", {}, False),
        ("BMP", {}, False),
        ("GIF", {}, False),
    ],
)
def test_pictures_opened_from_files(
    tmp_path: Path, version: str, format_: str, options: dict[str, Any], rational: bool
) -> None:
    path = tmp_path / "picture"
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 72.0, 72.0, 2  # resolutions
    with Image.open(PORTRAIT) as image:
        image.convert("RGB").save(path, format_, **options | ({"exif": exif} if rational else {}))
    text, digest = real(
        version,
        "import hashlib\nfrom PIL import Image\n"
        f"image = Image.open({str(path)!r})\n"
        "text = jsonpickle.encode(image)\n"
        "pixels = image.convert('RGB').tobytes()\n"
        "json.dump([text, hashlib.sha256(pixels).hexdigest()], sys.stdout)",
    )
    assert ("IFDRational" in text) == rational
    pixels = pixels_of(read(text.encode()).data).convert("RGB").tobytes()
    assert hashlib.sha256(pixels).hexdigest() == digest


@BOTH
def test_bytes_that_jsonpickle_writes(version: str) -> None:
    text = real(version, "json.dump(jsonpickle.encode(bytes(range(256))), sys.stdout)")
    assert read(text.encode()).data == read(json.dumps(text).encode()).data == bytes(range(256))
    text85 = json.dumps({"py/b85": base64.b85encode(b"abc").decode()})
    assert read(text85.encode()).data == b"abc"


@BOTH
def test_our_pictures_are_what_they_were(version: str) -> None:
    with Image.open(GROUP) as image:
        rgb = np.array(image.convert("RGB"))
    text = '{"frames": [' + picture_text(rgb).decode() + '], "metadata": {}}'
    ((mode, size, digest),) = real(version, READ_FRAMES, text)["frames"]
    assert (mode, size) == ("RGB", [1280, 886])
    assert digest == hashlib.sha256(rgb.tobytes()).hexdigest()
    assert np.array_equal(np.asarray(pixels_of(read(picture_text(rgb)).data)), rgb)


RAW = bytes(range(12))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (pil("RGB", (2, 2), RAW[:11]), "11 bytes are no 2×2 pixels"),
        (pil("RGB", (2, 2), RAW + b"x"), "13 bytes are no 2×2 pixels"),
        (pil("RGB", (-2, -2), RAW), "12 bytes are no"),
        (pil("RGB", (0, 0), b""), "0 bytes are no"),
        (pil("RGB", (10**9, 10**9), RAW), "12 bytes are no"),
        (pil("1", (9, 2), RAW[:3]), "3 bytes are no 9×2"),
        (pil("LAB", (2, 2), RAW), "mode 'LAB' are not read"),
        (pil("P", (2, 2), RAW[:4], palette=[0, 0, 256]), "a palette is"),
        (pil("P", (2, 2), RAW[:4], palette=[0, 0]), "a palette is"),
        (pil("P", (2, 2), RAW[:4], palette=[0] * 771), "a palette is"),
        (pil("P", (2, 2), RAW[:4], palette="rgb"), "a palette is"),
        (pil("RGB", (2, 2), RAW, palette=[0, 0, 0]), "for mode P"),
        (pil("RGB", (2, 2), RAW, name="PIL.ImageFile.Other"), "only pickles of"),
        ({"py/object": "PIL.Image.Image"}, "only pickles of"),
        ({"py/object": "PIL.Image.Image", "py/state": []}, "the state of a Pillow picture"),
        ({"py/object": "PIL.Image.Image", "py/state": {}}, "the state of a Pillow picture"),
        ({"py/b64": 3}, "only pickles of"),
        ({"py/b64": "Zg==", "x": 1}, "only pickles of"),
        ({"py/b64": "é"}, "py/b64 holds no such text"),
        ({"py/b85": '"'}, "py/b85 holds no such text"),
        ({"image": {"py/b64": "Zg=="}, "video": {"py/b64": "Zg=="}}, "only pickles of"),
        (None, "only pickles of"),
        ([], "only pickles of"),
    ],
)
def test_other_shapes_are_refused(shape: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read(json.dumps(shape).encode())


def test_a_picture_of_too_many_pixels_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """In mode 1 Pillow's pixels would take eight times what was sent."""
    monkeypatch.setattr(pickles, "MAX_PIXELS", 96)
    assert pixels_of(read(json.dumps(pil("1", (16, 6), RAW)).encode()).data).size == (16, 6)
    monkeypatch.setattr(pickles, "MAX_PIXELS", 95)
    with pytest.raises(ImageTooLarge, match="16×6 pixels, at most 95"):
        read(json.dumps(pil("1", (16, 6), RAW)).encode())


def hostile(marker: Path) -> list[tuple[str, Any]]:
    """Texts that would make ``marker`` where a decoder obeyed them, or are meant to."""
    touch = f"touch {marker}"
    reduce = {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": [touch]}]}
    popen = {"py/object": "subprocess.Popen", "py/newargs": {"py/tuple": [["touch", str(marker)]]}}
    init = {"py/object": "subprocess.Popen", "py/initargs": [["touch", str(marker)]]}
    path = {
        "py/reduce": [
            {"py/function": "pathlib.Path.touch"},
            {
                "py/tuple": [
                    {"py/reduce": [{"py/type": "pathlib.Path"}, {"py/tuple": [str(marker)]}]}
                ]
            },
        ]
    }
    return [
        ("a function that is called", reduce),
        ("a class that is made", popen),
        ("the same, old style", init),
        ("a method that is called", path),
        ("an expression", {"py/repr": f"os/os.system('{touch}')"}),
        ("a class", {"py/type": "subprocess.Popen"}),
        ("a module", {"py/mod": "os/os"}),
        ("a function", {"py/function": "os.system"}),
        ("in a list", [reduce]),
        ("in a tuple", {"py/tuple": [reduce]}),
        ("for bytes", {"py/b64": reduce}),
        ("beside bytes", {"py/b64": "Zg==", "py/object": "subprocess.Popen"}),
        ("as the picture", {"image": reduce}),
        ("as the video", {"video": reduce}),
        ("as the state", {"py/object": "PIL.Image.Image", "py/state": reduce}),
        ("beside the state", pil("RGB", (2, 2), RAW) | reduce),
        ("among the notes", pil("RGB", (2, 2), RAW, info={"dpi": reduce})),
        ("deep in the notes", pil("RGB", (2, 2), RAW, info={"a": [{"py/tuple": [[popen]]}]})),
        ("an expression in the notes", pil("RGB", (2, 2), RAW, info={"py/repr": "os/os.getcwd()"})),
        ("as the palette", pil("P", (2, 2), RAW[:4], palette=reduce)),
        ("in the palette", pil("P", (2, 2), RAW[:4], palette=[0, 0, reduce])),
        ("after the pixels", pil("RGB", (2, 2), RAW, more=["", reduce])),
        ("as the mode", pil(reduce, (2, 2), RAW)),  # type: ignore[arg-type]
        ("as the size", pil("RGB", (2, reduce), RAW)),  # type: ignore[arg-type]
        ("as the class", pil("RGB", (2, 2), RAW, name="subprocess.Popen")),
    ]


NAMES = [name for name, _ in hostile(Path("/nowhere"))]


@pytest.mark.parametrize("name", NAMES)
async def test_nothing_a_client_sends_is_run(
    client: httpx.AsyncClient, tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "marker"
    text = json.dumps(dict(hostile(marker))[name])
    with pytest.raises(InvalidRequest):
        read(text.encode())
    for response in (
        await client.post("/face-analysis", files={"image": (None, text)}),
        await client.post("/", json=text),
        await client.post("/", content=text),
    ):
        assert response.status_code == 400
        assert list(response.json()) == ["error"]
    assert not marker.exists()


@BOTH
def test_the_real_jsonpickle_would_run_it(tmp_path: Path, version: str) -> None:
    obeyed = []
    for name, shape in hostile(tmp_path / "marker"):
        marker = tmp_path / "marker"
        real(
            version,
            "try:\n    jsonpickle.decode(sys.stdin.read())\nexcept Exception: pass\nprint(0)",
            json.dumps(shape),
        )
        if marker.exists():
            obeyed.append(name)
            marker.unlink()
    assert {"a function that is called", "among the notes", "after the pixels"} <= set(obeyed)


def test_errors_are_ours() -> None:
    """A text that no parser likes is refused with a sentence, not with Python's own error."""
    for text in (b"", b"{", b"\xff", b'{"a":' * 5000, b'"{"', b"NaN", b"1" * 5000):
        with pytest.raises(FacegraphError):
            read(text)


def test_a_frame_says_its_number() -> None:
    """The making of clips, which the tests above lean on."""
    rgb = np.full((4, 4, 3), 4 + 8 * 17, np.uint8)
    assert number_of(rgb) == 17
