"""``facegraph check``: what Serve would swallow silently, with the line it stands on.

It reads a configuration of Serve, a RayService of KubeRay, which has one in it, and Ray's
``cluster.yaml`` (:mod:`deployments.launcher`).

Serve's own schema ignores unknown keys and does not look into ``args``, ``user_config`` and
``autoscaling_config``; every level is compared here with the model that will read it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from deployments import launcher, rules
from deployments.arguments import AppArgs, Untuned, matcher_name
from deployments.located import Document, Finding, Steps, load
from facegraph.config import (
    CaptionerTuning,
    DetectorTuning,
    EmbedderTuning,
    IngressTuning,
    JobsTuning,
    MatcherTuning,
    SegmenterTuning,
    nearest,
)

IMPORT_PATH = "deployments.ingress:build"

TUNING: Mapping[str, type[BaseModel]] = {
    "ingress": IngressTuning,
    "detector": DetectorTuning,
    "embedder": EmbedderTuning,
    "matcher": MatcherTuning,
    "segmenter": SegmenterTuning,
    "captioner": CaptionerTuning,
    "recognizer": Untuned,
    "jobs": JobsTuning,
}


def tunings(document: Document, application: Steps) -> Mapping[str, type[BaseModel]]:
    """Every deployment of the application, with the model of its ``user_config``."""
    count = rules.shard_count(document, application)
    return {**TUNING, **{matcher_name(shard): MatcherTuning for shard in range(count)}}


def check_file(path: Path) -> list[str]:
    """Sentences ``file:line: message``, in the order of the lines; none when all is well."""
    try:
        document = load(path)
    except OSError as error:
        return [f"{path}: cannot read it: {error.strerror}"]
    return [
        f"{path}:{finding.line}: {'warning: ' if finding.warning else ''}{finding.message}"
        for finding in sorted(set(findings(document)))
    ]


def findings(document: Document) -> Iterator[Finding]:
    """Everything wrong with the document, in no order."""
    yield from document.findings
    if not isinstance(document.value, dict):
        if not document.findings:
            yield Finding(1, "expected a mapping with `applications`")
        return
    if launcher.is_launcher(document):
        yield from launcher.findings(document)
        return
    models = dict(_models(document))
    told = [*rules.http(document)]
    for steps, model in models.items():
        told += _unknown_keys(document, steps, model)
        told += _rules(document, steps)
    yield from told
    # A model says only that something in it is wrong where a rule has told what.
    lines = {finding.line for finding in told}
    for steps, model in models.items():
        yield from _validated(document, steps, model, lines)


def _models(document: Document) -> Iterator[tuple[Steps, type[BaseModel]]]:
    """The parts that a model reads, and which one does."""
    yield (), ServeDeploySchema
    for application in document.items(("applications",)):
        ours = document.get((*application, "import_path")) == IMPORT_PATH
        if ours:
            yield (*application, "args"), AppArgs
        for deployment in document.items((*application, "deployments")):
            yield (*deployment, "autoscaling_config"), AutoscalingConfig
            name = document.get((*deployment, "name"))
            if ours and (tuning := tunings(document, application).get(str(name))):
                yield (*deployment, "user_config"), tuning


def _rules(document: Document, steps: Steps) -> Iterator[Finding]:
    """What the rules say of the part that ``steps`` leads to."""
    match steps:
        case ("applications", _, "args"):
            yield from rules.gpus(document, steps[:2])
            yield from rules.packs(document, steps[:2])
            yield from rules.names(document, steps[:2], tunings(document, steps[:2]))
            yield from rules.shards(document, steps[:2])
        case ("applications", _, "deployments", _, "autoscaling_config"):
            yield from rules.scaling(document, steps[:4])
            yield from rules.policy(document, steps[:4])
        case ("applications", _, "deployments", _, "user_config"):
            yield from rules.limits(document, steps[:4])


def _unknown_keys(document: Document, steps: Steps, model: type[BaseModel]) -> Iterator[Finding]:
    """Findings for the keys that ``model`` does not have, and below the ones it has."""
    value = document.get(steps)
    if not isinstance(value, dict):
        return
    known = {field.alias or name: field for name, field in model.model_fields.items()}
    known |= model.model_fields
    for key in value:
        below = (*steps, key)
        if key not in known:
            message = f"unknown key {key!r}{nearest(str(key), known)}"
            yield Finding(document.line(below), message)
        elif (inner := _model_in(known[key].annotation)) is None:
            continue
        elif isinstance(value[key], list):
            for index in range(len(value[key])):
                yield from _unknown_keys(document, (*below, index), inner)
        elif key != "autoscaling_config":  # looked at on its own, with its values
            yield from _unknown_keys(document, below, inner)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model in an annotation such as ``list[M]``, ``M | None`` or ``Union[Dict, M]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in {list, typing.Union, types.UnionType, typing.Annotated}:
        for argument in typing.get_args(annotation):
            if (model := _model_in(argument)) is not None:
                return model
    return None


def _validated(
    document: Document, steps: Steps, model: type[BaseModel], told: set[int]
) -> Iterator[Finding]:
    """What the model itself says, one finding a line, unless something there is told already."""
    value = document.get(steps)
    if value is None:
        return
    try:
        model.model_validate(value)
    except (ImportError, AttributeError):
        return  # an autoscaling policy that is not there, which a rule tells
    except ValidationError as error:
        seen: set[int] = set()
        for part in error.errors():
            place = document.place((*steps, *part["loc"]))
            line = document.lines[place]
            if line not in seen and told.isdisjoint(document.span(place)):
                seen.add(line)
                yield Finding(line, _say(part))


def _say(part: Any) -> str:
    keys = [step for step in part["loc"] if isinstance(step, str)]
    message = part["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{keys[-1]}: {message}" if keys and part["type"] != "value_error" else message
