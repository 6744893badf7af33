"""The certificate is looked at before anything starts, and HAProxy's door shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from facegraph.errors import ConfigError, StartupError
from facegraph.supervisor import configuration
from facegraph.supervisor.environment import behind_haproxy, ray_environment
from facegraph.supervisor.haproxy import door, mend
from facegraph.supervisor.overrides import Overrides
from facegraph.supervisor.tls import Tls, tls_of
from tests.certificates import DAY, self_signed

pytestmark = pytest.mark.unit

FRONTEND = "defaults\n    mode http\nfrontend http_frontend\n    bind 127.0.0.1:8000\n    acl a\n"


def test_a_good_pair_passes_and_is_bundled_for_this_user_only(tmp_path: Path) -> None:
    tls = self_signed(tmp_path)
    tls.check()
    bundle = tls.bundle(tmp_path)
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert re.findall("BEGIN [A-Z ]+", bundle.read_text()) == [
        "BEGIN CERTIFICATE",
        "BEGIN PRIVATE KEY",
    ]


def _no_certificate(folder: Path) -> Tls:
    return Tls(folder / "none.pem", self_signed(folder).key)


def _no_key(folder: Path) -> Tls:
    return Tls(self_signed(folder).certificate, folder)


def _swapped(folder: Path) -> Tls:
    tls = self_signed(folder)
    return Tls(tls.key, tls.certificate)


def _certificate_twice(folder: Path) -> Tls:
    tls = self_signed(folder)
    return Tls(tls.certificate, tls.certificate)


def _anothers_key(folder: Path) -> Tls:
    return Tls(self_signed(folder / "a").certificate, self_signed(folder / "b").key)


def _key_of_another_kind(folder: Path) -> Tls:
    key = rsa.generate_private_key(65537, 2048)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "rsa.pem"
    path.write_bytes(text)
    return Tls(self_signed(folder / "a").certificate, path)


REFUSED: list[tuple[Callable[[Path], Tls], str]] = [
    # the pair, what is said
    (_no_certificate, r"cannot read the TLS certificate .*none\.pem: No such file"),
    (_no_key, r"cannot read the TLS key .*: Is a directory"),
    (_swapped, r"key\.pem holds no certificate in PEM form"),
    (_certificate_twice, r"cert\.pem holds no usable TLS key in PEM form"),
    (_key_of_another_kind, r"rsa\.pem does not belong to the certificate .*a/cert\.pem"),
    (_anothers_key, r"b/key\.pem does not belong to the certificate .*a/cert\.pem"),
    (lambda folder: self_signed(folder, passphrase=b"x"), r"has a passphrase.*openssl pkey -in"),
    (lambda folder: self_signed(folder, ends=-timedelta(hours=1)), "certificate has expired"),
    (lambda folder: self_signed(folder, begins=DAY / 2), "certificate is not yet valid"),
    (
        lambda folder: self_signed(folder, use=ExtendedKeyUsageOID.CLIENT_AUTH),
        "does not serve: unsuitable certificate purpose",
    ),
]


@pytest.mark.parametrize(("make", "said"), REFUSED)
def test_what_cannot_serve_is_refused_in_a_sentence(
    tmp_path: Path, make: Callable[[Path], Tls], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make(tmp_path).check()


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (Path("c.pem"), None, r"only the certificate is named \(c\.pem\).*--tls-key"),
        (None, Path("k.pem"), r"only the key is named \(k\.pem\).*--tls-certificate"),
    ],
)
def test_one_of_the_two_alone_is_an_error(
    certificate: Path | None, key: Path | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        tls_of(certificate, key)


def test_neither_is_plain_http() -> None:
    assert tls_of(None, None) is None


def test_the_file_may_name_the_pair_as_serve_does_and_serve_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(
        "http_options: {host: 0.0.0.0, ssl_certfile: c.pem, ssl_keyfile: k.pem}\n"
        "applications:\n- import_path: deployments.ingress:build\n"
    )
    launch = configuration.read(path)
    assert launch.tls == Tls(Path("c.pem"), Path("k.pem"))
    assert launch.url == "https://127.0.0.1:8000"
    assert launch.document["http_options"] == {"host": "0.0.0.0", "port": 8000}
    above = Overrides(certificate=Path("d.pem"), key=Path("l.pem"))
    assert configuration.read(path, above).tls == Tls(Path("d.pem"), Path("l.pem"))
    written = configuration.read(configuration.write(launch, tmp_path, host="127.0.0.1"))
    assert (written.host, written.tls) == ("127.0.0.1", None)


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_keyfile_password"])
def test_what_only_serves_own_server_knows_is_refused(tmp_path: Path, option: str) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(f"http_options: {{{option}: x}}\napplications: [{{import_path: a:b}}]\n")
    with pytest.raises(ConfigError, match=f"http_options.{option} is for plain `serve run`"):
        configuration.read(path)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "https://127.0.0.1:8443"),
        ("::", "https://[::1]:8443"),
        ("::1", "https://[::1]:8443"),
        ("10.0.0.1", "https://10.0.0.1:8443"),
    ],
)
def test_where_this_machine_reaches_it(tmp_path: Path, host: str, url: str) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text("applications: [{import_path: a:b}]\n")
    above = Overrides(host=host, port=8443, certificate=Path("c"), key=Path("k"))
    assert configuration.read(path, above).url == url


def test_haproxys_door_is_where_the_service_shall_be() -> None:
    opened = mend(FRONTEND, door("0.0.0.0", 8443))
    assert "frontend http_frontend\n    bind 0.0.0.0:8443\n    acl a\n" in opened
    assert mend(opened, door("0.0.0.0", 8443)) == opened


def test_haproxys_door_speaks_tls_and_says_so_inside() -> None:
    front = door("127.0.0.1", 8443, Path("/run/tls.pem"))
    secured = mend(FRONTEND, front)
    assert (
        "frontend http_frontend\n"
        "    bind 127.0.0.1:8443 ssl crt /run/tls.pem ssl-min-ver TLSv1.2 alpn http/1.1\n"
        "    http-request set-header x-forwarded-proto https\n"
        "    acl a\n"
    ) in secured
    assert mend(secured, front) == secured


def test_a_configuration_without_the_frontend_does_not_run() -> None:
    with pytest.raises(ValueError, match="without its frontend"):
        mend("defaults\nfrontend http\n    bind :8000\n", door("127.0.0.1", 8000))


def test_the_shim_knows_the_door(tmp_path: Path) -> None:
    environment = ray_environment({}, tmp_path, "h:1 ssl crt /a b/tls.pem")
    shim = Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"]).read_text()
    assert shim.endswith(""" 'h:1 ssl crt /a b/tls.pem' "$@"\n""")
    assert behind_haproxy(environment)
    assert not behind_haproxy({"RAY_SERVE_ENABLE_HA_PROXY": "0"})


def test_a_folder_where_nothing_may_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: tmp_path not in Path(path).parents)
    with pytest.raises(StartupError, match=rf"may not run in {tmp_path.parent}: mount it with"):
        ray_environment({}, tmp_path, door("127.0.0.1", 8000))
