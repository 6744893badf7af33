"""What was chosen while the service ran: one value per name, above the configuration's.

A choice lasts until the configuration says something else than it said at the time, so an
operator's edit always takes effect.
"""

from __future__ import annotations

from facegraph.store.connecting import Connection

_GET = "SELECT value FROM facegraph.choices WHERE name = %s AND configured = %s"
_DROP = "DELETE FROM facegraph.choices WHERE name = %s AND configured <> %s"
_SET = """
INSERT INTO facegraph.choices (name, value, configured) VALUES (%s, %s, %s)
ON CONFLICT (name) DO UPDATE
SET value = excluded.value, configured = excluded.configured, chosen_at = now()
"""


async def get(connection: Connection, name: str, configured: str) -> str | None:
    row = await (await connection.execute(_GET, [name, configured])).fetchone()
    return None if row is None else str(row[0])


async def drop_outdated(connection: Connection, name: str, configured: str) -> None:
    """Forgets a choice made under another configuration, so that it never comes back."""
    await connection.execute(_DROP, [name, configured])


async def put(connection: Connection, name: str, value: str, configured: str) -> None:
    await connection.execute(_SET, [name, value, configured])
