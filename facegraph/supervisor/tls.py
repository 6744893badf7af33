"""The certificate that the service shows: looked at before anything starts."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from facegraph.errors import ConfigError

BUNDLE = "tls.pem"


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate, with what leads to its issuer behind it, and its key: two PEM files."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """ConfigError unless a client that trusts the certificate gets a connection now."""
        _read(self.certificate, "certificate")
        if b"ENCRYPTED" in _read(self.key, "key"):
            raise ConfigError(
                f"the TLS key {self.key} has a passphrase, and nobody types it when the service "
                f"starts: openssl pkey -in {self.key} -out <a file that only it may read>"
            )
        client, server = self.trust(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            server.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            # The second where they are of different kinds, such as EC and RSA.
            if error.reason in {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:
                raise ConfigError(
                    f"the TLS key {self.key} does not belong to the certificate {self.certificate}"
                ) from None
            raise ConfigError(
                f"{self.key} holds no usable TLS key in PEM form ({error.reason or error})"
            ) from None
        try:
            _shake_hands(client, server)
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason
            raise ConfigError(f"{self.certificate} does not serve: {why}") from None

    def trust(self) -> ssl.SSLContext:
        """For a client on this machine: this certificate, whatever name it bears, and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(self.certificate)
        except ssl.SSLError:
            raise ConfigError(f"{self.certificate} holds no certificate in PEM form") from None
        return context

    def bundle(self, folder: Path) -> Path:
        """Both in one new file in ``folder``, as HAProxy reads them, for this user's eyes only."""
        path = folder / BUNDLE
        parts = (_read(self.certificate, "certificate"), _read(self.key, "key"))
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(b"\n".join(parts))
        return path


def tls_of(certificate: Path | None, key: Path | None) -> Tls | None:
    """Both or neither; ConfigError for one without the other."""
    if certificate is not None and key is not None:
        return Tls(certificate, key)
    if certificate is None and key is None:
        return None
    given, lacks = ("certificate", "key") if certificate else ("key", "certificate")
    raise ConfigError(
        f"HTTPS takes two files, and only the {given} is named ({certificate or key}): name the "
        f"{lacks} too, with --tls-{lacks} or FACEGRAPH_TLS_{lacks.upper()}, or neither"
    )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the TLS {what} {path}: {error.strerror}") from None


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """A handshake in memory; ssl.SSLError where it fails, for an expired certificate say."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
