"""Which rows belong to a shard, as PostgreSQL tells it."""

from __future__ import annotations

from psycopg.sql import SQL, Composed, Literal

from facegraph.types import Shard

# Two bytes of a digest of the id's UTF-8. PostgreSQL's own hashes may change with its version,
# and what a locale makes of text with the machine; a digest never does. SHA-256 because a server
# in FIPS mode refuses MD5.
_IN_SHARD = SQL(
    "mod(get_byte(sha256(convert_to({id}, 'UTF8')), 0) * 256"
    " + get_byte(sha256(convert_to({id}, 'UTF8')), 1), {count}) = {index}"
)


def in_shard(shard: Shard, subject_id: SQL) -> Composed | SQL:
    """The condition that the subject ``subject_id``, a column, belongs to ``shard``."""
    if shard.count == 1:
        return SQL("true")
    return _IN_SHARD.format(id=subject_id, count=Literal(shard.count), index=Literal(shard.index))
