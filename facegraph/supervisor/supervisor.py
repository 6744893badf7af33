"""The course of ``facegraph serve``: models, database, Ray, Serve; then wait, and end in order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from facegraph.errors import ConfigError, StartupError
from facegraph.supervisor import configuration, processes
from facegraph.supervisor.configuration import Launch
from facegraph.supervisor.environment import behind_haproxy, ray_environment
from facegraph.supervisor.haproxy import door, rpc_door
from facegraph.supervisor.instance import Instance
from facegraph.supervisor.journal import Journal
from facegraph.supervisor.parts import database, face_pack, segmenter
from facegraph.supervisor.ports import require_free
from facegraph.supervisor.probe import probe
from facegraph.supervisor.runtime import runtime_folder

READY_TIMEOUT_S = 600.0
"""Loading large galleries is part of the start."""

VISION_TIMEOUT_S = 120.0
"""From the first answer on; loading a large captioner is part of the start."""

POLL_S = 0.2

Say = Callable[[str], None]


class _Stop(Exception):
    """A signal asked for the end."""


def supervise(
    launch: Launch, accepted: Collection[str], say: Say, complain: Say, mention: Say
) -> int:
    """Runs one copy of the service until a signal ends it; the exit status.

    ``accepted`` names licences under which models may be fetched.
    ``say`` gets the one line that tells it is ready, ``mention`` what it is waiting for,
    ``complain`` everything else. StartupError tells why it cannot start. Everything started here
    has ended when this returns.
    """
    try:
        with _signals_raise(), ExitStack() as stack:
            _require_servable(launch)
            journal = stack.enter_context(closing(Journal(_log_path(launch))))
            face_pack(launch.settings, complain)
            segmenter(launch.settings, accepted, complain)
            stack.enter_context(database(launch.settings))
            processes.adopt_orphans()
            folder = stack.enter_context(runtime_folder())
            environment = _environment(launch, folder)
            instance = Instance(folder, environment, journal.sink)
            stack.callback(_stop, instance, complain, mention)

            def pass_on() -> None:
                for line in journal.news():
                    complain(line)

            mention("starting; half a minute to a minute, longer with large models or galleries")
            inside = configuration.LOOPBACK if behind_haproxy(environment) else None
            instance.start(configuration.write(launch, folder, host=inside), pass_on)
            state = _wait_ready(launch, instance, journal, pass_on)
            say(
                f"Facegraph answers at {launch.url} (documentation: {launch.url}/docs)"
                f"{_grpc(launch)}; "
                f"{_models(state)}; data in {launch.settings.data_path}"
            )
            return _watch(instance, journal, pass_on, complain)
    except _Stop:
        return 0


def _require_servable(launch: Launch) -> None:
    """ConfigError where an address is taken, or HTTPS or gRPC cannot be served."""
    require_free(launch.host, launch.port)
    if launch.grpc_port is not None:
        if launch.grpc_port == launch.port:
            raise ConfigError(f"HTTP and gRPC cannot both have port {launch.port}")
        require_free(launch.host, launch.grpc_port, "--host and --grpc-port")
    if launch.tls is not None:
        launch.tls.check()
    if behind_haproxy(os.environ):
        return
    off = "RAY_SERVE_ENABLE_HA_PROXY=0 takes it off"
    if launch.tls is not None:
        raise ConfigError(f"HTTPS is served by HAProxy, and {off}")
    if launch.grpc_port is not None:
        raise ConfigError(
            f"gRPC is served by HAProxy, and {off}: Serve itself would open it on every interface"
        )


def _environment(launch: Launch, folder: Path) -> dict[str, str]:
    environment = configuration.with_data_folder(os.environ, launch.settings)
    if launch.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = launch.gpus
    pem = launch.tls.bundle(folder) if launch.tls else None
    rpc = "" if launch.grpc_port is None else rpc_door(launch.host, launch.grpc_port, pem)
    return ray_environment(environment, folder, door(launch.host, launch.port, pem), rpc)


def _log_path(launch: Launch) -> Path:
    return launch.settings.data_path / "logs" / f"serve-{launch.port}.log"


def _wait_ready(
    launch: Launch, instance: Instance, journal: Journal, pass_on: Callable[[], None]
) -> Mapping[str, Any]:
    """What ``/readyz`` says once it answers 200 and nothing is starting any more.

    Captions and masks are waited for, but not for ever: faces do not need them.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    faces_ready: float | None = None
    while time.monotonic() < deadline:
        pass_on()
        journal.raise_if_hopeless()
        if ended := instance.ended():
            raise StartupError(f"{ended}; the log ends:\n{journal.tail()}")
        if (state := probe(launch)) is not None:
            faces_ready = faces_ready or time.monotonic()
            if not state["starting"] or time.monotonic() > faces_ready + VISION_TIMEOUT_S:
                return state
        time.sleep(POLL_S)
    raise StartupError(f"not ready within {READY_TIMEOUT_S:g} s; see {journal.path}")


def _grpc(launch: Launch) -> str:
    return "" if launch.grpc_port is None else f", gRPC on port {launch.grpc_port}"


def _models(state: Mapping[str, Any]) -> str:
    if not state["segmenter"] and state["captioner"] == "inventory":
        state = {**state, "captioner": None}  # there is nothing to make an inventory of
    parts = {"face pack": "face_pack", "masks": "segmenter", "captions": "captioner"}
    return ", ".join(f"{name} {state[key] or 'none'}" for name, key in parts.items())


def _watch(instance: Instance, journal: Journal, pass_on: Callable[[], None], complain: Say) -> int:
    """Waits for the end of a child, which is never wanted: status 1."""
    while (ended := instance.ended()) is None:
        pass_on()
        time.sleep(POLL_S)
    complain(f"facegraph: {ended}; the log ends:\n{journal.tail()}\nall of it: {journal.path}")
    return 1


def _stop(instance: Instance, complain: Say, mention: Say) -> None:
    mention("stopping; what is under way is finished first")
    if killed := instance.stop():
        complain(f"facegraph: had to kill {', '.join(killed)}")


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM raise _Stop, once: the end itself is not interrupted."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise _Stop

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
