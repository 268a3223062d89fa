"""Both sides of each login method against each other, and what must not get through."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from proxyd import verifiers
from proxyd.protocols.postgres import auth
from proxyd.protocols.postgres.auth import SCRAM, SCRAM_PLUS, ScramClient, ScramServer, ScramVerifier
from proxyd.protocols.postgres.wire import WireError
from proxyd.verifiers import scram_keys

PASSWORD = "pencil äö"
BINDING = hashlib.sha256(b"certificate").digest()
BOTH = frozenset({SCRAM, SCRAM_PLUS})


def verifier(password: str = PASSWORD) -> ScramVerifier:
    return ScramVerifier.parse(verifiers.scram(password))


def exchange(server: ScramServer, client: ScramClient, password: str = PASSWORD) -> None:
    challenge = server.first(client.mechanism, client.first())
    salt, iterations = client.challenge(challenge)
    client.check(server.final(client.final(scram_keys(password, salt, iterations))))


@pytest.mark.parametrize("binding", [None, BINDING])
def test_scram_with_and_without_channel_binding(binding: bytes | None) -> None:
    client = ScramClient(BOTH, binding)
    assert client.mechanism == (SCRAM_PLUS if binding else SCRAM)
    exchange(ScramServer(verifier(), binding), client)


def test_wrong_password_and_nobody_fail_alike() -> None:
    with pytest.raises(auth.WrongPassword):
        exchange(ScramServer(verifier(), BINDING), ScramClient(BOTH, BINDING), "wrong")
    with pytest.raises(auth.WrongPassword):
        exchange(ScramServer(ScramVerifier.doomed(b"secret", b"bob"), BINDING), ScramClient(BOTH, BINDING))


def test_nobody_s_salt_is_the_same_every_time_and_another_for_each_name() -> None:
    like = verifier()
    one, again, other = (ScramVerifier.doomed(b"secret", name, like) for name in (b"bob", b"bob", b"eve"))
    assert one.salt == again.salt != other.salt
    assert (len(one.salt), one.iterations) == (len(like.salt), like.iterations)
    assert not one.matches(PASSWORD)


def test_certificate_in_the_middle_is_found_out() -> None:
    with pytest.raises(WireError, match="binding"):
        exchange(ScramServer(verifier(), BINDING), ScramClient(BOTH, hashlib.sha256(b"other").digest()))


def test_client_talked_out_of_channel_binding_is_refused() -> None:
    with pytest.raises(WireError, match="not so"):
        exchange(ScramServer(verifier(), BINDING), ScramClient(frozenset({SCRAM}), BINDING))


def test_mechanism_that_was_not_offered() -> None:
    client = ScramClient(BOTH, BINDING)
    with pytest.raises(WireError, match="mechanism"):
        ScramServer(verifier(), None).first(client.mechanism, client.first())
    with pytest.raises(WireError, match="no SASL"):
        ScramClient(frozenset({b"OAUTHBEARER"}), None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"n,,",
        b"n,,n=,r=",
        b"p=tls-unique,,n=,r=abcdefgh",
        b"n,a=admin,n=,r=abcdefgh",
        b"\xff",
        b"n,,m=x,n=,r=abcdefgh",
    ],
)
def test_client_first_that_can_t_be_read(data: bytes) -> None:
    with pytest.raises(WireError):
        ScramServer(verifier(), None).first(SCRAM, data)


def test_final_with_another_nonce_binding_or_proof() -> None:
    server, client = ScramServer(verifier(), None), ScramClient(BOTH, None)
    salt, iterations = client.challenge(server.first(client.mechanism, client.first()))
    good = client.final(scram_keys(PASSWORD, salt, iterations))
    for bad in (
        good.replace(b"r=", b"r=x"),
        good.replace(b"c=biws", b"c=eSws"),
        good[:-9],
        good + b"!",
        b"c=biws",
        good.rpartition(b"=")[0] + b"====",
    ):
        with pytest.raises(WireError):
            server.final(bad)
    client.check(server.final(good))


@pytest.mark.parametrize("iterations", ["0", "1000001", "1000000000", "99999999999", "-1", "x"])
def test_target_that_asks_for_too_much_work(iterations: str) -> None:
    client = ScramClient(BOTH, None)
    nonce = client.first().decode().rpartition("r=")[2] + "more"
    with pytest.raises(WireError):
        client.challenge(f"r={nonce},s={base64.b64encode(b'salt').decode()},i={iterations}".encode())


def test_target_that_reuses_our_nonce_or_does_not_know_the_password() -> None:
    client = ScramClient(BOTH, None)
    nonce = client.first().decode().rpartition("r=")[2]
    with pytest.raises(WireError):
        client.challenge(f"r={nonce},s=c2FsdA==,i=4096".encode())
    salt, iterations = client.challenge(f"r={nonce}x,s=c2FsdA==,i=4096".encode())
    client.final(scram_keys(PASSWORD, salt, iterations))
    for answer in (b"v=" + base64.b64encode(bytes(32)), b"e=other-error", b"", b"\xff"):
        with pytest.raises(WireError):
            client.check(answer)


def test_verifier_checks_a_password_in_clear() -> None:
    assert verifier().matches(PASSWORD)
    assert not verifier().matches("wrong")
    assert "stored" not in repr(verifier())


def test_md5_is_what_the_server_computes() -> None:
    inner = hashlib.md5(b"TargetPw1app").hexdigest()
    assert (
        auth.md5_answer("app", "TargetPw1", b"salt")
        == b"md5" + hashlib.md5(inner.encode() + b"salt").hexdigest().encode()
    )


def certificate(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, algorithm: hashes.SHA384 | None
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(1))
    )
    return made.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def test_certificate_hash_follows_the_signature() -> None:
    der = certificate(ec.generate_private_key(ec.SECP256R1()), hashes.SHA384())
    assert auth.certificate_hash(der) == hashlib.sha384(der).digest()
    assert auth.certificate_hash(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None
    assert auth.certificate_hash(b"no certificate") is None
