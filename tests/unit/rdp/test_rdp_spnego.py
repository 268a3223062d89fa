"""SPNEGO agrees on NTLM, and on nothing that a person in the middle would rather have."""

from __future__ import annotations

import pytest
import spnego as theirs

from proxyd.protocols.rdp import der, ntlm, spnego
from proxyd.protocols.rdp.ntlm import WrongPassword
from proxyd.protocols.rdp.spnego import NTLM_OID, NegState
from proxyd.protocols.rdp.wire import WireError
from proxyd.verifiers import nt_key

KERBEROS_OID = bytes.fromhex("2a864886f712010202")  # 1.2.840.113554.1.2.2
NEGOEX_OID = bytes.fromhex("2b06010401823702021e")  # 1.3.6.1.4.1.311.2.2.30
NOW = 1_790_000_000.0


def acceptor() -> spnego.Acceptor:
    return spnego.Acceptor(ntlm.Acceptor(lambda user, domain: (nt_key("Password"),), NOW))


def mech_types(*oids: bytes) -> bytes:
    return der.element(der.SEQUENCE, *(der.element(der.OID, oid) for oid in oids))


def init(offered: bytes, token: bytes = b"") -> bytes:
    """NegTokenInit in its frame, with ContextFlags as old Windows sends them."""
    parts = [der.element(der.CONTEXT, offered), der.field(1, der.BIT_STRING, b"\x01\x06")]
    if token:
        parts.append(der.field(2, der.OCTET_STRING, token))
    inner = der.element(der.CONTEXT, der.element(der.SEQUENCE, *parts))
    return der.element(der.APPLICATION, der.element(der.OID, spnego.SPNEGO_OID), inner)


def response(token: bytes = b"", mic: bytes = b"", state: NegState | None = None) -> bytes:
    parts = []
    if state is not None:
        parts.append(der.field(0, der.ENUMERATED, bytes((state,))))
    if token:
        parts.append(der.field(2, der.OCTET_STRING, token))
    if mic:
        parts.append(der.field(3, der.OCTET_STRING, mic))
    return der.element(der.CONTEXT + 1, der.element(der.SEQUENCE, *parts))


class Answer:
    """A NegTokenResp of ours, read."""

    def __init__(self, data: bytes) -> None:
        fields = der.fields(der.only(data, der.CONTEXT + 1))
        self.state = NegState(der.integer(fields[0], der.ENUMERATED))
        self.mechanism = der.only(fields[1], der.OID) if 1 in fields else b""
        self.token = der.only(fields[2], der.OCTET_STRING) if 2 in fields else b""
        self.mic = der.only(fields[3], der.OCTET_STRING) if 3 in fields else b""


class Client:
    """NTLM by pyspnego, SPNEGO by hand: what a peer offers and leaves out is up to the test."""

    def __init__(self, *oids: bytes, password: str = "Password") -> None:
        self.offered = mech_types(*oids)
        self.context = theirs.client("Domain\\User", password, protocol="ntlm")

    def mic(self) -> bytes:
        mic = self.context.sign(self.offered)
        self.context._reset_ntlm_crypto_state()
        return mic

    def check(self, mic: bytes) -> None:
        self.context.verify(self.offered, mic)
        self.context._reset_ntlm_crypto_state(outgoing=False)


def assert_sealed_alike(session: ntlm.Session, client: Client) -> None:
    assert session.theirs.unseal(client.context.wrap(b"there").data) == b"there"
    assert client.context.unwrap(session.ours.seal(b"and back")).data == b"and back"


@pytest.mark.parametrize("with_mic", [True, False])
def test_ntlm_first(with_mic: bool) -> None:
    """Windows sends a mechListMIC here too; who sends none need not."""
    ours, client = acceptor(), Client(NTLM_OID, KERBEROS_OID)
    answer = Answer(ours.step(init(client.offered, client.context.step())))
    assert (answer.state, answer.mechanism) == (NegState.ACCEPT_INCOMPLETE, NTLM_OID)
    last = client.context.step(answer.token)
    answer = Answer(ours.step(response(last, client.mic() if with_mic else b"")))
    assert (answer.state, answer.token, bool(answer.mic)) == (NegState.ACCEPT_COMPLETED, b"", with_mic)
    if with_mic:
        client.check(answer.mic)
    assert ours.session and ours.user == "User"
    assert_sealed_alike(ours.session, client)


