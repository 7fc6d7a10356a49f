"""Certificates: the gateway's own, and those of the authorities that it trusts."""

import ssl
from pathlib import Path


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What the gateway's own ports show. Raises ValueError when the two files are not a certificate and its key."""
    for file in (certificate, key):
        _require_readable(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # "": never asks at the terminal for an encrypted key's
    except OSError as error:  # an SSLError is one
        raise ValueError(f"{certificate} and {key}: expected a certificate and its key, unencrypted, in PEM") from error
    return context


def upstream_context(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the system's authorities, and those in `ca_file`. Raises ValueError when that holds none."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        _require_readable(ca_file)
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise ValueError(f"{ca_file}: expected certificates in PEM") from error
    return context


def _require_readable(file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
