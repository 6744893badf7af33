"""``facegraph serve``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from facegraph.supervisor import configuration
from facegraph.supervisor.overrides import overrides
from facegraph.supervisor.supervisor import supervise

CONFIG = Path("serve_config.yaml")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="run the service on this machine, in a Ray instance of its own, until Ctrl-C",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"default: {CONFIG}")
    parser.add_argument("--host", help="address to listen on; default: the file's")
    parser.add_argument("--port", type=_port, help="port to listen on; default: the file's")
    parser.add_argument(
        "--grpc-port",
        type=_port,
        metavar="PORT",
        help="speak gRPC too, on this port; default: the file's, else not at all",
    )
    parser.add_argument(
        "--tls-certificate",
        dest="certificate",
        type=Path,
        metavar="FILE",
        help="serve HTTPS with this certificate (PEM, the issuer's behind it)",
    )
    parser.add_argument(
        "--tls-key", dest="key", type=Path, metavar="FILE", help="the certificate's private key"
    )
    parser.add_argument(
        "--accept-license",
        dest="accepted",
        action="append",
        default=[],
        metavar="NAME",
        help="fetch the default segmenter if it has this licence (GPL-3.0); may be repeated",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    above = overrides(vars(options), os.environ)
    for line in above.notes:
        _complain(f"facegraph: {line}")
    launch = configuration.read(options.config, above)
    return supervise(launch, options.accepted, _say, _complain, _mention)


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port; a number from 1 to 65535 is")
    return port


def _say(line: str) -> None:
    print(line, flush=True)


def _mention(line: str) -> None:
    """For whoever sits before it: a log needs no word of waiting."""
    if sys.stderr.isatty():
        _complain(f"facegraph: {line}")


def _complain(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
