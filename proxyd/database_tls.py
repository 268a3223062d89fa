"""TLS of the database protocols and RDP: what the fronts show, and how a target's certificate is checked.

Rule 1: nothing below TLS 1.2, on either side.
Rule 2: a target is checked as its `tls` says, by the words of libpq's sslmode; the default is the whole check. Where
        certificates are pinned it shows one of these, and nothing else counts.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple

import trio

from proxyd.config import DatabaseListen
from proxyd.errors import ConfigError, TargetError
from proxyd.tls import Pinned

if TYPE_CHECKING:
    from proxyd.config import Console, Target, TlsListen


class TargetTls(NamedTuple):
    """What a handshake with a target needs; no name where the name is not checked."""

    context: ssl.SSLContext
    server_hostname: str | None


def front_context(listen: TlsListen | Console) -> ssl.SSLContext:
    """Make the context of a front; reads files. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(listen.certificate, listen.key, password=_no_passphrase)
        if isinstance(listen, DatabaseListen) and listen.client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(listen.client_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"can't be used for TLS: {error.strerror or error}", listen.certificate) from None
    return context


def _no_passphrase() -> bytes:
    return b""  # an encrypted key is an error, not a question on the daemon's terminal


def target_tls(target: Target) -> TargetTls | None:
    """Make what a handshake with the target needs, None where it is off; reads files. Raises ConfigError."""
    if target.tls == "off":
        return None
    context = Pinned.to(target.tls_pins) if target.tls_pins else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if target.tls_pins:
        return TargetTls(context, target.host)
    context.check_hostname = target.tls == "verify-full"
    if target.tls == "require":
        context.verify_mode = ssl.CERT_NONE
        return TargetTls(context, target.host)
    try:
        if target.tls_ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(target.tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"can't be used as a CA: {error.strerror or error}", target.tls_ca) from None
    return TargetTls(context, target.host)


async def ready_tls(target: Target) -> TargetTls | None:
    """Make it in a thread, as `target_tls` does; raises TargetError with a sentence for the user."""
    try:
        return await trio.to_thread.run_sync(target_tls, target)
    except ConfigError:
        raise TargetError(
            f"The certificates for {target.name} can't be read; tell your administrator."
        ) from None
