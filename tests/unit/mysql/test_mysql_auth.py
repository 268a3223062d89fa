"""Login methods against published values and PyMySQL's own code, which knows nothing of ours."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from pymysql import _auth

from proxyd.protocols.mysql import auth
from proxyd.protocols.mysql.login_packets import CLEAR, ED25519, NATIVE, SHA2
from proxyd.protocols.mysql.wire import WireError
from proxyd.verifiers import mariadb_ed25519

PASSWORDS = ["test", "", "pass wörd", "x" * 200]
STORED_TEST = "*94BDCEBE19083CE2A1F959FD02F964C7AF4CFC29"  # SELECT PASSWORD('test')
PUBLIC_SECRET = (
    "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY"  # SELECT ed25519_password('secret'), MariaDB's manual
)
NONCE = bytes(range(1, 21))


def test_nonces_have_no_nul_and_differ():
    nonces = {auth.new_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert all(len(nonce) == 20 and 0 not in nonce for nonce in nonces)


def test_native_both_ways():
    theirs = _auth.scramble_native_password(b"test", NONCE)
    assert auth.proof_of(NATIVE, "test", NONCE, inside_tls=False) == theirs
    assert auth.native_proves(STORED_TEST, NONCE, theirs)
    assert not auth.native_proves(STORED_TEST, NONCE[::-1], theirs)
    assert not auth.native_proves(STORED_TEST, NONCE, theirs[:-1])
    assert not auth.native_proves(STORED_TEST, NONCE, b"")
    assert not auth.native_proves(STORED_TEST, NONCE, auth.proof_of(NATIVE, "toast", NONCE, inside_tls=False))


@pytest.mark.parametrize("password", PASSWORDS[:1] + PASSWORDS[2:])
def test_sha2_both_ways(password):
    theirs = _auth.scramble_caching_sha2(password.encode(), NONCE)
    assert auth.proof_of(SHA2, password, NONCE, inside_tls=False) == theirs
    assert auth.sha2_proves(auth.sha2_digest(password), NONCE, theirs)
    assert not auth.sha2_proves(auth.sha2_digest(password + "x"), NONCE, theirs)
    assert not auth.sha2_proves(auth.sha2_digest(password), NONCE, b"")


def test_ed25519_both_ways():
    nonce = bytes(range(32))
    assert mariadb_ed25519("secret") == PUBLIC_SECRET
    for password in PASSWORDS:
        theirs = _auth.ed25519_password(password.encode(), nonce)
        assert auth.proof_of(ED25519, password, nonce, inside_tls=False) == theirs
        assert auth.ed25519_proves(mariadb_ed25519(password), nonce, theirs)
        assert not auth.ed25519_proves(PUBLIC_SECRET, nonce, theirs)
        assert not auth.ed25519_proves(PUBLIC_SECRET, nonce, theirs[:-1])


def test_a_clear_password_leaves_inside_tls_only():
    assert auth.proof_of(CLEAR, "test", NONCE, inside_tls=True) == b"test\0"
    with pytest.raises(WireError):
        auth.proof_of(CLEAR, "test", NONCE, inside_tls=False)
    with pytest.raises(WireError):
        auth.proof_of("dialog", "test", NONCE, inside_tls=True)


def test_rsa():
    key = rsa.generate_private_key(65537, 2048)
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    masked = key.decrypt(auth.rsa_password(pem, "pass wörd", NONCE), oaep)
    assert bytes(byte ^ NONCE[n % 20] for n, byte in enumerate(masked)) == "pass wörd\0".encode()
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    other = curve.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for bad in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", other):
        with pytest.raises(WireError):
            auth.rsa_password(bad, "x", NONCE)
    with pytest.raises(WireError):
        auth.rsa_password(pem, "x" * 300, NONCE)
