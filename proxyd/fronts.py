"""What clients have to know of the listeners: where they are, and what they show of themselves to be recognised by.

Rule 1: what is told here is public; the private keys are read to name their public halves, and kept nowhere.
Rule 2: a key that can't be read here is left out: nobody is told to trust what nobody looked at.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from proxyd import log
from proxyd.config import RdpListen, split_address
from proxyd.vault import MAX_SECRET_BYTES

if TYPE_CHECKING:
    from proxyd.config import Listen, SshListen, TlsListen

ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what a listener's address may be, and a client's never
SPOKEN: Final = ("ssh", "postgres", "mysql", "rdp")

_log = log.get("fronts")


@dataclass(frozen=True, slots=True)
class Front:
    """A listener as clients see it. `bound`: the one target behind it, or "".

    SSH has host `keys` and an `authority` for `ssh -J`, as public key lines; the others a `certificate` in PEM, which
    `self_signed` vouches for itself, with its SHA-256 in hex. `login_screen`: of RDP, who sends no password
    is asked for it on a screen.
    """

    protocol: str
    host: str
    port: int
    bound: str = ""
    keys: tuple[str, ...] = ()
    authority: str = ""
    certificate: str = ""
    sha256: str = ""
    self_signed: bool = False
    login_screen: bool = False


def read_fronts(listen: Listen, addresses: Mapping[str, str]) -> dict[str, Front]:
    """Read what the open listeners show; `addresses`: where each really listens. Reads small files: call it in a thread."""
    found = {}
    if listen.ssh is not None and "ssh" in addresses:
        found["ssh"] = _ssh(listen.ssh, addresses["ssh"])
    for protocol in SPOKEN[1:]:
        front: TlsListen | None = getattr(listen, protocol)
        if front is not None and protocol in addresses:
            found[protocol] = _tls(protocol, front, addresses[protocol])
    return found


def public_address(listen: SshListen | TlsListen, address: str = "") -> str:
    """Give the address by which clients reach a listener that really listens at `address`."""
    if listen.public:
        return listen.public
    host, port = split_address(address or listen.address)
    return f"{socket.gethostname()}:{port}" if host in ANYWHERE else address or listen.address


def _ssh(listen: SshListen, address: str) -> Front:
    host, port = split_address(public_address(listen, address))
    keys = tuple(line for path in listen.host_keys if (line := _public_line(path)))
    authority = _public_line(listen.host_ca) if listen.host_ca else ""
    return Front("ssh", host, port, keys=keys, authority=authority)


def _tls(protocol: str, listen: TlsListen, address: str) -> Front:
    host, port = split_address(public_address(listen, address))
    drawn = isinstance(listen, RdpListen) and listen.deferred and listen.login_screen
    plain = Front(protocol, host, port, listen.target, login_screen=drawn)
    try:
        leaf = x509.load_pem_x509_certificates(listen.certificate.read_bytes())[0]
    except (OSError, ValueError) as error:
        _log.warning(
            "a certificate can't be told to users", path=str(listen.certificate), why=type(error).__name__
        )
        return plain
    return replace(
        plain,
        certificate=leaf.public_bytes(Encoding.PEM).decode(),
        sha256=leaf.fingerprint(SHA256()).hex(":"),
        self_signed=leaf.issuer == leaf.subject,
    )


def _public_line(path: Path) -> str:
    """Give the public half of a private key, as a line without a comment; "" where it can't be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES)
        read = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
        key = read(data, None).public_key()
        return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        _log.warning("a host key can't be told to users", path=str(path), why=type(error).__name__)
        return ""
