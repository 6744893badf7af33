"""How a build goes, as server-sent events."""

from __future__ import annotations

from functools import partial

from facegraph.api.endpoint import Call, NoParams, endpoint
from facegraph.api.events import HEADERS, LASTS_S, MEDIA_TYPE, Event, Position, follow
from facegraph.api.streaming import Streamed
from facegraph.api.v1.recognizer_answers import recognizer_answer
from facegraph.errors import RecognizerNotFound
from facegraph.store import Recognizer, Store

_MARGIN_S = 60.0
"""The stream ends before the request's time does."""


@endpoint(
    "GET",
    "/v1/recognizers/{id}/events",
    answer=Streamed,
    media_types=(MEDIA_TYPE,),
    params=NoParams,
    errors=(RecognizerNotFound,),
)
async def events(call: Call[NoParams]) -> Streamed | None:
    """Follow a build: server-sent events, each with the recognizer as `GET` tells it.

    The first tells how it stands now; `progress` follows whenever that changes; `ready`, `failed`
    or `deleted` is the last. After an hour the stream ends, and the client comes again. Who comes
    again after the last event, with its `Last-Event-ID`, is answered 204, so that EventSource ends.
    """
    store, recognizer_id = call.service.store, call.path["id"]
    first = _event(await store.recognizers.get(recognizer_id))
    seen = Position.read(call.headers.get("last-event-id"))
    if seen.ended and first.last:
        return None
    streams, most = call.state.streams, call.service.tuning.max_event_streams
    body = follow(partial(_look, store, recognizer_id), first, streams, seen.number)
    streamed = Streamed(body, MEDIA_TYPE, HEADERS, lasts_s=LASTS_S + _MARGIN_S, aside=True)
    streamed.held.enter_context(streams.admit(most))
    streamed.held.enter_context(call.state.metrics.event_streams.track_inprogress())
    return streamed


async def _look(store: Store, recognizer_id: str) -> Event:
    try:
        return _event(await store.recognizers.get(recognizer_id))
    except RecognizerNotFound:
        return Event("deleted", {"id": recognizer_id}, last=True)


def _event(recognizer: Recognizer) -> Event:
    last = recognizer.state in ("ready", "failed")
    return Event(recognizer.state if last else "progress", recognizer_answer(recognizer), last)


ENDPOINTS = (events,)
