"""CredSSP clients over pyspnego, which can be told to misbehave, and TLS for those that bring their own."""

from __future__ import annotations

import hashlib
import secrets
import ssl
from collections.abc import Generator, Sequence

import spnego

from proxyd.protocols.rdp import credssp, der
from proxyd.protocols.rdp.credssp import Acceptor, Login, Request
from proxyd.verifiers import nt_key

PASSWORD = "Grüße, 密码 1"
KEY = b"\x30\x0a" + bytes(range(200, 210))
NOW = 1_790_000_000.0
Client = Generator[bytes, bytes, None]


def accept(*passwords: str, key: bytes = KEY) -> Acceptor:
    """An acceptor to which ann and ann%web are known, by any of the passwords."""

    def lookup(user: str, domain: str) -> Sequence[bytes]:
        return [nt_key(password) for password in passwords] if user in ("ann", "ann%web") else ()

    return Acceptor(lookup, key, NOW)


def run(acceptor: Acceptor, client: Client) -> Login:
    data = next(client)
    while True:
        assert credssp.request_bytes(data) == len(data)
        answer = acceptor.step(data)
        if acceptor.login is not None:
            assert answer == b""
            return acceptor.login
        data = client.send(answer)


def bound(key: bytes, nonce: bytes, direction: bytes) -> bytes:
    """What pubKeyAuth holds from version 5 on (MS-CSSP 3.1.5)."""
    return hashlib.sha256(b"CredSSP %s Binding Hash\0" % direction + nonce + key).digest()


def password_credentials(password: str, kind: int = 1) -> bytes:
    texts = ("LAN", "ann", password)
    fields = [der.field(n, der.OCTET_STRING, text.encode("utf-16-le")) for n, text in enumerate(texts)]
    inner = der.element(der.SEQUENCE, *fields)
    return der.element(
        der.SEQUENCE, der.field(0, der.INTEGER, der.number(kind)), der.field(1, der.OCTET_STRING, inner)
    )


def client(
    password: str = PASSWORD,
    *,
    user: str = "LAN\\ann",
    version: int = 6,
    key: bytes = KEY,
    mechanism: str = "ntlm",
    credentials: bytes | None = None,
    binds_apart: bool = False,
    nonce_bytes: int = 32,
) -> Client:
    """Log in as a client of that version does, checking each answer."""
    context = spnego.client(user, password, hostname="proxyd", service="TERMSRV", protocol=mechanism)
    token = context.step()
    answer = Request.parse((yield Request(version, token=token or b"").build()))
    assert answer.version == 6 and not answer.binding
    token = context.step(answer.token) or b""
    if binds_apart:
        answer = Request.parse((yield Request(version, token=token).build()))
        context.step(answer.token)
        token = b""
    nonce = secrets.token_bytes(nonce_bytes) if version >= 5 else b""
    ours = bound(key, nonce, b"Client-To-Server") if version >= 5 else key
    request = Request(version, token=token, binding=context.wrap(ours).data, nonce=nonce)
    answer = Request.parse((yield request.build()))
    if answer.token:
        context.step(answer.token)
    theirs = bound(key, nonce, b"Server-To-Client") if nonce else bytes((key[0] + 1,)) + key[1:]
    assert context.unwrap(answer.binding).data == theirs
    given = password_credentials(password) if credentials is None else credentials
    while True:
        yield Request(version, credentials=context.wrap(given).data).build()


class TlsServer:
    """TLS in memory around an acceptor."""

    def __init__(self, acceptor: Acceptor, certificate: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._acceptor = acceptor
        self._buffer = b""

    def take(self, data: bytes) -> bytes:
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
            while True:
                self._buffer += self._tls.read()
        except ssl.SSLWantReadError:
            pass
        while (size := credssp.request_bytes(self._buffer)) is not None and size <= len(self._buffer):
            request, self._buffer = self._buffer[:size], self._buffer[size:]
            try:
                self._send(self._acceptor.step(request))
            except credssp.Refused as refused:
                self._send(refused.answer)
        return self._outgoing.read()

    def _send(self, answer: bytes) -> None:
        if answer:
            self._tls.write(answer)
