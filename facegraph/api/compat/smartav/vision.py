"""smartav_api's captions and instance masks.

Policies: a segmenter is loaded from the start, so a client may leave out ``init-engine``, which
switches every replica. ``question`` and ``options`` come with each caption and are always the same.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import cv2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from facegraph.api.compat.wire import (
    INVALID,
    alive,
    is_cross_site,
    json_of,
    sentence,
    state_of,
)
from facegraph.api.parsing import resolve_image
from facegraph.errors import (
    FacegraphError,
    ImageTooLarge,
    InvalidRequest,
    ModelUnavailable,
    Unprocessable,
)
from facegraph.redaction import LONGEST_SIDE
from facegraph.types import DEFAULT_CAPTION, DEFAULT_SEGMENT, Segmentation, SegmentOptions
from facegraph.vision.drawing import colour_masks

QUESTION = "What is in the picture?"
OPTIONS = ("people", "animals", "vehicles", "food", "furniture", "something else")

MAX_TOP_K = 100
MJPG_QUALITY = 95

_BAD = (InvalidRequest, Unprocessable, ImageTooLarge)
_NOT_INITIALISED = 'Please init engine first by calling "/instance-segmentation/init-engine".'


async def caption(request: Request) -> Response:
    body = await json_of(request)
    if isinstance(body, list) and len(body) == 1:
        (body,) = body
    if not isinstance(body, dict) or "image" not in body:
        return JSONResponse(INVALID, 400)
    state = state_of(request)
    try:
        image = await resolve_image(body["image"], state.service.tuning, state.fetch)
        said = await state.service.caption(image, DEFAULT_CAPTION)
    except _BAD:
        return JSONResponse(INVALID, 400)
    except FacegraphError as error:
        return JSONResponse({"error": str(error)}, 500)
    return JSONResponse({"caption": said.text, "question": QUESTION, "options": list(OPTIONS)})


async def init_engine(request: Request) -> Response:
    """Every replica, also those that start later, goes on with this model, or none does."""
    if is_cross_site(request):
        return sentence("Not from another site's page.", 403)
    body = await json_of(request)
    if not isinstance(body, dict) or "model" not in body:
        return sentence('Bad request. Your request is missing "model".', 400)
    if not isinstance(body["model"], str):
        return sentence('Bad request. "model" must be a name.', 400)
    try:
        await state_of(request).service.use_segmenter(body["model"])
    except (InvalidRequest, ModelUnavailable) as error:
        return sentence(f"Bad request. {error}", 400)
    except FacegraphError as error:
        return sentence(f"Loading model... Failed. {error}", 500)
    return sentence("Loading model... Done.")


async def detect_objects(request: Request) -> Response:
    body = await json_of(request)
    if not isinstance(body, dict) or "image" not in body:
        return sentence('Bad request. Your request is missing "image".', 400)
    state = state_of(request)
    try:
        options = _options(body)
        image = await resolve_image(body["image"], state.service.tuning, state.fetch)
        seen = await state.service.segment(image, options)
        mjpg = await state.service.pixels.run(_mjpg, seen)
    except _BAD as error:
        return sentence(f"Bad request. {error}", 400)
    except ModelUnavailable:
        return sentence(_NOT_INITIALISED, 500)
    except FacegraphError as error:
        return sentence(str(error), 500)
    return JSONResponse({"mjpg": mjpg, "detected_objects": _objects(seen)})


def _options(body: Mapping[str, Any]) -> SegmentOptions:
    """As the old system took them: numbers, or numbers as text; InvalidRequest for others."""
    try:
        top_k = float(str(body.get("top_k", DEFAULT_SEGMENT.top_k)))
        score = float(str(body.get("score_threshold", DEFAULT_SEGMENT.score_threshold)))
    except ValueError:
        raise InvalidRequest('"top_k" and "score_threshold" must be numbers') from None
    if not (math.isfinite(top_k) and top_k >= 1 and top_k == math.floor(top_k)):
        raise InvalidRequest('"top_k" must be a whole number from 1')
    if not 0 <= score <= 1:
        raise InvalidRequest('"score_threshold" must be a number from 0 to 1')
    return SegmentOptions(int(min(top_k, MAX_TOP_K)), score)


def _mjpg(seen: Segmentation) -> str:
    """The masks' colours on black, at the picture's size: a bare base64 JPEG."""
    if max(seen.width, seen.height) > LONGEST_SIDE["jpeg"]:
        raise ImageTooLarge(f"a JPEG has at most {LONGEST_SIDE['jpeg']} pixels a side")
    bgr = cv2.cvtColor(colour_masks(seen), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, MJPG_QUALITY])
    return base64.b64encode(data.tobytes()).decode("ascii")


def _objects(seen: Segmentation) -> list[dict[str, Any]]:
    rows = zip(seen.labels, seen.scores.tolist(), seen.boxes.round().tolist(), strict=True)
    return [
        {
            "Class": label,
            "Score": score,
            "Rect": {"x": int(x1), "y": int(y1), "w": int(x2 - x1), "h": int(y2 - y1)},
        }
        for label, score, (x1, y1, x2, y2) in rows
    ]


_INIT = "/instance-segmentation/init-engine"
_DETECT = "/instance-segmentation/detect-objects"

ROUTES = [
    Route("/image-captioning", caption, methods=["POST"]),
    Route("/image-captioning", alive("Image captioning is running.")),
    Route(_INIT, alive("Init engine is running."), methods=["HEAD"]),
    Route(_INIT, init_engine, methods=["GET", "POST"]),
    Route(_DETECT, detect_objects, methods=["POST"]),
    Route(_DETECT, alive("Instance segmentation is running.")),
]
