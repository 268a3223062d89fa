"""CredSSP between our two sides, and between each of them and pyspnego's own: who gets in, who doesn't, and how it's told."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import replace

import pytest
import spnego
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from spnego.exceptions import SpnegoError
from spnego.tls import CredSSPTLSContext, generate_tls_certificate
from unit.rdp.nla import KEY, PASSWORD, TlsServer, accept, client, password_credentials, run

from proxyd.protocols.rdp import credssp, der
from proxyd.protocols.rdp.credssp import Acceptor, Account, Initiator, Login, Refused, Request, TargetRefused
from proxyd.protocols.rdp.wire import WireError
from proxyd.verifiers import nt_key

ANN = Account("ann", PASSWORD, "LAN")
LOGON_FAILURE = bytes.fromhex("300da003020106a4060204c000006d")
MECHANISMS = ("ntlm", "negotiate")


def both(acceptor: Acceptor, initiator: Initiator, version: int = 6) -> Login:
    """Let them talk; each takes the other for one of that version."""
    data = initiator.start()
    while acceptor.login is None:
        answer = acceptor.step(replace(Request.parse(data), version=version).build())
        if answer:
            data = initiator.step(replace(Request.parse(answer), version=version).build())
    assert initiator.done
    return acceptor.login


# ------------------------------------------------------------------ logins that are right


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("version", [2, 3, 4, 5, 6, 7])
def test_every_version_and_both_mechanisms(mechanism: str, version: int) -> None:
    login = run(accept(PASSWORD), client(version=version, mechanism=mechanism))
    assert login == Login("ann", "LAN", PASSWORD, nt_key(PASSWORD))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("version", [2, 3, 4, 5, 6, 7])
def test_our_initiator_with_our_acceptor(mechanism: str, version: int) -> None:
    login = both(accept(PASSWORD), Initiator(ANN, KEY, "web", mechanism), version)
    assert (login.user, login.domain, login.password) == ("ann", "LAN", PASSWORD)


def test_spnego_with_the_key_bound_in_a_request_of_its_own() -> None:
    assert run(accept(PASSWORD), client(mechanism="negotiate", binds_apart=True)).user == "ann"


def test_any_of_several_hashes_lets_in_and_is_named() -> None:
    login = run(accept("other", "token1", "token2"), client("token1", user="ann%web"))
    assert login == Login("ann%web", "", "token1", nt_key("token1"))


@pytest.fixture
def certificate(tmp_path):
    cert, key, public = generate_tls_certificate()
    path = tmp_path / "server.pem"
    path.write_bytes(cert + key)
    return str(path), x509.load_pem_x509_certificate(cert).public_bytes(serialization.Encoding.DER), public


@pytest.mark.parametrize("ask", [PASSWORD, "wrong"])
def test_pyspnego_s_credssp_client_inside_tls(certificate, ask: str) -> None:
    path, der_certificate, _ = certificate
    acceptor = accept(PASSWORD, key=credssp.public_key(der_certificate))
    server = TlsServer(acceptor, path)
    theirs = spnego.client("LAN\\ann", ask, hostname="proxyd", service="TERMSRV", protocol="credssp")

    def talk() -> None:
        answer = b""
        while acceptor.login is None:
            answer = server.take(theirs.step(answer) or b"")

    if ask == PASSWORD:
        talk()
        assert acceptor.login == Login("ann", "LAN", PASSWORD, nt_key(PASSWORD))
        return
    with pytest.raises(SpnegoError) as told:
        talk()
    assert told.value.nt_status & 0xFFFFFFFF == credssp.LOGON_FAILURE
    assert acceptor.user == "ann"


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_pyspnego_s_credssp_server_inside_tls(
    certificate, tmp_path, monkeypatch, mechanism: str, password: str
) -> None:
    path, der_certificate, public = certificate
    store = tmp_path / "users"
    store.write_text(f"LAN:ann:{PASSWORD}\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(store))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    theirs = spnego.server(protocol="credssp", credssp_tls_context=CredSSPTLSContext(context, public))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    tls = unverified.wrap_bio(incoming, outgoing)

    def flight() -> bytes:
        incoming.write(theirs.step(outgoing.read()) or b"")
        try:
            return tls.read()
        except ssl.SSLWantReadError:
            return b""

    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(theirs.step(outgoing.read()) or b"")
    flight()  # the end of its handshake
    shown = tls.getpeercert(binary_form=True)
    assert shown == der_certificate
    initiator = Initiator(
        Account("ann", password, "LAN"), credssp.public_key(der_certificate), "web", mechanism
    )

    def talk() -> None:
        tls.write(initiator.start())
        while True:
            answer = flight()
            if initiator.done:
                return
            tls.write(initiator.step(answer))

    if password == PASSWORD:
        talk()
        given = theirs.get_extra_info("client_credential")
        assert (given.domain_name, given.username, given.password) == ("LAN", "ann", PASSWORD)
    else:
        with pytest.raises(TargetRefused):
            talk()


# ------------------------------------------------------------------ logins that are not


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_wrong_password_and_nobody_fail_alike(mechanism: str) -> None:
    for user, password in (("ann", "wrong"), ("bob", PASSWORD)):
        acceptor = accept(PASSWORD)
        login = client(password, user=user, mechanism=mechanism)
        answer = acceptor.step(next(login))
        with pytest.raises(Refused) as refused:
            acceptor.step(login.send(answer))
        assert refused.value.answer == LOGON_FAILURE
        assert acceptor.user == user
        assert acceptor.login is None


@pytest.mark.parametrize(("version", "told"), [(2, b""), (3, LOGON_FAILURE), (4, LOGON_FAILURE), (5, b"")])
def test_only_versions_with_an_error_code_are_told_it(version: int, told: bytes) -> None:
    with pytest.raises(Refused) as refused:
        run(accept(PASSWORD), client("wrong", version=version))
    assert refused.value.answer == told


def test_the_password_must_be_the_one_that_was_proven() -> None:
    """Pass-the-hash: what proves is the hash, what is handed over is something else."""
    for given in ("", "else"):
        with pytest.raises(Refused):
            run(accept(PASSWORD), client(credentials=password_credentials(given)))


@pytest.mark.parametrize("kind", [2, 6])
def test_a_smart_card_or_remote_credential_guard_is_no_password(kind: int) -> None:
    with pytest.raises(Refused):
        run(accept(PASSWORD), client(credentials=password_credentials(PASSWORD, kind)))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_client_that_saw_another_key_is_refused(version: int, mechanism: str) -> None:
    with pytest.raises(WireError, match="somewhere else"):
        run(accept(PASSWORD), client(version=version, mechanism=mechanism, key=b"\x30another"))


def test_a_target_that_shows_another_key_gets_no_password(monkeypatch) -> None:
    """It relays a login to another server: what it sends back is bound to that one's key."""
    acceptor, initiator = accept(PASSWORD), Initiator(ANN, KEY, "web")
    answer = acceptor.step(initiator.start())
    monkeypatch.setattr(credssp, "SERVER_MAGIC", b"another magic\0")
    forged = acceptor.step(initiator.step(answer))
    monkeypatch.undo()
    with pytest.raises(WireError, match="somewhere else"):
        initiator.step(forged)
    assert not initiator.done


