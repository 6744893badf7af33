"""The ``facegraph`` command. Each module of ``facegraph.commands`` brings its subcommands."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import cast

from facegraph import __version__
from facegraph.errors import ConfigError, FacegraphError

COMMANDS = (
    "serve",
    "check",
    "models",
    "database",
    "calibrate",
    "transfer",
    "enroll",
    "vision",
    "faces",
)
"""Modules of ``facegraph.commands``, in the order of the help text."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status: 0 done, 1 failed, 2 asked for wrongly."""
    parser = argparse.ArgumentParser(
        prog="facegraph", description="Faces in, identities out: a self-hosted service."
    )
    parser.add_argument("--version", action="version", version=f"facegraph {__version__}")
    subparsers = parser.add_subparsers(metavar="command", required=True)
    for name in COMMANDS:
        importlib.import_module(f"facegraph.commands.{name}").register(subparsers)
    options = parser.parse_args(arguments)
    run = cast(Callable[[argparse.Namespace], int], options.run)
    try:
        return run(options)
    except FacegraphError as error:
        print(f"facegraph: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
