"""Stands before HAProxy: mends the configuration that Serve wrote, then becomes HAProxy.

Serve binds HAProxy's statistics and metrics to all interfaces, logs every request to a syslog
port where nobody listens, and answers plain-text 500s while no ingress replica is up; none of
it has a setting. Runs as a script, on the standard library alone, at every start and reload.
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


def mend(configuration: str) -> str:
    """The configuration with its side doors on loopback, naming the client, without the syslog."""
    named = DEFAULTS.sub(r"\g<0>    option forwardfor\n", configuration)
    return SIDE_DOOR.sub(r"\1 127.0.0.1:\2", SYSLOG.sub("", named))


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


def main(binary: str, arguments: list[str]) -> None:
    path = Path(arguments[arguments.index("-f") + 1])
    path.write_text(mend(path.read_text()))
    path.with_name("500.http").write_text(error_page())
    _die_with_parent()
    os.execv(binary, [binary, *arguments])


def _die_with_parent() -> None:
    """HAProxy must not outlive the Serve actor that runs it, however that one ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