@pytest.mark.parametrize("code", [0xC000006D, 0xC0000234, 0xC00000BB])
def test_a_target_s_reason_is_told(code: int) -> None:
    initiator = Initiator(ANN, KEY, "web")
    initiator.start()
    with pytest.raises(TargetRefused, match=r"wrong user|locked|0xC00000BB") as refused:
        initiator.step(Request(error=code).build())
    assert refused.value.status == code


def test_early_user_authorization() -> None:
    credssp.early_result(credssp.AUTHORIZED)
    with pytest.raises(TargetRefused, match="remote desktop"):
        credssp.early_result(credssp.ACCESS_DENIED)
    with pytest.raises(WireError, match="size"):
        credssp.early_result(b"\0\0\0")


# ------------------------------------------------------------------ what is out of order


def test_too_old_a_version_and_one_that_changes() -> None:
    with pytest.raises(WireError, match="version"):
        run(accept(PASSWORD), client(version=1))
    acceptor, login = accept(PASSWORD), client()
    answer = acceptor.step(next(login))
    with pytest.raises(WireError, match="version"):
        acceptor.step(replace(Request.parse(login.send(answer)), version=3).build())
    initiator = Initiator(ANN, KEY, "web")
    initiator.start()
    with pytest.raises(WireError, match="version"):
        initiator.step(Request(version=1, token=b"x").build())


def test_a_request_for_another_state() -> None:
    empty = Request().build()
    with pytest.raises(WireError):
        accept(PASSWORD).step(empty)
    with pytest.raises(WireError):
        accept(PASSWORD).step(Request(credentials=b"x").build())
    acceptor, login = accept(PASSWORD), client()
    first = Request.parse(next(login))
    with pytest.raises(WireError, match="order"):
        acceptor.step(replace(first, binding=b"x" * 40, nonce=bytes(32)).build())
    acceptor, login = accept(PASSWORD), client(mechanism="negotiate", binds_apart=True)
    answer = acceptor.step(next(login))
    acceptor.step(login.send(answer))
    with pytest.raises(WireError, match="order"):
        acceptor.step(empty)


def test_a_target_s_token_behind_the_last_one() -> None:
    acceptor, initiator = accept(PASSWORD), Initiator(ANN, KEY, "web")
    answer = acceptor.step(initiator.step(acceptor.step(initiator.start())))
    with pytest.raises(WireError, match="behind"):
        initiator.step(replace(Request.parse(answer), token=b"x").build())


def test_nothing_comes_behind_the_end() -> None:
    acceptor, login = accept(PASSWORD), client()
    run(acceptor, login)
    with pytest.raises(WireError, match="too many"):
        acceptor.step(login.send(b""))
    acceptor, initiator = accept(PASSWORD), Initiator(ANN, KEY, "web")
    both(acceptor, initiator)
    with pytest.raises(WireError, match="too many"):
        initiator.step(Request().build())


