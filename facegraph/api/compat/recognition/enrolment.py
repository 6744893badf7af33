"""``update-samples``: one sample each, of the largest face; what fails, fails alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from facegraph.api.compat.recognition.policy import COLLECTION, Policy
from facegraph.api.compat.wire import INVALID, ascii_json, json_of, state_of
from facegraph.api.parsing import resolve_image
from facegraph.api.state import State
from facegraph.errors import FacegraphError
from facegraph.ids import as_old_id, to_subject_id
from facegraph.types import NewSample

log = logging.getLogger(__name__)

_KEYS = frozenset({"id", "name", "image", "metadata", "action"})
_AT_ONCE = 8
_SHARE_OF_TIME = 0.8
"""Of a request's time, after which no further samples are begun."""


async def update_samples(policy: Policy, request: Request) -> Response:
    items = await json_of(request)
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and item.keys() >= _KEYS for item in items
    ):
        return JSONResponse(INVALID, policy.invalid_update)
    state = state_of(request)
    outcome: dict[str, list[Any]] = {"success": [], "fail": []}
    end = time.monotonic() + _SHARE_OF_TIME * state.service.tuning.request_timeout_s
    for start in range(0, len(items), _AT_ONCE):
        part = items[start : start + _AT_ONCE]
        if time.monotonic() > end:  # what is left is told as failed, not lost with the answer
            outcome["fail"] += [item["id"] for item in items[start:]]
            break
        prepared = await asyncio.gather(*(_sample(state, item) for item in part))
        for item, sample in zip(part, prepared, strict=True):
            done = sample is not None and await _enrol(policy, state, item, sample)
            outcome["success" if done else "fail"].append(item["id"])
    return ascii_json(outcome)


async def _sample(state: State, item: Mapping[str, Any]) -> NewSample | None:
    try:
        to_subject_id(as_old_id(item["id"]))  # before the models work for nothing
        image = await resolve_image(item["image"], state.service.tuning, state.fetch)
        (sample,), _ = await state.service.samples([image], "largest")
    except FacegraphError as error:
        log.info("sample %.80r not enrolled: %s", item["id"], error)
        return None
    return sample


async def _enrol(policy: Policy, state: State, item: Mapping[str, Any], sample: NewSample) -> bool:
    store = state.service.store
    write = store.replace_subject if policy.enrol == "replace" else store.append_samples
    try:
        await write(
            COLLECTION,
            to_subject_id(as_old_id(item["id"])),
            name=as_text(item["name"]),
            metadata={"metadata": item["metadata"], "action": item["action"]},
            samples=[sample],
            contract=state.service.contract,
        )
    except FacegraphError as error:
        log.info("sample %.80r not enrolled: %s", item["id"], error)
        return False
    return True


def as_text(value: Any) -> str:
    """A name, which may be anything in JSON, as text."""
    return "" if value is None else str(value)
