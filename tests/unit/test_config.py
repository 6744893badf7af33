"""Settings: closed, bounded, and overridden by the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facegraph.config import (
    ENVIRONMENT,
    DetectorTuning,
    EmbedderTuning,
    IngressTuning,
    MatcherTuning,
    Settings,
    parse,
    settings_from,
)
from facegraph.errors import ConfigError


def test_the_environment_is_stronger_than_the_arguments() -> None:
    settings = settings_from(
        {"face_pack": "buffalo_l", "data_dir": "/a"}, {"FACEGRAPH_DATA_DIR": "/b"}
    )
    assert (settings.face_pack, settings.data_dir) == ("buffalo_l", Path("/b"))
    assert settings.models_path == Path("/b/models")


def test_an_empty_variable_is_as_if_unset() -> None:
    assert settings_from({}, {"FACEGRAPH_DATABASE_URL": ""}).database_url is None


@pytest.mark.parametrize(
    ("args", "environ", "said"),
    [
        ({"face_pak": "opencv"}, {}, r"unknown key 'face_pak' \(did you mean face_pack\?\)"),
        ({"accelerator": "tpu"}, {}, "accelerator"),
        ({"database_pool_size": 1}, {}, "database_pool_size"),
        ({}, {"FACEGRAPH_DATADIR": "/x"}, r"FACEGRAPH_DATADIR \(did you mean FACEGRAPH_DATA_DIR"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused(
    args: dict[str, object], environ: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_from(args, environ)


def test_tuning_names_every_bad_value() -> None:
    with pytest.raises(ConfigError, match=r"max_images.*search_limit"):
        parse(IngressTuning, {"max_images": 0, "search_limit": 101})


def test_a_detector_runs_no_more_together_than_its_engine_was_built_for() -> None:
    assert parse(DetectorTuning, {"max_batch": 16}) == DetectorTuning()
    with pytest.raises(ConfigError, match=r"max_batch.*16"):
        parse(DetectorTuning, {"max_batch": 17})


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_every_setting_is_shown_in_the_shipped_file() -> None:
    text = (Path(__file__).parents[2] / "serve_config.yaml").read_text()
    shown = set(re.findall(r"^[ #]*(\w+):", text, re.MULTILINE))
    models = (Settings, IngressTuning, DetectorTuning, EmbedderTuning, MatcherTuning)
    assert {name for model in models for name in model.model_fields} <= shown


def test_every_variable_is_in_the_readme() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    assert all(f"`{name}`" in text for name in ENVIRONMENT)
