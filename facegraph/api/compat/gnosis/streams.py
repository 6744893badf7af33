"""gnosis' WebRTC streams: the client's video comes back with boxes and labels.

Policies as for pictures; a dataset lives as long as its stream and is seen by no other.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from facegraph.api.compat.answering import service_of
from facegraph.api.compat.gnosis.images import names
from facegraph.api.compat.gnosis.wire import Fields, answering, dataset_of, read
from facegraph.errors import InvalidRequest
from facegraph.video.annotating import Look, Seen
from facegraph.video.streams import Streams


@answering
async def detector_stream(request: Request) -> Response:
    fields = await read(request, {"sdp": "text", "sdp_type": "text"})
    service = service_of(request)

    async def look(picture: bytes) -> Seen:
        faces = (await service.detect(picture)).faces
        return Seen(faces.boxes, [str(index) for index in range(len(faces))])

    return await _open(request, fields, look)


@answering
async def recognizer_stream(request: Request) -> Response:
    fields = await read(request, {"sdp": "text", "sdp_type": "text", "dataset": "dataset"})
    service = service_of(request)
    dataset = await dataset_of(service, fields.files["dataset"][0])

    async def look(picture: bytes) -> Seen:
        embedded = await service.embed(picture)
        labels = await names(service, dataset, embedded.embeddings)
        return Seen(embedded.detection.faces.boxes, labels)

    return await _open(request, fields, look)


def streams_of(request: Request) -> Streams:
    """The app's streams, from the first one on."""
    state = request.app.state
    if not hasattr(state, "gnosis_streams"):
        state.gnosis_streams = Streams(service_of(request).pixels)
    streams: Streams = state.gnosis_streams
    return streams


async def close_streams(app: Starlette) -> None:
    """Ends the app's streams; for when it shuts down."""
    streams: Streams | None = getattr(app.state, "gnosis_streams", None)
    if streams is not None:
        await streams.close()


async def _open(request: Request, fields: Fields, look: Look) -> Response:
    if fields.texts["sdp_type"] != "offer":
        raise InvalidRequest('sdp_type must be "offer"')
    answer = await streams_of(request).open(fields.texts["sdp"], look)
    return JSONResponse({"sdp": answer, "type": "answer"})


ROUTES = [
    Route("/detector/stream", detector_stream, methods=["POST"]),
    Route("/recognizer/stream", recognizer_stream, methods=["POST"]),
]
