"""``facegraph init-db`` and the old ``init_db``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from facegraph.commands.database import main_init_db, register
from facegraph.store.migrations import known_migrations

pytestmark = pytest.mark.store

DONE = "Database has been initialized successfully\n"
FAILED = "Database initialization failed\n"


def migrations_in(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM facegraph.migrations").fetchone()
    assert row is not None
    return int(row[0])


def run_subcommand(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    options = parser.parse_args(["init-db", *arguments])
    status: int = options.run(options)
    return status


@pytest.mark.parametrize("run", [main_init_db, run_subcommand])
def test_the_database_named(
    run: object, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = conninfo_to_dict(database_url)
    options = ["-H", where["host"], "-P", "5432", "-d", where["dbname"], "-u", where["user"]]
    for _ in range(2):
        assert run([*map(str, options), "-p", "secret"]) == 0  # type: ignore[operator]
        assert capsys.readouterr().out == DONE
    assert migrations_in(database_url) == len(known_migrations())


def test_the_settings_database(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEGRAPH_DATABASE_URL", database_url)
    assert main_init_db([]) == 0
    assert capsys.readouterr().out == DONE
    assert migrations_in(database_url) == len(known_migrations())


def test_the_embedded_database(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACEGRAPH_DATABASE_URL", raising=False)
    monkeypatch.setenv("FACEGRAPH_DATA_DIR", str(short_tmp / "init"))
    assert main_init_db([]) == 0
    assert capsys.readouterr().out == DONE
    assert not (short_tmp / "init" / "postgres" / "data" / "postmaster.pid").exists()
    shutil.rmtree(short_tmp / "init")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-H", "127.0.0.1", "-P", "1", "-p", "topsecret"], "refused"),
        (["-H", "127.0.0.1", "-P", "x"], "port"),
    ],
)
def test_a_failure_says_why(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_init_db([*options, "-d", "d", "-u", "u"]) == 1
    said = capsys.readouterr()
    assert said.out == FAILED
    assert reason in said.err
    assert "topsecret" not in said.err


def test_h_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main_init_db(["-h"])
    assert raised.value.code == 0
    assert "--password" in capsys.readouterr().out
