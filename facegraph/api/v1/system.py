"""What runs here: models, settings in force, health."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from facegraph import __version__
from facegraph.api.endpoint import Call, NoParams, endpoint
from facegraph.api.schemas import AnyAnswer, contract_answer
from facegraph.config import Settings
from facegraph.errors import FacegraphError, Unavailable
from facegraph.models.packs import FacePack
from facegraph.models.places import is_there, known_packs

READY_TIMEOUT_S = 5.0


@endpoint("GET", "/v1/models", answer=AnyAnswer, params=NoParams)
async def models(call: Call[NoParams]) -> Mapping[str, Any]:
    """Every known pack with its licence and digests, the face pack, and what runs each model."""
    pack = call.service.pack
    return {
        "packs": await asyncio.to_thread(_packs, call.service.settings),
        "face_pack": _pack(pack),
        "contract": contract_answer(call.service.contract),
        "running": await _running(call),
    }


@endpoint("GET", "/v1/system", answer=AnyAnswer, params=NoParams)
async def system(call: Call[NoParams]) -> Mapping[str, Any]:
    """Version, settings and limits in force. Secrets are left out."""
    settings = call.service.settings.model_dump(mode="json", exclude={"database_url"})
    database = "external" if call.service.settings.database_url else "embedded"
    return {
        "version": __version__,
        "settings": settings | {"database": database},
        "limits": call.service.tuning.model_dump(mode="json"),
        "threshold": call.service.threshold(None, None),
        "contract": contract_answer(call.service.contract),
        "running": await _running(call),
    }


@endpoint("GET", "/livez", answer=AnyAnswer, params=NoParams)
async def livez(call: Call[NoParams]) -> Mapping[str, Any]:
    """200 as long as the process answers."""
    return {"status": "alive"}


@endpoint("GET", "/readyz", answer=AnyAnswer, params=NoParams, errors=(Unavailable,))
async def readyz(call: Call[NoParams]) -> Mapping[str, Any]:
    """200 when the models are warm, the database answers and the galleries are loaded.

    A replica of the graph answers only after its models are warm and its galleries are at the
    version read when it started, so asking each for its description is the check.
    """
    checks = {"store": call.service.store.ping(), "graph": call.service.graph.describe()}
    results = await asyncio.gather(
        *(asyncio.wait_for(check, READY_TIMEOUT_S) for check in checks.values()),
        return_exceptions=True,
    )
    failed = tuple(
        {"check": name, "detail": _say(result)}
        for name, result in zip(checks, results, strict=True)
        if isinstance(result, BaseException)
    )
    if failed:
        raise Unavailable("not ready: " + "; ".join(f["detail"] for f in failed), failed)
    described = results[1]
    assert isinstance(described, dict)
    return {"status": "ready", "face_pack": call.service.pack.name, **_vision(described)}


def _vision(described: Mapping[str, Any]) -> dict[str, Any]:
    """The segmenter and the captioner in use, and which of them have no replica yet.

    They come and go without making the service unready: faces do not need them.
    """
    loaded: dict[str, str | None] = {}
    starting = []
    for part in ("segmenter", "captioner"):
        replicas = described[part] if isinstance(described[part], list) else [described[part]]
        models = [model for replica in replicas for model in replica["loaded"]]
        loaded[part] = models[-1]["name"] if models else None
        if not replicas:
            starting.append(part)
    return {**loaded, "starting": starting}


async def _running(call: Call[NoParams]) -> dict[str, Any]:
    """The graph's own description, or why there is none: diagnostics must work when it does not."""
    try:
        return await call.service.graph.describe()
    except FacegraphError as error:
        return {"error": {"code": error.code, "detail": error.detail}}


def _pack(pack: FacePack) -> dict[str, Any]:
    return {
        "name": pack.name,
        "summary": pack.summary,
        "licence": asdict(pack.licence),
        "calibration": asdict(pack.calibration),
        "files": [{"name": file.name, "sha256": file.sha256} for file in pack.files],
        "attributes": [
            {"kind": model.kind, "file": model.file.name, "licence": asdict(model.licence)}
            for model in pack.attributes
        ],
    }


def _packs(settings: Settings) -> list[dict[str, Any]]:
    """What `facegraph models list` tells, of the ingress's machine."""
    return [
        {
            "name": place.spec.name,
            "for": place.spec.purpose,
            "summary": place.spec.summary,
            "licence": {
                "name": place.spec.licence.name,
                "permissive": place.spec.licence.permissive,
            },
            "installed": is_there(place),
            "files": [{"name": file.name, "sha256": file.sha256} for file in place.spec.files],
        }
        for place in known_packs(settings).values()
    ]


def _say(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {READY_TIMEOUT_S:g} s"
    return str(error) if isinstance(error, FacegraphError) else type(error).__name__


ENDPOINTS = (models, system, livez, readyz)
