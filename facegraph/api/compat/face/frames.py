"""video2frames: frames of a video as pickled Pillow pictures, with the metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.responses import Response

from facegraph.api.compat.answering import answering, service_of
from facegraph.api.compat.face.pickles import TEXT, picture_text
from facegraph.api.endpoint import validate
from facegraph.api.streaming import Streamed, StreamedResponse, bounds_of, received_video
from facegraph.api.v1.videos import SamplingParams
from facegraph.video.decoding import VideosInWork, extraction
from facegraph.video.sampling import Sampler

_MOST = {"fps_max": 1000.0, "width_max": 16384, "height_max": 16384}


@answering
async def extract_frames(request: Request) -> Response:
    async with AsyncExitStack() as held:
        parsed, upload = await held.enter_async_context(received_video(request))
        response = await frames_of(request, upload.work, upload.file, parsed.params)
        response.hold(held.pop_all())
        return response


async def frames_of(
    request: Request, work: VideosInWork, file: BinaryIO, said: Mapping[str, Any]
) -> StreamedResponse:
    """The answer about a video; of what was said beside it, the unknown is ignored."""
    known = {name: said[name] for name in SamplingParams.model_fields if name in said}
    known |= {name: most for name, most in _MOST.items() if _exceeds(known.get(name), most)}
    asked = validate(SamplingParams, known).sampling()
    bounds = bounds_of(service_of(request).tuning)
    return StreamedResponse(Streamed(await work.body(extraction(file, asked, bounds, write)), TEXT))


def _exceeds(value: Any, most: float) -> bool:
    """Whether an old client wrote a large number for "no limit"; nothing is enlarged anyway."""
    try:
        return most < float(value) < math.inf
    except (TypeError, ValueError):
        return False


def write(sampler: Sampler) -> Iterator[bytes]:
    """The pickle of ``{"frames": […], "metadata": {…}}``, a frame at a time."""
    yield b'{"frames": ['
    for number, frame in enumerate(sampler.frames()):
        yield (b", " if number else b"") + picture_text(frame.rgb)
    metadata = sampler.metadata() | ({"truncated": True} if sampler.truncated else {})
    yield b'], "metadata": ' + json.dumps(metadata).encode() + b"}"
