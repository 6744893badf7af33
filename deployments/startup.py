"""Says why a deployment cannot start, in one line, where the operator sees it.

Ray forwards what a replica prints to the terminal that started the application; Serve's own
account of a failed constructor goes to a log file under the fast path.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from ray import serve

from facegraph.errors import FacegraphError
from facegraph.supervisor.journal import CANNOT_START, DID_NOT_START

__all__ = ["CANNOT_START", "DID_NOT_START", "replica_id", "reported", "tell_operator"]

F = TypeVar("F", bound=Callable[..., Any])


def reported(prefix: str) -> Callable[[F], F]:
    """Decorates a constructor or a builder, plain or async, so that its failure is printed.

    What our loggers warn of is printed from then on, too.
    """

    def decorate(function: F) -> F:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                _log_to_operator()
                with _reporting(prefix):
                    return await function(*args, **kwargs)

        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                _log_to_operator()
                with _reporting(prefix):
                    return function(*args, **kwargs)

        return cast(F, wrapper)

    return decorate


@contextmanager
def _reporting(prefix: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        known = isinstance(error, FacegraphError)
        said = str(error) if known else f"{type(error).__name__}: {error}"
        tell_operator(prefix + " ".join(said.split()))
        raise


def tell_operator(line: str) -> None:
    """Prints one line to where Ray forwards it to the operator's terminal.

    That is the process's own stderr: under the fast path Serve sends ``sys.stderr`` and
    ``print`` to a log file.
    """
    os.write(2, f"{line}\n".encode())


class _ToOperator(logging.Handler):
    """Holds no descriptor of its own: Ray ends a process when its stderr is closed everywhere."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tell_operator(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler: a log line must not end the work
            self.handleError(record)


@functools.cache
def _log_to_operator() -> None:
    """Serve gives loggers other than its own no handler, and drops what they say below ERROR."""
    handler = _ToOperator()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("facegraph", "deployments"):
        logging.getLogger(name).addHandler(handler)


def replica_id() -> str:
    """The name of this replica, as in Ray's logs and metrics."""
    return str(serve.get_replica_context().replica_tag)
