"""Every kind of connection a stream runs over."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.contract.stream_contract import Link

KINDS = ("tcp", "unix", "tls1.2", "tls1.3", "tls-unix")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for target.test with its key, one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "target.test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("target.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture(scope="session")
def links(certificate: Path) -> dict[str, Link]:
    """The kinds of connection by name."""

    def contexts(version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate)
        client = ssl.create_default_context(cafile=str(certificate))
        server.minimum_version = server.maximum_version = version
        return server, client

    return {
        "tcp": Link("tcp"),
        "unix": Link("unix", socket.AF_UNIX),
        "tls1.2": Link("tls1.2", socket.AF_INET, *contexts(ssl.TLSVersion.TLSv1_2)),
        "tls1.3": Link("tls1.3", socket.AF_INET, *contexts(ssl.TLSVersion.TLSv1_3)),
        "tls-unix": Link("tls-unix", socket.AF_UNIX, *contexts(ssl.TLSVersion.TLSv1_3)),
    }


@pytest.fixture(params=KINDS)
def link(request: pytest.FixtureRequest, links: dict[str, Link]) -> Link:
    """Every kind of connection in turn."""
    return links[request.param]


@pytest.fixture(params=("tls1.2", "tls1.3"))
def tls_link(request: pytest.FixtureRequest, links: dict[str, Link]) -> Link:
    """Every TLS version in turn."""
    return links[request.param]
