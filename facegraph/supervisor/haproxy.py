"""Stands before HAProxy: mends the configuration that Serve wrote, then becomes HAProxy.

Serve binds HAProxy's statistics and metrics to all interfaces, logs every request to a syslog
port where nobody listens, answers plain-text 500s while no ingress replica is up, and knows HTTPS
only for its own, slower server; none of it has a setting. Serve itself and its replicas, which
answer plain HTTP on ports of their own, stay on loopback: HAProxy's door is the only one outside.
Replicas that speak gRPC listen on all interfaces; a key that only HAProxy adds tells a request
that came through its door.
Runs as a script, on the standard library alone, at every start and reload.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

SYSLOG = re.compile(r"^ *log 127\.0\.0\.1:514 .*\n", re.MULTILINE)
SIDE_DOOR = re.compile(r"^((?:frontend prometheus|listen stats)\n *bind) \*?:(\d+)$", re.MULTILINE)

DOOR = re.compile(r"^(frontend http_frontend\n *bind ).*$", re.MULTILINE)

RPC_DOOR = re.compile(
    r"^(frontend grpc_frontend\n(?: *#.*\n)* *bind )(.*)$(?:\n *http-request set-header "
    r"x-facegraph-door .*$)?",
    re.MULTILINE,
)

KEY_HEADER = "x-facegraph-door"
KEY_VARIABLE = "_FACEGRAPH_DOOR_KEY"

SECURE = "ssl-min-ver TLSv1.2 alpn http/1.1"

SECURE_RPC = "ssl-min-ver TLSv1.2 alpn h2"

SAYS_HTTPS = "\n    http-request set-header x-forwarded-proto https"
"""So that a redirect that the service answers leads back to https."""

DEFAULTS = re.compile(r"^defaults *\n(?! *option forwardfor)", re.MULTILINE)

PROBLEM = {
    "type": "urn:facegraph:problem:overloaded",
    "title": "Overloaded",
    "status": 503,
    "detail": "the service is starting, or an ingress replica is being replaced",
    "code": "overloaded",
    "request_id": "unknown",
    "errors": [],
}

PR_SET_PDEATHSIG = 1


def door(host: str, port: int, pem: Path | None = None) -> str:
    """What HAProxy binds for clients: TLS and nothing else where ``pem`` holds a certificate."""
    return f"{host}:{port}" if pem is None else f"{host}:{port} ssl crt {pem} {SECURE}"


def rpc_door(host: str, port: int, pem: Path | None = None) -> str:
    """What HAProxy binds for gRPC: TLS and nothing else where ``pem`` holds a certificate."""
    plain = f"{host}:{port} proto h2"
    return plain if pem is None else f"{host}:{port} ssl crt {pem} {SECURE_RPC}"


def mend(configuration: str, front: str, rpc: str = "", key: str = "") -> str:
    """The configuration with ``front`` as its door, and ``rpc`` as gRPC's where it has one, its
    side doors on loopback, naming the client, without the syslog.

    ValueError where Serve's frontend is not found: it would answer in the clear. And where gRPC
    is on without a door or a key: it would answer everybody.
    """
    secure = SAYS_HTTPS if " ssl " in front and SAYS_HTTPS not in configuration else ""
    configuration, doors = DOOR.subn(lambda found: found[1] + front + secure, configuration)
    if doors != 1:
        raise ValueError("Serve wrote an HAProxy configuration without its frontend")
    configuration = _mend_rpc(configuration, rpc, key)
    named = DEFAULTS.sub(r"\g<0>    option forwardfor\n", configuration)
    return SIDE_DOOR.sub(r"\1 127.0.0.1:\2", SYSLOG.sub("", named))


def _mend_rpc(configuration: str, rpc: str, key: str) -> str:
    if "frontend grpc_frontend" not in configuration:
        return configuration
    add = f"\n    http-request set-header {KEY_HEADER} {key}"
    configuration, doors = RPC_DOOR.subn(lambda found: found[1] + rpc + add, configuration)
    if doors != 1 or not rpc or not key:
        raise ValueError("gRPC is on, and has no door of ours or no key")
    return configuration


def error_page() -> str:
    """The whole HTTP answer HAProxy gives when it has nowhere to send a request."""
    body = json.dumps(PROBLEM)
    return (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "Content-Type: application/problem+json\r\n"
        "Retry-After: 1\r\n"
        "Cache-Control: no-cache\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"\r\n{body}"
    )


def main(binary: str, rpc: str, front: str, arguments: list[str]) -> None:
    path = Path(arguments[arguments.index("-f") + 1])
    key = os.environ.get(KEY_VARIABLE, "")
    path.write_text(mend(path.read_text(), front, rpc, key))
    path.with_name("500.http").write_text(error_page())
    _die_with_parent()
    os.execv(binary, [binary, *arguments])


def _die_with_parent() -> None:
    """HAProxy must not outlive the Serve actor that runs it, however that one ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
