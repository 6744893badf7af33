"""The few shapes of jsonpickle that face's clients send and read, by hand.

Nothing here is ever decoded by jsonpickle or pickle, which would run what a client names. What has
another shape than these is refused.

    bytes    {"py/b64": text}, {"py/b85": text}
    picture  {"py/object": "PIL.Image.Image", "py/state": [info, mode, size, palette, bytes, …]}
    array    {"py/reduce": [{"py/type": "numpy.ndarray"}, …]}
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
from PIL import Image

from facegraph.api.parsing import load_json
from facegraph.errors import ImageTooLarge, InvalidRequest
from facegraph.types import ByteArray

TEXT = "text/plain; charset=utf-8"
"""Of every answer; it is ASCII. The old clients look at the text only."""

BITS = {
    "1": 1,
    "L": 8,
    "P": 8,
    "LA": 16,
    "I;16": 16,
    "RGB": 24,
    "RGBA": 32,
    "CMYK": 32,
    "I": 32,
    "F": 32,
}
"""Pillow's mode → bits of a pixel; a row begins with a whole byte."""

MAX_PIXELS = 50_000_000
"""Of a picture: in mode 1, Pillow's pixels take eight times the bytes that a client sends."""

_PICTURE = re.compile(r"PIL\.(Image\.Image|\w+ImagePlugin\.\w+ImageFile)")

_TAGS = {
    *("py/tuple", "py/b64", "py/b85", "py/id"),
    *("py/object", "py/type", "py/state", "py/newargs", "py/reduce"),
}
_HARMLESS = ["fractions.Fraction", "PIL.TiffImagePlugin.IFDRational", "PIL.PngImagePlugin.iTXt"]
"""Tags and names among the notes of a picture that Pillow opened from a file."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a client sent: bytes of a picture or video, and what it said beside it."""

    data: bytes
    params: Mapping[str, Any] = field(default_factory=dict)


def read(text: bytes) -> Message:
    """A pickle, or a JSON string that holds one: of a picture, of bytes, or of an object with one
    of these as ``image`` or ``video``.

    A picture's pixels come as a TIFF file of the same. Raises ImageTooLarge past ``MAX_PIXELS``,
    InvalidRequest for all else.
    """
    value = load_json(text)
    if isinstance(value, str):
        value = load_json(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, dict) and len(named := {"image", "video"} & value.keys()) == 1:
        value = dict(value)
        return Message(_data(value.pop(named.pop())), value)
    return Message(_data(value))


def picture_text(rgb: ByteArray) -> bytes:
    """``rgb`` (h, w, 3) as the pickle of a Pillow picture."""
    height, width = rgb.shape[:2]
    state = [{}, "RGB", {"py/tuple": [width, height]}, None, _bytes(rgb)]
    return json.dumps({"py/object": "PIL.Image.Image", "py/state": state}).encode()


def array_shape(array: npt.NDArray[Any]) -> dict[str, Any]:
    """The array's pickle.

    An empty array that is given its state: jsonpickle's own form names a function that NumPy 2
    moved, so that no name serves old and new clients. Without back references, which count the
    objects before.
    """
    kind = {
        "py/reduce": [
            {"py/type": "numpy.dtype"},
            {"py/tuple": [array.dtype.str[1:], False, True]},
            {"py/tuple": [3, "<", None, None, None, -1, -1, 0]},
        ]
    }
    state = [1, {"py/tuple": list(array.shape)}, kind, False, _bytes(array)]
    empty = {"py/tuple": [{"py/tuple": [0]}]}
    return {"py/reduce": [{"py/type": "numpy.ndarray"}, empty, {"py/tuple": state}]}


def _data(shape: Any) -> bytes:
    if isinstance(shape, dict) and shape.keys() == {"py/object", "py/state"}:
        return _picture(shape["py/object"], shape["py/state"])
    return _raw(shape)


def _raw(shape: Any) -> bytes:
    decoders: Mapping[str, Callable[[str], bytes]] = {
        "py/b64": lambda text: base64.b64decode("".join(text.split()), validate=True),
        "py/b85": base64.b85decode,
    }
    if isinstance(shape, dict) and len(shape) == 1:
        ((tag, text),) = shape.items()
        if tag in decoders and isinstance(text, str):
            try:
                return decoders[tag](text)
            except ValueError:
                raise InvalidRequest(f"{tag} holds no such text") from None
    raise InvalidRequest("only pickles of bytes and of Pillow pictures are read")


def _picture(name: Any, state: Any) -> bytes:
    if not (isinstance(name, str) and _PICTURE.fullmatch(name)):
        raise InvalidRequest("only pickles of bytes and of Pillow pictures are read")
    match state:
        case [dict() as info, str(mode), {"py/tuple": [int(w), int(h)]}, palette, raw, *notes]:
            _require_harmless(info, notes)
            return _tiff(mode, (w, h), palette, _raw(raw))
    raise InvalidRequest("the state of a Pillow picture is [info, mode, size, palette, bytes, …]")


def _tiff(mode: str, size: tuple[int, int], palette: Any, raw: bytes) -> bytes:
    width, height = size
    if mode not in BITS:
        raise InvalidRequest(
            f"pictures of mode {mode[:20]!r} are not read; known: {', '.join(BITS)}"
        )
    if min(size) < 1 or len(raw) != (width * BITS[mode] + 7) // 8 * height:
        raise InvalidRequest(f"{len(raw)} bytes are no {width}×{height} pixels of mode {mode}")
    if width * height > MAX_PIXELS:
        raise ImageTooLarge(f"the image has {width}×{height} pixels, at most {MAX_PIXELS} are read")
    image = Image.frombytes(mode, size, raw)
    if palette is not None:
        _require_palette(mode, palette)
        image.putpalette(palette)
    file = io.BytesIO()
    image.save(file, "TIFF")
    return file.getvalue()


def _require_palette(mode: str, palette: Any) -> None:
    colours = isinstance(palette, list) and all(type(c) is int and 0 <= c <= 255 for c in palette)
    if mode != "P" or not colours or len(palette) > 768 or len(palette) % 3:
        raise InvalidRequest("a palette is a list of up to 256 colours, for mode P")


def _require_harmless(*values: Any) -> None:
    """InvalidRequest where a decoder would do more than hold data."""
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            tags = {key for key in value if key.startswith("py/")}
            named = [value[tag] for tag in ("py/object", "py/type") if tag in tags]
            if not (tags <= _TAGS and all(name in _HARMLESS for name in named)):
                raise InvalidRequest("the picture's pickle names more than data")


def _bytes(array: npt.NDArray[Any]) -> dict[str, str]:
    return {"py/b64": base64.b64encode(array.tobytes()).decode("ascii")}
