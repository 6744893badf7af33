"""Free ports, so that copies run side by side."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack, suppress

from facegraph.errors import ConfigError

HOST_AND_PORT = "--host and --port, or PORT= for make serve"


BELOW_CONNECTIONS = range(20_000, 32_768)
"""Linux gives connections ports from 32768 on: any of them could take one before it is used."""


def free_ports(count: int) -> list[int]:
    """``count`` different loopback ports that nothing listens on now.

    Another process can take one before it is used: unlikely, and its user then says so.
    """
    found: list[int] = []
    drawn = secrets.SystemRandom().sample(BELOW_CONNECTIONS, len(BELOW_CONNECTIONS))
    with ExitStack() as held:
        while len(found) < count:
            sock = held.enter_context(socket.socket())
            with suppress(OSError):
                sock.bind(("127.0.0.1", drawn.pop()))
                found.append(int(sock.getsockname()[1]))
    return found


def require_free(host: str, port: int, options: str = HOST_AND_PORT) -> None:
    """ConfigError when ``host:port`` is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another with {options}"
            ) from None
