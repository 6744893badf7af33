"""Combinations that no single value shows to be wrong."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator
from typing import Any

from ray._common.utils import import_attr
from ray.serve.config import AutoscalingConfig

from deployments.arguments import Resources, matcher_name
from deployments.located import Document, Finding, Steps
from deployments.matcher import AS_SHIPPED
from facegraph.config import MatcherTuning, Settings, nearest
from facegraph.errors import ConfigError, ModelMissing
from facegraph.models.packs import find_pack
from facegraph.models.vision_packs import require_known

EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - looked for, not bound


ENGINES = ("detector", "embedder", "segmenter", "captioner")
"""Deployments that take a part of a GPU."""


def http(document: Document) -> Iterator[Finding]:
    """Where the service listens."""
    host = document.get(("http_options", "host"))
    if not document.served and (host is None or host in EVERYWHERE):  # a pod listens so
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


BY_WAIT = "deployments.scaling:ByWait"

TELL_NOTHING = ("ingress", "jobs")
"""Deployments whose replicas tell no load, so that only Serve's own policy can scale them."""


def policy(document: Document, steps: Steps) -> Iterator[Finding]:
    """An autoscaling policy that is not there, refuses its arguments, or would never scale."""
    if document.get((*steps, "autoscaling_config")) is None:
        return
    place = (*steps, "autoscaling_config", "policy")
    name = document.get((*steps, "name"))
    function = document.get((*place, "policy_function"))
    kwargs = document.get((*place, "policy_kwargs")) or {}
    if function is None and (name in ENGINES[:2] or str(name).startswith("matcher")):
        yield Finding(
            document.line((*steps, "autoscaling_config")),
            f"Serve's own policy counts calls, and one call to the {name} carries many requests: "
            f"take {BY_WAIT}",
            warning=True,
        )
    if function == BY_WAIT and name in TELL_NOTHING:
        yield Finding(
            document.line((*place, "policy_function")),
            f"the {name} tells no load; leave the policy out and set target_ongoing_requests",
        )
    if function == BY_WAIT and document.get((*steps, "autoscaling_config", "min_replicas")) == 0:
        yield Finding(
            document.line((*steps, "autoscaling_config", "min_replicas")),
            f"{BY_WAIT} asks for one replica at least, so min_replicas 0 never comes true",
            warning=True,
        )
    if not isinstance(function, str) or not isinstance(kwargs, dict):
        return
    try:
        found = import_attr(function)
    except (ImportError, AttributeError, ValueError) as error:
        yield Finding(document.line((*place, "policy_function")), f"no such policy: {error}")
        return
    try:
        if inspect.isclass(found):
            found(**kwargs)
    except (TypeError, ValueError) as error:
        yield Finding(document.line((*place, "policy_kwargs")), f"policy_kwargs: {error}")


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
        elif name not in known and re.fullmatch(r"matcher-\d+", name):
            count = shard_count(document, application)
            yield Finding(line, f"no deployment is called {name!r}: matcher_shards is {count}")
        elif name not in known:
            yield Finding(line, f"no deployment is called {name!r}{nearest(name, known)}")
        seen.add(name)


def shard_count(document: Document, application: Steps) -> int:
    """How many matchers there are; 1 where the number is no good, which its model tells."""
    count = document.get((*application, "args", "matcher_shards"))
    return count if isinstance(count, int) and 1 <= count <= 64 else 1


def shards(document: Document, application: Steps) -> Iterator[Finding]:
    """Matchers that are not like the first; every one takes part in every search."""
    place = (*application, "args", "matcher_shards")
    listed = {
        str(document.get((*steps, "name"))): steps
        for steps in document.items((*application, "deployments"))
    }
    first = _matcher_options(document, listed.get(matcher_name(0)))
    for shard in range(1, shard_count(document, application)):
        steps = listed.get(name := matcher_name(shard))
        other = _matcher_options(document, steps)
        if differing := [key for key in first | other if first.get(key) != other.get(key)]:
            yield Finding(
                document.line((*steps, "name") if steps else place),
                f"{name} is not like matcher in {', '.join(differing)}"
                f"{'' if steps else ': it is not listed'}; every search needs both",
                warning=True,
            )


def _matcher_options(document: Document, steps: Steps | None) -> dict[str, Any]:
    """What one matcher's entry, or its absence, comes to; ``user_config`` key by key."""
    given = (document.get(steps) if steps else None) or {}
    tuning = given.get("user_config")
    tuning = MatcherTuning().model_dump(mode="json") | (tuning if isinstance(tuning, dict) else {})
    others = {key: value for key, value in given.items() if key not in {"name", "user_config"}}
    return {**AS_SHIPPED, **others, **tuning}


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
    """Fractions that one GPU cannot hold together; a RayService's nodes come with the load."""
    if document.served:
        return
    parts = {name: name for name in ENGINES}
    parts |= {matcher_name(i): "matcher" for i in range(shard_count(document, application))}
    taken: dict[str, float] = {}
    for name, part in parts.items():
        fraction = document.get(
            (*application, "args", "resources", part, "num_gpus"),
            getattr(Resources(), part).num_gpus,
        )
        if not isinstance(fraction, int | float):
            return
        taken[name] = fraction * _replicas(document, application, name)
    if (total := sum(taken.values())) > 1:
        users = [name for name, share in taken.items() if share]
        yield Finding(
            document.line((*application, "args", "resources")),
            f"{', '.join(users)} take {total:g} GPUs together; on one GPU some replica waits",
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
    """The most that there may be."""
    for steps in document.items((*application, "deployments")):
        if document.get((*steps, "name")) == name:
            count = document.get((*steps, "num_replicas"), 1)
            if count == "auto":
                count = AutoscalingConfig.default().max_replicas
            count = document.get((*steps, "autoscaling_config", "max_replicas"), count)
            return count if isinstance(count, int) else 1
    return 1
