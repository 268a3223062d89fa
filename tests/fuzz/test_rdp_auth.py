"""CredSSP, SPNEGO, NTLM and DER on hostile bytes: only their own errors, and nobody gets in, nor a password out."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from spnego.exceptions import SpnegoError
from unit.rdp.nla import KEY, NOW, PASSWORD, accept, password_credentials
from unit.rdp.nla import client as talking

from proxyd.protocols.rdp import credssp, der, ntlm, spnego
from proxyd.protocols.rdp.credssp import Account, Initiator, Refused, Request, TargetRefused
from proxyd.protocols.rdp.wire import WireError
from proxyd.verifiers import nt_key

FUZZ = settings(deadline=None, max_examples=300)
TYPED = (WireError, Refused, TargetRefused, ntlm.WrongPassword)
CLIENT_GIVES_UP = (
    SpnegoError,
    AssertionError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
)
MECHANISMS = st.sampled_from(["ntlm", "negotiate"])


@st.composite
def changes(draw: st.DrawFn):
    """A change of bytes, wherever they are: some are overwritten, cut out or put in."""
    places = draw(
        st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=4)
    )

    def changed(data: bytes) -> bytes:
        for place, put, cut in places:
            at = int(place * len(data))
            data = data[:at] + put + data[at + cut :]
        return data

    return changed


def lookup(user: str, domain: str):
    return (nt_key(PASSWORD),)


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    ntlm_token = ntlm.SIGNATURE + data
    for read in (
        credssp.request_bytes,
        credssp.public_key,
        credssp.early_result,
        Request.parse,
        der.fields,
        der.integer,
        lambda data: list(der.elements(data)),
        accept(PASSWORD).step,
        ntlm.Acceptor(lookup, NOW).step,
        spnego.Acceptor(ntlm.Acceptor(lookup, NOW)).step,
        Initiator(Account("ann", PASSWORD), KEY, "web").step,
    ):
        for given_data in (data, ntlm_token, Request(token=data).build(), Request(token=ntlm_token).build()):
            try:
                read(given_data)
            except TYPED:
                continue


@FUZZ
@given(changes(), st.integers(0, 3), st.booleans(), MECHANISMS)
def test_a_changed_client_gets_in_only_as_who_it_is(
    changed, which: int, inside: bool, mechanism: str
) -> None:
    acceptor, client = accept(PASSWORD), talking(mechanism=mechanism)
    data, count = next(client), 0
    while acceptor.login is None:
        if count == which:
            data = within(data, changed) if inside else changed(data)
        count += 1
        try:
            answer = acceptor.step(data)
        except TYPED:
            assert acceptor.login is None
            return
        if acceptor.login is None:
            try:
                data = client.send(answer)
            except CLIENT_GIVES_UP:
                return
    assert acceptor.login.user.upper() == "ANN"
    assert acceptor.login.password == PASSWORD


def within(data: bytes, changed) -> bytes:
    """Change the token only, so that what is around it still fits."""
    request = Request.parse(data)
    return Request(
        request.version, changed(request.token), request.credentials, request.binding, 0, request.nonce
    ).build()


@FUZZ
@given(changes(), st.integers(0, 3), st.booleans(), MECHANISMS)
def test_a_changed_target_gets_no_password_it_could_not_have(
    changed, which: int, inside: bool, mechanism: str
) -> None:
    acceptor, initiator = accept(PASSWORD), Initiator(Account("ann", PASSWORD, "LAN"), KEY, "web", mechanism)
    data, count = initiator.start(), 0
    try:
        while not initiator.done:
            answer = acceptor.step(data)
            if count == which:
                answer = within(answer, changed) if inside else changed(answer)
            count += 1
            data = initiator.step(answer)
    except TYPED:
        assert not initiator.done
        return
    assert acceptor.step(data) == b""
    assert acceptor.login is not None


@FUZZ
@given(changes())
def test_changed_credentials_are_read_or_refused(changed) -> None:
    acceptor, client = accept(PASSWORD), talking(credentials=changed(password_credentials(PASSWORD)))
    data = next(client)
    for _ in range(2):
        data = client.send(acceptor.step(data))
    try:
        acceptor.step(data)
    except TYPED:
        assert acceptor.login is None
    else:
        assert acceptor.login is not None
        assert acceptor.login.password == PASSWORD
