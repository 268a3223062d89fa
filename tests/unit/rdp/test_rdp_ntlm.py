"""NTLMv2 as MS-NLMP 4.2.4 computes it, and what an acceptor must not take."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence

import pytest
import spnego

from proxyd import verifiers
from proxyd.protocols.rdp import ntlm
from proxyd.protocols.rdp.ntlm import Acceptor, Flag, WrongPassword
from proxyd.protocols.rdp.wire import WireError

NT_KEY = verifiers.nt_key("Password")
SERVER_CHALLENGE = bytes.fromhex("0123456789abcdef")
SESSION_KEY = b"\x55" * 16
CLIENT_CHALLENGE = b"\xaa" * 8
FLAGS = ntlm.NEEDED | Flag.NTLM | Flag.KEY_EXCH | Flag.VERSION | Flag.ALWAYS_SIGN | Flag.TARGET_INFO
NEGOTIATE = ntlm.SIGNATURE + struct.pack("<II", ntlm.NEGOTIATE, FLAGS) + bytes(16)
NOW = 1_790_000_000.0

# MS-NLMP 4.2.4.3
AUTHENTICATE = bytes.fromhex(
    "4e544c4d53535000030000001800180" "06c00000054005400840000000c000c00"
    "480000000800080054000000100010005c00000010001000d8000000358288e2"
    "0501280a0000000f44006f006d00610069006e00550073006500720043004f00"
    "4d005000550054004500520086c35097ac9cec102554764a57cccc19aaaaaaaa"
    "aaaaaaaa68cd0ab851e51c96aabc927bebef6a1c010100000000000000000000"
    "00000000aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e00"
    "01000c005300650072007600650072000000000000000000c5dad2544fc97990"
    "94ce1ce90bc9d03e"
)  # fmt: skip


def lookup(user: str, domain: str) -> Sequence[bytes]:
    return (NT_KEY,) if (user, domain) == ("User", "Domain") else ()


@pytest.fixture(autouse=True)
def server_challenge(monkeypatch) -> None:
    drawn = {ntlm.CHALLENGE_BYTES: SERVER_CHALLENGE, ntlm.KEY_BYTES: bytes(16)}
    monkeypatch.setattr(ntlm.secrets, "token_bytes", drawn.__getitem__)


def challenged(look=lookup) -> tuple[Acceptor, bytes]:
    acceptor = Acceptor(look, NOW)
    return acceptor, acceptor.step(NEGOTIATE)


def authenticate(
    challenge: bytes = b"",
    *,
    nt_key: bytes = NT_KEY,
    user: str = "User",
    domain: str = "Domain",
    flags: int = FLAGS,
    pairs: bytes = bytes(4),
    session_key: bytes = SESSION_KEY,
    negotiate: bytes = NEGOTIATE,
    blob: bytes = b"",
) -> bytes:
    """A client's message as 3.1.5.1.2 has it, with a MIC if `challenge` is given."""
    response_key = hmac.digest(nt_key, (user.upper() + domain).encode("utf-16-le"), "md5")
    blob = blob or b"\x01\x01" + bytes(14) + CLIENT_CHALLENGE + bytes(4) + pairs + bytes(4)
    proof = hmac.digest(response_key, SERVER_CHALLENGE + blob, "md5")
    base_key = hmac.digest(response_key, proof, "md5")
    exported = session_key if flags & Flag.KEY_EXCH else base_key
    sent_key = ntlm._rc4(base_key).update(session_key) if flags & Flag.KEY_EXCH else b""
    parts = (b"", proof + blob, domain.encode("utf-16-le"), user.encode("utf-16-le"), b"", sent_key)
    head, payload = ntlm.SIGNATURE + struct.pack("<I", ntlm.AUTHENTICATE), b""
    for part in parts:
        head += struct.pack("<HHI", len(part), len(part), ntlm.AUTHENTICATE_HEAD + len(payload))
        payload += part
    head += struct.pack("<I", flags) + ntlm.VERSION
    plain = head + bytes(16) + payload
    if not challenge:
        return plain
    return head + hmac.digest(exported, negotiate + challenge + plain, "md5") + payload


MIC_PAIR = struct.pack("<HHI", ntlm.AV_FLAGS, 4, ntlm.HAS_MIC)


# ------------------------------------------------------------------ the vectors of MS-NLMP 4.2.4


def test_ntowf_v2() -> None:
    assert ntlm.ntowf_v2(NT_KEY, "User", "Domain").hex() == "0c868a403bfd7a93a3001ef22ef02e3f"


