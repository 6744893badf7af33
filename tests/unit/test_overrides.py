"""What stands above the file, and what becomes of gnosis's old environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facegraph.cli import main
from facegraph.config import OTHER_ENVIRONMENT
from facegraph.errors import ConfigError
from facegraph.supervisor import configuration
from facegraph.supervisor.devices import Devices
from facegraph.supervisor.overrides import Overrides, overrides

pytestmark = pytest.mark.unit

OLD = {
    "SERVER_IP": "10.0.0.1",
    "SERVER_PORT": "8443",
    "SERVER_SSL_CONTEXT": "/c.pem",
    "SERVER_SSL_KEYFILE": "/k.pem",
    "LOGGER_LEVEL": "info",
    "ENV": "production",
}


def test_the_old_names_alone_are_honoured_and_told() -> None:
    assert overrides({}, OLD) == Overrides(
        host="10.0.0.1",
        port=8443,
        certificate=Path("/c.pem"),
        key=Path("/k.pem"),
        log_level="INFO",
        notes=(
            "SERVER_IP=10.0.0.1 is taken as --host",
            "SERVER_PORT=8443 is taken as --port",
            "SERVER_SSL_CONTEXT=/c.pem is taken as --tls-certificate",
            "SERVER_SSL_KEYFILE=/k.pem is taken as --tls-key",
            "LOGGER_LEVEL=info is taken as log_level: INFO",
            "ENV=production changes nothing: there is one way to run",
        ),
    )


def test_our_names_are_stronger_and_the_command_line_strongest() -> None:
    ours = {"FACEGRAPH_PORT": "9000", "FACEGRAPH_HOST": "127.0.0.1"}
    found = overrides({"port": 9999, "host": None}, OLD | ours)
    assert (found.host, found.port) == ("127.0.0.1", 9999)
    assert found.notes[:2] == (
        "SERVER_IP=10.0.0.1 is not used: FACEGRAPH_HOST is stronger",
        "SERVER_PORT=8443 is not used: --port is stronger",
    )


def test_nothing_set_changes_nothing() -> None:
    assert overrides({}, {"SERVER_PORT": "", "HOME": "/root"}) == Overrides()


DEVICES: list[tuple[dict[str, str], Devices]] = [
    # detector, recogniser and others; what becomes of them
    (
        {"DETECTOR_LOAD_DEVICE": "-1", "RECOGNIZER_LOAD_DEVICE": "-1"},
        Devices(
            "cpu",
            None,
            (
                "DETECTOR_LOAD_DEVICE=-1 is taken as accelerator: cpu",
                "RECOGNIZER_LOAD_DEVICE=-1 is taken as accelerator: cpu",
            ),
        ),
    ),
    (
        {"RECOGNIZER_LOAD_DEVICE": "1"},
        Devices("cuda", "1", ("RECOGNIZER_LOAD_DEVICE=1 is taken as accelerator: cuda, on GPU 1",)),
    ),
    (
        {"DETECTOR_LOAD_DEVICE": "2", "RECOGNIZER_LOAD_DEVICE": "0"},
        Devices(
            "cuda",
            "0,2",
            (
                "DETECTOR_LOAD_DEVICE=2 is taken as accelerator: cuda, on GPU 0,2",
                "RECOGNIZER_LOAD_DEVICE=0 is taken as accelerator: cuda, on GPU 0,2",
                "detection and recognition are spread over both GPUs, not bound to one each",
            ),
        ),
    ),
    (
        {"DETECTOR_LOAD_DEVICE": "-1", "RECOGNIZER_LOAD_DEVICE": "0"},
        Devices(
            "cuda",
            "0",
            (
                "DETECTOR_LOAD_DEVICE=-1 is not used: all models share one accelerator, a GPU",
                "RECOGNIZER_LOAD_DEVICE=0 is taken as accelerator: cuda, on GPU 0",
            ),
        ),
    ),
    (
        {"DETECTOR_LOAD_DEVICE": "0", "CUDA_VISIBLE_DEVICES": "3"},
        Devices(
            "cuda",
            None,
            ("DETECTOR_LOAD_DEVICE=0 is taken as accelerator: cuda, on CUDA_VISIBLE_DEVICES",),
        ),
    ),
    (
        {"DETECTOR_LOAD_DEVICE": "0", "FACEGRAPH_ACCELERATOR": "cpu"},
        Devices(
            None, None, ("DETECTOR_LOAD_DEVICE=0 is not used: FACEGRAPH_ACCELERATOR is stronger",)
        ),
    ),
]


@pytest.mark.parametrize(("environ", "devices"), DEVICES)
def test_two_devices_share_one_accelerator(environ: dict[str, str], devices: Devices) -> None:
    found = overrides({}, environ)
    assert (found.devices, found.notes) == (devices, devices.notes)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SERVER_PORT": "https"}, "SERVER_PORT=https is no port"),
        ({"FACEGRAPH_PORT": "65536"}, "FACEGRAPH_PORT=65536 is no port"),
        ({"LOGGER_LEVEL": "loud"}, "LOGGER_LEVEL=loud is none of DEBUG, INFO"),
        ({"DETECTOR_LOAD_DEVICE": "cuda"}, "DETECTOR_LOAD_DEVICE=cuda is no device"),
        ({"RECOGNIZER_LOAD_DEVICE": "-2"}, "RECOGNIZER_LOAD_DEVICE=-2 is no device"),
    ],
)
def test_a_value_that_cannot_be_names_its_variable(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        overrides({}, environ)


def test_level_and_devices_reach_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(
        "logging_config: {enable_access_log: false}\n"
        "applications: [{import_path: a:b, args: {accelerator: auto}}]\n"
    )
    environ = {"LOGGER_LEVEL": "DEBUG", "DETECTOR_LOAD_DEVICE": "1"}
    launch = configuration.read(path, overrides({}, environ))
    again = configuration.read(configuration.write(launch, tmp_path))
    document: dict[str, Any] = dict(again.document)
    assert document["logging_config"] == {"enable_access_log": False, "log_level": "DEBUG"}
    assert document["applications"][0]["args"] == {"accelerator": "cuda"}
    assert (launch.settings.accelerator, launch.gpus) == ("cuda", "1")


def test_every_variable_of_the_front_is_in_the_readme() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    told = OTHER_ENVIRONMENT - {"FACEGRAPH_TEST_ASSETS"}
    assert {name for name in told if f"`{name}`" not in text} == set()


def test_a_port_on_the_command_line_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "99999"])
    assert ended.value.code == 2
    assert "99999 is no port; a number from 1 to 65535 is" in capsys.readouterr().err
