"""gRPC's door: where it is asked for, what HAProxy binds, and that nothing else answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from deployments import cluster
from deployments.rpcs import RPCS, RpcMethods, door_is_shut
from facegraph.api.grpc.rpcs import RPCS as DECLARED
from facegraph.cli import main
from facegraph.errors import ConfigError
from facegraph.supervisor import configuration
from facegraph.supervisor.configuration import SERVICER
from facegraph.supervisor.environment import RPC_BYTES, ray_environment
from facegraph.supervisor.haproxy import KEY_HEADER, KEY_VARIABLE, door, mend, rpc_door
from facegraph.supervisor.overrides import Overrides, overrides
from facegraph.supervisor.ports import free_ports
from facegraph.supervisor.supervisor import _require_servable

FRONT = door("127.0.0.1", 8000)

CONFIGURATION = """\
defaults
frontend http_frontend
    bind 127.0.0.1:8000
frontend grpc_frontend
    # two lines of
    # Serve's comment
    bind 127.0.0.1:9000 proto h2
    mode http
"""

FILE = """\
applications: [{import_path: deployments.ingress:build}]
"""


def test_the_door_follows_the_host_and_adds_the_key() -> None:
    mended = mend(CONFIGURATION, FRONT, rpc_door("0.0.0.0", 9000), "secret")
    assert (
        "    # Serve's comment\n"
        "    bind 0.0.0.0:9000 proto h2\n"
        f"    http-request set-header {KEY_HEADER} secret\n"
        "    mode http\n"
    ) in mended
    assert mend(mended, FRONT, rpc_door("0.0.0.0", 9000), "secret") == mended


def test_with_a_certificate_it_speaks_tls() -> None:
    assert rpc_door("h", 1, Path("/p.pem")) == "h:1 ssl crt /p.pem ssl-min-ver TLSv1.2 alpn h2"


@pytest.mark.parametrize(("rpc", "key"), [("", "k"), ("h:1 proto h2", ""), ("", "")])
def test_grpc_without_door_or_key_does_not_run(rpc: str, key: str) -> None:
    with pytest.raises(ValueError, match="no door of ours or no key"):
        mend(CONFIGURATION, FRONT, rpc, key)


def test_a_frontend_that_changed_does_not_run() -> None:
    changed = CONFIGURATION.replace("    # two", "    option other\n    # two")
    with pytest.raises(ValueError, match="no door of ours"):
        mend(changed, FRONT, rpc_door("127.0.0.1", 9000), "k")


def test_serves_template_has_the_frontend_that_is_mended() -> None:
    start = HAPROXY_CONFIG_TEMPLATE.index("frontend grpc_frontend")
    part = HAPROXY_CONFIG_TEMPLATE[start:]
    mended = mend("defaults\nfrontend http_frontend\n    bind x\n" + part, FRONT, "h:1", "k")
    assert "    bind h:1\n    http-request set-header x-facegraph-door k\n    mode http" in mended


def test_the_environment_has_a_key_only_where_grpc_is_on(tmp_path: Path) -> None:
    without = ray_environment({}, tmp_path, FRONT)
    assert KEY_VARIABLE not in without
    with_it = ray_environment({}, tmp_path, FRONT, rpc_door("127.0.0.1", 9000))
    assert len(with_it[KEY_VARIABLE]) == 64
    shim = Path(with_it["RAY_SERVE_HAPROXY_BINARY_PATH"]).read_text()
    assert with_it[KEY_VARIABLE] not in shim  # nor on a command line
    assert shim.endswith(""" '127.0.0.1:9000 proto h2' 127.0.0.1:8000 "$@"\n""")
    assert int(with_it["RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"]) == RPC_BYTES


@pytest.mark.parametrize(
    ("text", "above", "expected"),
    [
        ("", Overrides(), None),  # off by default
        ("", Overrides(grpc_port=9001), 9001),
        ("grpc_options: {port: 9000}", Overrides(), None),  # Serve's way of saying off
        (f"grpc_options: {{port: 9000, grpc_servicer_functions: [{SERVICER}]}}", Overrides(), 9000),
        (f"grpc_options: {{grpc_servicer_functions: [{SERVICER}]}}", Overrides(), 9000),
        (
            f"grpc_options: {{port: 9000, grpc_servicer_functions: [{SERVICER}]}}",
            Overrides(grpc_port=9001),
            9001,
        ),
    ],
)
def test_the_port_comes_from_the_file_or_above_it(
    tmp_path: Path, text: str, above: Overrides, expected: int | None
) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(FILE + text)
    launch = configuration.read(path, above)
    assert launch.grpc_port == expected
    written = configuration.read(configuration.write(launch, tmp_path))
    assert written.grpc_port == expected
    options: Any = written.document.get("grpc_options") or {}
    assert (options.get("grpc_servicer_functions") == [SERVICER]) == (expected is not None)


def test_the_variable_and_the_option() -> None:
    assert overrides({}, {"FACEGRAPH_GRPC_PORT": "9000"}).grpc_port == 9000
    assert overrides({"grpc_port": 9001}, {"FACEGRAPH_GRPC_PORT": "9000"}).grpc_port == 9001
    with pytest.raises(ConfigError, match="FACEGRAPH_GRPC_PORT=x is no port"):
        overrides({}, {"FACEGRAPH_GRPC_PORT": "x"})
    with pytest.raises(SystemExit):
        main(["serve", "--grpc-port", "0"])


def test_without_haproxy_there_is_no_grpc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(FILE)
    port, rpcs = free_ports(2)
    launch = configuration.read(path, Overrides(port=port, grpc_port=rpcs))
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    _require_servable(launch)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    with pytest.raises(ConfigError, match="would open it on every interface"):
        _require_servable(launch)


def test_both_cannot_have_one_port(tmp_path: Path) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(FILE)
    (port,) = free_ports(1)
    with pytest.raises(ConfigError, match=f"HTTP and gRPC cannot both have port {port}"):
        _require_servable(configuration.read(path, Overrides(port=port, grpc_port=port)))


class FakeContext(SimpleNamespace):
    """What Serve gives beside the request."""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return list(self.metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


@pytest.mark.parametrize(
    ("key", "sent", "shut"),
    [
        (None, [], False),  # not started by `facegraph serve`
        ("k", [], True),
        ("k", [(KEY_HEADER, "other")], True),
        ("k", [(KEY_HEADER, "é")], True),  # compared as bytes
        ("k", [(KEY_HEADER, "k")], False),
    ],
)
def test_who_does_not_come_through_the_door_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: str | None, sent: list[tuple[str, str]], shut: bool
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if key is not None:
        monkeypatch.setenv(KEY_VARIABLE, key)
    context: Any = FakeContext(metadata=sent, code=None)
    assert door_is_shut(context) is shut
    assert context.code is (grpc.StatusCode.UNAUTHENTICATED if shut else None)


def test_the_ingress_has_a_method_for_each_rpc() -> None:
    assert set(RPCS) == set(DECLARED)
    assert all(callable(getattr(RpcMethods, name)) for name in (*RPCS, "Check"))


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (None, "near 4194304 bytes"),  # gRPC's own limit
        ("8388608", "near 8388608 bytes"),
        ("268435456", None),
    ],
)
def test_the_hint_tells_of_small_messages(
    monkeypatch: pytest.MonkeyPatch, said: str | None, hint: str | None
) -> None:
    for name in cluster.FAST_PATH:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv(cluster.MESSAGE_LENGTH, raising=False)
    if said is not None:
        monkeypatch.setenv(cluster.MESSAGE_LENGTH, said)
    told = cluster.fast_path_hint()
    assert told is None if hint is None else hint in str(told)