def test_the_message_of_the_specification_is_accepted_and_gives_its_keys() -> None:
    acceptor, _ = challenged()
    assert acceptor.step(AUTHENTICATE) == b""
    session = acceptor.session
    assert session and (session.user, session.domain, session.nt_key) == ("User", "Domain", NT_KEY)
    assert session.theirs._signing.hex() == "4788dc861b4782f35d43fd98fe1a2d39"
    assert session.theirs._sealing.hex() == "59f600973cc4960a25480a7c196e4c58"
    sealed = bytes.fromhex("010000007fb38ec5c55d49760000000054e50165bf1936dc996020c1811b0f06fb5f")
    assert session.theirs.unseal(sealed) == "Plaintext".encode("utf-16-le")


def test_what_is_sealed_one_way_is_not_accepted_the_other_way() -> None:
    acceptor, _ = challenged()
    acceptor.step(AUTHENTICATE)
    assert acceptor.session
    with pytest.raises(WireError, match="signature"):
        acceptor.session.theirs.unseal(acceptor.session.ours.seal(b"text"))


# ------------------------------------------------------------------ with another implementation


def theirs() -> tuple[Acceptor, object]:
    acceptor = Acceptor(lookup, NOW)
    client = spnego.client("Domain\\User", "Password", protocol="ntlm")
    acceptor.step(client.step(acceptor.step(client.step())))
    return acceptor, client


def test_seals_signs_and_resets_as_pyspnego_does() -> None:
    acceptor, client = theirs()
    session = acceptor.session
    assert session
    for text in (b"", b"one", b"two" * 1000):
        assert session.theirs.unseal(client.wrap(text).data) == text
        assert client.unwrap(session.ours.seal(text)).data == text
    session.theirs.verify(b"list", client.sign(b"list"))
    client.verify(b"list", session.ours.sign(b"list"))
    for incoming in (session.theirs, session.ours):
        incoming.reset()
    for outgoing in (True, False):
        client._reset_ntlm_crypto_state(outgoing=outgoing)
    assert session.theirs.unseal(client.wrap(b"anew").data) == b"anew"
    assert client.unwrap(session.ours.seal(b"anew")).data == b"anew"


def test_a_seal_that_was_changed_is_found_out() -> None:
    for at in (0, 4, 12, 16):
        acceptor, client = theirs()
        sealed = bytearray(client.wrap(b"text").data)
        sealed[at] ^= 1
        assert acceptor.session
        with pytest.raises(WireError, match="signature"):
            acceptor.session.theirs.unseal(bytes(sealed))


# ------------------------------------------------------------------ the challenge


def test_the_challenge_says_what_we_are_and_grants_what_was_asked_for() -> None:
    _, challenge = challenged()
    assert challenge[24:32] == SERVER_CHALLENGE
    (flags,) = struct.unpack_from("<I", challenge, 20)
    assert flags == ntlm.OURS | FLAGS & ntlm.IF_ASKED
    size, _, start = struct.unpack_from("<HHI", challenge, 40)
    pairs, at = {}, start
    while at < start + size:
        kind, length = struct.unpack_from("<HH", challenge, at)
        pairs[kind] = challenge[at + 4 : at + 4 + length]
        at += 4 + length
    assert at == len(challenge)
    assert pairs[ntlm.TIMESTAMP] == int((NOW + 11_644_473_600) * 10**7).to_bytes(8, "little")
    assert pairs[ntlm.NETBIOS_COMPUTER] == "PROXYD".encode("utf-16-le")
    asked = NEGOTIATE[:12] + bytes(20)
    assert struct.unpack_from("<I", Acceptor(lookup, NOW).step(asked), 20)[0] == ntlm.OURS


# ------------------------------------------------------------------ who gets in


@pytest.mark.parametrize("flags", [FLAGS, FLAGS & ~Flag.KEY_EXCH, FLAGS | Flag.KEY_56])
def test_with_and_without_key_exchange_and_with_a_mic(flags: int) -> None:
    acceptor, challenge = challenged()
    acceptor.step(authenticate(challenge, flags=flags, pairs=MIC_PAIR))
    assert acceptor.session


@pytest.mark.parametrize(
    "wrong",
    [
        {"nt_key": verifiers.nt_key("Passwort")},
        {"user": "Nobody"},
        {"domain": "Elsewhere"},
        {"user": "", "domain": ""},  # anonymous, with a proof
        {"user": "Nobody", "nt_key": bytes(16)},  # what an unknown user is computed with, were it known
    ],
)
def test_who_does_not_get_in(wrong: dict) -> None:
    acceptor, _ = challenged()
    with pytest.raises(WrongPassword):
        acceptor.step(authenticate(**wrong))
    assert acceptor.session is None
    assert acceptor.user == wrong.get("user", "User")


def without_proof(size: int) -> bytes:
    """An NTLMv1 response is 24 bytes long, an anonymous one empty."""
    token = bytearray(authenticate())
    struct.pack_into("<HH", token, 20, size, size)
    return bytes(token)


@pytest.mark.parametrize("blob", [b"\x01\x01" + bytes(25), b"\x02\x01" + bytes(26), b"\x01\x02" + bytes(26)])
def test_a_proof_over_another_kind_of_response_does_not_get_in(blob: bytes) -> None:
    acceptor, _ = challenged()
    with pytest.raises(WrongPassword):
        acceptor.step(authenticate(blob=blob))