def test_a_proof_without_credentials_and_an_answer_without_the_key() -> None:
    acceptor, login = accept(PASSWORD), client()
    login.send(acceptor.step(login.send(acceptor.step(next(login)))))
    with pytest.raises(WireError, match="without credentials"):
        acceptor.step(Request().build())
    acceptor, initiator = accept(PASSWORD), Initiator(ANN, KEY, "web")
    acceptor.step(initiator.step(acceptor.step(initiator.start())))
    with pytest.raises(WireError, match="without the key"):
        initiator.step(Request().build())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_our_initiator_binds_the_key_with_its_last_token(mechanism: str) -> None:
    """Windows takes no request of its own for it."""
    acceptor, initiator = accept(PASSWORD), Initiator(ANN, KEY, "web", mechanism)
    request = Request.parse(initiator.step(acceptor.step(initiator.start())))
    assert request.token
    assert request.binding


def test_a_password_that_looks_like_hashes_is_a_password() -> None:
    odd = f"{'a' * 32}:{'b' * 32}"
    assert both(accept(odd), Initiator(Account("ann", odd), KEY, "web")).password == odd


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_nonce_of_another_size(size: int) -> None:
    with pytest.raises(WireError, match="nonce"):
        run(accept(PASSWORD), client(nonce_bytes=size))


def test_a_proof_of_the_key_that_is_not_sealed_as_agreed() -> None:
    for binding in (bytes(48), b"x"):
        acceptor, login = accept(PASSWORD), client()
        answer = acceptor.step(next(login))
        request = Request.parse(login.send(answer))
        with pytest.raises(WireError, match="signature"):
            acceptor.step(replace(request, binding=binding).build())


@pytest.mark.parametrize(
    "credentials",
    [
        b"",
        b"\x30\x00",
        password_credentials(PASSWORD)[:-1],
        der.element(der.SEQUENCE, der.field(0, der.INTEGER, b"\x01")),
        der.element(
            der.SEQUENCE,
            der.field(0, der.INTEGER, b"\x01"),
            der.field(1, der.OCTET_STRING, der.element(der.SEQUENCE, der.field(2, der.OCTET_STRING, b"odd"))),
        ),
    ],
)
def test_credentials_that_cannot_be_read(credentials: bytes) -> None:
    with pytest.raises(WireError):
        run(accept(PASSWORD), client(credentials=credentials))


# ------------------------------------------------------------------ TSRequest


def test_a_request_is_read_as_it_was_built() -> None:
    request = Request(5, b"token", b"credentials", b"binding", 0xC000006D, bytes(32))
    assert Request.parse(request.build()) == request
    assert Request.parse(Request().build()) == Request()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x00",  # no version
        der.element(
            der.SEQUENCE, der.field(0, der.INTEGER, b"\x06"), der.field(1, der.SEQUENCE, b"\x30\x00")
        ),
        Request(token=b"x" * 300).build()[:-1],
        Request().build() + b"\0",
    ],
)
def test_requests_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(WireError):
        Request.parse(data)


def test_the_length_of_a_request_is_known_from_its_first_bytes() -> None:
    data = Request(token=b"x" * 300).build()
    assert [credssp.request_bytes(data[:size]) for size in (0, 1, 2, 3)] == [None] * 4
    assert {credssp.request_bytes(data[:size]) for size in range(4, len(data) + 1)} == {len(data)}
    assert credssp.request_bytes(data + b"\x03\0\0\x13") == len(data)
    assert credssp.request_bytes(bytearray(data)) == len(data)


@pytest.mark.parametrize("data", [b"\x03", b"\x03\0\0\x13", b"\x30\x80", b"\x30\x83\x01\0\0", b"\x30\x85"])
def test_what_is_no_request_or_too_large_is_known_from_its_first_bytes(data: bytes) -> None:
    with pytest.raises(WireError):
        credssp.request_bytes(data)


# ------------------------------------------------------------------ keys, and what is not shown


def certificate_of(key) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxyd")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed25519"])
def test_the_key_is_what_stands_in_the_certificate(kind: str) -> None:
    der_format, raw = serialization.Encoding.DER, serialization.Encoding.Raw
    if kind == "rsa":
        key = rsa.generate_private_key(65537, 2048)
        wanted = key.public_key().public_bytes(der_format, serialization.PublicFormat.PKCS1)
    elif kind == "ec":
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
    else:
        key = ed25519.Ed25519PrivateKey.generate()
        wanted = key.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    assert credssp.public_key(certificate_of(key)) == wanted


def test_what_is_no_certificate() -> None:
    with pytest.raises(WireError, match="certificate"):
        credssp.public_key(b"\x30\x00")


def test_no_repr_shows_a_secret() -> None:
    login = run(accept(PASSWORD), client())
    shown = f"{login!r} {ANN!r} {Request(token=PASSWORD.encode())!r} {Initiator(ANN, KEY, 'web')!r} {login}"
    assert "ann" in shown
    for secret in (PASSWORD, repr(PASSWORD.encode()), repr(nt_key(PASSWORD)), nt_key(PASSWORD).hex()):
        assert secret not in shown