@pytest.mark.parametrize("guess", [b"", b"\x60\x03\x06\x01\x2a"])  # a Kerberos token is passed over
def test_another_mechanism_first_asks_for_a_mic_and_gets_one(guess: bytes) -> None:
    ours, client = acceptor(), Client(NEGOEX_OID, KERBEROS_OID, NTLM_OID)
    answer = Answer(ours.step(init(client.offered, guess)))
    assert (answer.state, answer.mechanism) == (NegState.REQUEST_MIC, NTLM_OID)
    assert answer.token == answer.mic == b""
    answer = Answer(ours.step(response(client.context.step(), state=NegState.ACCEPT_INCOMPLETE)))
    assert answer.state == NegState.ACCEPT_INCOMPLETE
    last = client.context.step(answer.token)
    answer = Answer(ours.step(response(last, client.mic())))
    assert answer.state == NegState.ACCEPT_COMPLETED
    client.check(answer.mic)
    assert ours.session
    assert_sealed_alike(ours.session, client)


def test_another_mechanism_first_but_a_token_of_ntlm() -> None:
    ours, client = acceptor(), Client(KERBEROS_OID, NTLM_OID)
    answer = Answer(ours.step(init(client.offered, client.context.step())))
    assert answer.state == NegState.REQUEST_MIC
    answer = Answer(ours.step(response(client.context.step(answer.token), client.mic())))
    assert answer.state == NegState.ACCEPT_COMPLETED
    assert ours.session


def until_the_last(ours: spnego.Acceptor, client: Client) -> bytes:
    ours.step(init(client.offered))
    return client.context.step(Answer(ours.step(response(client.context.step()))).token)


def test_a_missing_mic_is_refused_where_ntlm_is_not_the_first() -> None:
    ours, client = acceptor(), Client(KERBEROS_OID, NTLM_OID)
    with pytest.raises(WireError, match="mechListMIC"):
        ours.step(response(until_the_last(ours, client)))
    assert ours.session is None


def test_a_list_that_was_changed_on_its_way_is_found_out() -> None:
    ours, client = acceptor(), Client(KERBEROS_OID, NTLM_OID)
    last = until_the_last(ours, client)
    client.offered = mech_types(NEGOEX_OID, KERBEROS_OID, NTLM_OID)  # what it offered before the change
    with pytest.raises(WireError, match="signature"):
        ours.step(response(last, client.mic()))
    assert ours.session is None


def test_a_client_that_turns_down_what_was_agreed_on() -> None:
    ours, client = acceptor(), Client(NTLM_OID)
    last = until_the_last(ours, client)
    with pytest.raises(WireError, match="turned down"):
        ours.step(response(last, client.mic(), NegState.REJECT))


def test_a_wrong_password() -> None:
    ours, client = acceptor(), Client(NTLM_OID, password="wrong")
    last = until_the_last(ours, client)
    with pytest.raises(WrongPassword):
        ours.step(response(last, client.mic()))
    assert ours.user == "User"


def test_pyspnego_s_own_negotiation() -> None:
    ours, client = acceptor(), theirs.client("Domain\\User", "Password", protocol="negotiate")
    token = client.step()
    while not client.complete:
        token = client.step(ours.step(token))
    assert ours.session
    assert ours.session.theirs.unseal(client.wrap(b"there").data) == b"there"
    assert client.unwrap(ours.session.ours.seal(b"back")).data == b"back"


@pytest.mark.parametrize(
    "token",
    [
        b"",
        response(b"x"),
        init(mech_types(KERBEROS_OID)),
        init(mech_types()),
        init(b""),
        init(mech_types(*[KERBEROS_OID] * 32, NTLM_OID)),
        init(mech_types(NTLM_OID))[:-1],
        init(mech_types(NTLM_OID)).replace(spnego.SPNEGO_OID, b"\x2b\x06\x01\x05\x05\x03"),
        init(mech_types(NTLM_OID), ntlm.SIGNATURE),
    ],
)
def test_first_tokens_that_are_refused(token: bytes) -> None:
    with pytest.raises(WireError):
        acceptor().step(token)


@pytest.mark.parametrize(
    "token", [b"", response(), response(state=NegState.REJECT), response(b"x"), b"\xa1\x80"]
)
def test_later_tokens_that_are_refused(token: bytes) -> None:
    ours, client = acceptor(), Client(NTLM_OID)
    ours.step(init(client.offered, client.context.step()))
    with pytest.raises(WireError):
        ours.step(token)


def test_nothing_comes_behind_the_end() -> None:
    ours, client = acceptor(), Client(NTLM_OID)
    ours.step(response(until_the_last(ours, client)))
    with pytest.raises(WireError, match="end"):
        ours.step(response(b"x"))