@pytest.mark.parametrize("size", [0, 16, 24, 43])
def test_ntlmv1_and_anonymous_do_not_get_in(size: int) -> None:
    acceptor, _ = challenged()
    with pytest.raises(WrongPassword):
        acceptor.step(without_proof(size))


def test_names_are_raised_as_windows_raises_them() -> None:
    assert ntlm.upper_case("straße ǆ é ÿ ﬁ 𐐨") == "STRAßE Ǆ É Ÿ ﬁ 𐐨"


# ------------------------------------------------------------------ what was changed, or is weak


@pytest.mark.parametrize("changed", ["mic", "negotiate", "challenge", "message"])
def test_a_message_that_was_changed_on_its_way_is_found_out(changed: str) -> None:
    acceptor, challenge = challenged()
    token = authenticate(challenge, pairs=MIC_PAIR)
    if changed == "mic":
        token = token[:72] + bytes(16) + token[88:]
    elif changed == "negotiate":
        token = authenticate(challenge, pairs=MIC_PAIR, negotiate=NEGOTIATE[:-1] + b"\1")
    elif changed == "challenge":
        token = authenticate(challenge[:-1] + b"\1", pairs=MIC_PAIR)
    else:
        token = token[:64] + bytes(8) + token[72:]  # Version
    with pytest.raises(WireError, match="changed"):
        acceptor.step(token)


@pytest.mark.parametrize(
    "missing", [Flag.UNICODE, Flag.SIGN, Flag.SEAL, Flag.EXTENDED_SESSIONSECURITY, Flag.KEY_128]
)
def test_weaker_security_is_refused(missing: Flag) -> None:
    acceptor, _ = challenged()
    with pytest.raises(WireError, match="128-bit"):
        acceptor.step(authenticate(flags=FLAGS & ~missing))


def test_a_session_key_of_another_size() -> None:
    acceptor, _ = challenged()
    with pytest.raises(WireError, match="size"):
        acceptor.step(authenticate(session_key=bytes(15)))


@pytest.mark.parametrize("pairs", [b"\x02\0\xff\0", b"\x02\0\0\0" * 40, b"\x02\0\4\0"])
def test_pairs_without_an_end(pairs: bytes) -> None:
    acceptor, _ = challenged()
    with pytest.raises(WireError, match="pairs"):
        acceptor.step(authenticate(pairs=pairs))


# ------------------------------------------------------------------ what is no NTLM, or at another time


@pytest.mark.parametrize(
    "token", [b"", b"NTLMSSP\0", b"NTLMSSP\0\1\0\0\0", b"X" * 40, b"NTLMSSP\0" + bytes(40)]
)
def test_what_is_no_ntlm(token: bytes) -> None:
    with pytest.raises(WireError):
        Acceptor(lookup, NOW).step(token)


def test_messages_at_another_time() -> None:
    with pytest.raises(WireError, match="order"):
        Acceptor(lookup, NOW).step(AUTHENTICATE)
    acceptor, _ = challenged()
    with pytest.raises(WireError, match="order"):
        acceptor.step(NEGOTIATE)
    acceptor.step(AUTHENTICATE)
    with pytest.raises(WireError, match="order"):
        acceptor.step(AUTHENTICATE)


def test_fields_that_lie_outside_the_message() -> None:
    for at in (20, 28, 36, 52):
        for size, start in ((0xFFFF, 0), (8, 0xFFFFFFFF), (8, len(AUTHENTICATE))):
            token = bytearray(AUTHENTICATE)
            struct.pack_into("<HHI", token, at, size, size, start)
            acceptor, _ = challenged()
            with pytest.raises(WireError, match="outside"):
                acceptor.step(bytes(token))
    for size in range(len(AUTHENTICATE)):
        acceptor, _ = challenged()
        with pytest.raises(WireError):
            acceptor.step(AUTHENTICATE[:size])


def test_names_that_are_no_text() -> None:
    for odd in (b"\x00\xd8", b"\x00"):
        token = bytearray(authenticate())
        struct.pack_into("<HHI", token, 36, len(odd), len(odd), len(token))
        acceptor, _ = challenged()
        with pytest.raises(WireError, match="UTF-16"):
            acceptor.step(bytes(token) + odd)


def test_no_repr_shows_a_key() -> None:
    acceptor, _ = challenged()
    acceptor.step(AUTHENTICATE)
    session = acceptor.session
    assert session and repr(session) == "Session('User', 'Domain')"
    message = ntlm.Authenticate.parse(AUTHENTICATE)
    for shown in (repr(message), repr(acceptor), repr(session.theirs), f"{session}"):
        assert NT_KEY.hex() not in shown and repr(NT_KEY) not in shown and repr(message.proof) not in shown
