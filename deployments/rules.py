"""Combinations that no single value shows to be wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from deployments.arguments import Resources
from deployments.located import Document, Finding, Steps
from facegraph.config import Settings, nearest
from facegraph.errors import ConfigError, ModelMissing
from facegraph.models.packs import find_pack
from facegraph.models.vision_packs import require_known

EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - looked for, not bound


ENGINES = ("detector", "embedder", "segmenter", "captioner")
"""Deployments that take a part of a GPU."""


def http(document: Document) -> Iterator[Finding]:
    """Where the service listens."""
    host = document.get(("http_options", "host"))
    if host is None or host in EVERYWHERE:
        said = "host is not set, and Serve's default" if host is None else f"host {host}"
        yield Finding(
            document.line(("http_options", "host")),
            f"{said} opens the service to the whole network; 127.0.0.1 keeps it on this machine",
            warning=True,
        )
    for index, application in enumerate(document.get(("applications",)) or []):
        prefix = application.get("route_prefix", "/") if isinstance(application, dict) else "/"
        if isinstance(prefix, str) and (not prefix.startswith("/") or prefix[1:].endswith("/")):
            yield Finding(
                document.line(("applications", index, "route_prefix")),
                f"route_prefix {prefix!r} must begin with / and not end with one",
            )


def scaling(document: Document, steps: Steps) -> Iterator[Finding]:
    """Numbers of replicas, and resources in the wrong place."""

    def value(*below: str) -> Any:
        return document.get((*steps, *below))

    replicas = value("num_replicas")
    if replicas not in {None, "auto"} and not (isinstance(replicas, int) and replicas > 0):
        yield Finding(
            document.line((*steps, "num_replicas")),
            f"num_replicas must be `auto` or a number from 1, not {replicas!r}",
        )
    if isinstance(replicas, int) and value("autoscaling_config") is not None:
        yield Finding(
            document.line((*steps, "num_replicas")),
            "num_replicas is fixed and autoscaling_config is given; keep one of the two",
        )
    bounds = {k: value("autoscaling_config", k) for k in ("min_replicas", "max_replicas")}
    low, high = bounds.values()
    if isinstance(low, int) and isinstance(high, int) and low > high:
        yield Finding(
            document.line((*steps, "autoscaling_config", "min_replicas")),
            f"min_replicas {low} is more than max_replicas {high}",
        )
    for key in ("num_cpus", "num_gpus"):
        if value("ray_actor_options", key) is not None:
            yield Finding(
                document.line((*steps, "ray_actor_options", key)),
                f"{key} belongs into args.resources: the engines' threads and memory follow it",
            )
    if value("max_queued_requests") == -1:
        yield Finding(
            document.line((*steps, "max_queued_requests")),
            "-1 lets the queue grow without bound",
        )


def names(document: Document, application: Steps, known: Collection[str]) -> Iterator[Finding]:
    """Deployments that do not exist, or are listed twice."""
    seen: set[str] = set()
    for steps in document.items((*application, "deployments")):
        name = document.get((*steps, "name"))
        if not isinstance(name, str):
            continue
        line = document.line((*steps, "name"))
        if name in seen:
            yield Finding(line, f"deployment {name!r} appears twice")
        elif name not in known:
            yield Finding(line, f"no deployment is called {name!r}{nearest(name, known)}")
        seen.add(name)


def limits(document: Document, steps: Steps) -> Iterator[Finding]:
    """Limits of one deployment that contradict each other."""

    def number(*below: str) -> float:
        found = document.get((*steps, *below))
        return found if isinstance(found, int | float) else float("nan")

    ongoing = number("max_ongoing_requests")
    inner = (
        "max_concurrent_requests" if document.get((*steps, "name")) == "ingress" else "max_batch"
    )
    if ongoing < number("user_config", inner):
        yield Finding(
            document.line((*steps, "max_ongoing_requests")),
            f"max_ongoing_requests {ongoing:g} is below {inner} "
            f"{number('user_config', inner):g}, which can never be reached",
        )
    if number("user_config", "max_image_bytes") > number("user_config", "max_request_bytes"):
        yield Finding(
            document.line((*steps, "user_config", "max_image_bytes")),
            "max_image_bytes is more than max_request_bytes",
        )


def gpus(document: Document, application: Steps) -> Iterator[Finding]:
    """Fractions that one GPU cannot hold together."""
    total = 0.0
    for name in ENGINES:
        fraction = document.get(
            (*application, "args", "resources", name, "num_gpus"),
            getattr(Resources(), name).num_gpus,
        )
        if not isinstance(fraction, int | float):
            return
        total += fraction * _replicas(document, application, name)
    if total > 1:
        yield Finding(
            document.line((*application, "args", "resources")),
            f"{', '.join(ENGINES)} take {total:g} GPUs together; on one GPU some replica waits",
            warning=True,
        )


FOLDERS = ("data_dir", "models_dir", "insightface_home")


def packs(document: Document, application: Steps) -> Iterator[Finding]:
    """Models by names that no pack has; one that is not installed yet is no mistake."""
    args = document.get((*application, "args")) or {}
    given = {key: args[key] for key in FOLDERS if isinstance(args.get(key), str)}
    for key, find in (
        ("face_pack", find_pack),
        ("segmenter", require_known),
        ("captioner", require_known),
    ):
        if isinstance(name := args.get(key), str) and name:
            try:
                find(Settings.model_validate({**given, key: name}))
            except ModelMissing:
                continue
            except ConfigError as error:
                yield Finding(document.line((*application, "args", key)), str(error))


def _replicas(document: Document, application: Steps, name: str) -> int:
    for deployment in document.get((*application, "deployments")) or []:
        if isinstance(deployment, dict) and deployment.get("name") == name:
            count = deployment.get("num_replicas")
            return count if isinstance(count, int) else 1
    return 1
