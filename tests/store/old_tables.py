"""The old systems' tables with everything awkward in them, and what becomes of each row."""

from __future__ import annotations

import json
from typing import Any

import psycopg

SMARTAV_TABLES = """
CREATE TABLE sample_faces (sample_id {id}, name text, meta_data {text}, action text);
CREATE TABLE feature_vectors (face_id {id}, vector text);
"""
FRV2_TABLE = """
CREATE TABLE sample_face_vectors
    (sample_id {id}, name text, metadata {text}, action text, vector text);
"""

VECTORS = {"ada": [3.0, 4.0, 0.0, 0.0], "ada 2": [4.0, 3.0, 0.0, 0.0], "bob": [0.0, 0.0, 1.0, 0.0]}

# id, name, meta_data, action
FACES: list[tuple[Any, ...]] = [
    ("ada", "Ada", '{"born": 1815}', "embedlink"),
    ("bob@home/x", "Bob", "", ""),
    ("nulls", None, None, None),
    ("bare", "No vector", "", ""),
    ("wrong", "Wrong", "", ""),
    ("wordy", "W", "x" * 20_000, ""),
    ("y" * 200, "Too long an id", "", ""),
    (None, "Nameless", "", ""),
]

# face_id, vector
FEATURES: list[tuple[Any, ...]] = [
    ("ada", json.dumps(VECTORS["ada"])),
    ("ada", json.dumps(VECTORS["ada 2"])),
    ("ada", json.dumps(VECTORS["ada"])),  # the same again
    ("bob@home/x", json.dumps(VECTORS["bob"])),
    ("nulls", "[0, 0, 0, -2]"),
    ("gone", "[1, 0, 0, 0]"),
    (None, "[1, 0, 0, 0]"),
    ("wordy", "[1, 0, 0, 0]"),
    ("y" * 200, "[1, 0, 0, 0]"),
    ("wrong", None),
    ("wrong", "no JSON"),
    ("wrong", "[1, 0, 0"),
    ("wrong", '{"a": 1}'),
    ("wrong", "[true, 0, 0, 0]"),
    ("wrong", '["1", 0, 0, 0]'),
    ("wrong", "[1, 0, 0]"),
    ("wrong", "[]"),
    ("wrong", "[NaN, 0, 0, 0]"),
    ("wrong", "[1e999, 0, 0, 0]"),
    ("wrong", "[0, 0, 0, 0]"),
    ("wrong", "[" * 3000),
    ("wrong", "[" + "1, " * 70_000 + "1]"),
]

REJECTED = {
    "invalid_vector": 12,
    "no_vector": 2,  # a face without one, and one that is NULL
    "no_face_row": 1,
    "no_id": 2,  # a face and a vector
    "invalid_text": 1,
    "invalid_id": 1,
}
NEW_SAMPLES, KNOWN_SAMPLES = 4, 1


def make_smartav(url: str, *, id: str = "text", text: str = "text") -> None:
    with psycopg.connect(url) as connection:
        connection.execute(SMARTAV_TABLES.format(id=id, text=text).encode())


def fill_smartav(url: str, faces: list[tuple[Any, ...]], vectors: list[tuple[Any, ...]]) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO sample_faces VALUES (%s, %s, %s, %s)", faces)
        cursor.executemany("INSERT INTO feature_vectors VALUES (%s, %s)", vectors)


def make_frv2(url: str, rows: list[tuple[Any, ...]], *, id: str = "text") -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(FRV2_TABLE.format(id=id, text="text").encode())
        cursor.executemany("INSERT INTO sample_face_vectors VALUES (%s, %s, %s, %s, %s)", rows)
