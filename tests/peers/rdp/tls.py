"""The certificate an RDP server shows: RSA, since FreeRDP 2 and xrdp also keep it for RDP's own security layer."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.peers.endpoint import HOST

KEY_BITS = 2048
EXPONENT = 65537
VALID = dt.timedelta(days=2)


class Identity:
    """A CA and a certificate of localhost it signed, in files: `ca`, `certificate`, `key`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        signer, own = (rsa.generate_private_key(EXPONENT, KEY_BITS) for _ in range(2))
        authority = _certificate("test CA", "test CA", signer, signer)
        leaf = _certificate("localhost", "test CA", own, signer)
        self.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,  # FreeRDP 2 reads an "RSA PRIVATE KEY"
                serialization.NoEncryption(),
            )
        )
        self.fingerprint = leaf.fingerprint(hashes.SHA256()).hex(":")  # as FreeRDP's /cert has it


def _certificate(
    subject: str, issuer: str, key: rsa.RSAPrivateKey, signer: rsa.RSAPrivateKey
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
    return (
        x509.CertificateBuilder(_name(issuer), _name(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=subject == issuer, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
