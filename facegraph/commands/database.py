"""``facegraph init-db``, and ``init_db``: the name under which smartav_api's clients know it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from psycopg.conninfo import make_conninfo

from facegraph.config import Settings, settings_from
from facegraph.errors import FacegraphError
from facegraph.store import Store, open_store

_OPTIONS = (
    ("-H", "--host", "host"),
    ("-P", "--port", "port"),
    ("-d", "--database", "dbname"),
    ("-u", "--user", "user"),
    ("-p", "--password", "password"),
)
"""Short name, long name, and what libpq calls it."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _add_options(
        subparsers.add_parser(
            "init-db",
            help="create the tables, in the settings' database or the one named",
            description="Creates or updates the tables: in the database named by the options, "
            "else in that of the settings (FACEGRAPH_DATABASE_URL, or the embedded one).",
        )
    )


def main_init_db(arguments: Sequence[str] | None = None) -> int:
    """The console script ``init_db``."""
    parser = argparse.ArgumentParser(prog="init_db", description="Creates or updates the tables.")
    _add_options(parser)
    return run_init_db(parser.parse_args(arguments))


def run_init_db(options: argparse.Namespace) -> int:
    """Prints how it went, as the old command did; the exit status."""
    try:
        asyncio.run(_initialise(_settings(options)))
    except FacegraphError as error:
        print("Database initialization failed")
        print(error, file=sys.stderr)
        return 1
    print("Database has been initialized successfully")
    return 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    for short, long, name in _OPTIONS:
        parser.add_argument(short, long, dest=name, help=f"the database's {long[2:]}")
    parser.set_defaults(run=run_init_db)


def _settings(options: argparse.Namespace) -> Settings:
    settings = settings_from()
    given = {name: value for *_, name in _OPTIONS if (value := getattr(options, name)) is not None}
    if not given:
        return settings
    return settings.model_copy(update={"database_url": make_conninfo("", **given)})


async def _initialise(settings: Settings) -> None:
    store: Store
    async with open_store(settings) as store:
        await store.ping()
