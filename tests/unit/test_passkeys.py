"""Which answers of security keys are believed, and every other is refused with one kind of error.

The key here is software, so that it can lie; that honest answers are what browsers send is shown with Chromium in
tests/e2e/test_console_passkeys.py. ASVS 5.0: 6.4.5, 6.5.1, 6.7.2.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fido2 import cbor
from fido2.cose import ES256, ES384, RS256
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd import passkeys
from proxyd.enrolled import Enrolment, Passkey
from proxyd.passkeys import (
    ANSWER_LENGTH,
    CEREMONY_S,
    MOST,
    Ceremonies,
    Ceremony,
    Copied,
    Nameless,
    Purpose,
    Unproved,
)
from tests.peers.softkey import ATTESTED, PRESENT, SoftKey, text

ORIGIN, PLACE = "https://console.example:8443", "console.example"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ceremonies(clock: Clock) -> Ceremonies:
    return Ceremonies(clock)


@pytest.fixture
def asked(ceremonies: Ceremonies) -> Ceremony:
    return ceremonies.begin(Purpose.ADD, "ann", "ann", ORIGIN, "blue")


def register(key: SoftKey, asked: Ceremony, **other: Any) -> Passkey:
    return passkeys.added(key.add(asked.challenge, ORIGIN, PLACE, **other), asked, 5.0)


def show(key: SoftKey, asked: Ceremony, own: tuple[Passkey, ...], **other: Any) -> tuple[Passkey, int]:
    return passkeys.shown(key.show(asked.challenge, ORIGIN, PLACE, **other), asked, own)


def test_a_key_is_taken_and_known_again(asked):
    key = SoftKey(count=7)
    mine = register(key, asked)
    assert (mine.id, mine.place, mine.name, mine.added_at, mine.count) == (key.id, PLACE, "blue", 5.0, 7)
    assert msgspec.json.decode(msgspec.json.encode(mine), type=Passkey) == mine
    other = register(SoftKey(), asked)
    assert show(key, asked, (other, mine)) == (mine, 7)
    assert key.id.hex() not in repr(mine)
    assert asked.challenge.hex() not in repr(asked)


def test_what_a_browser_is_asked_names_nobody_and_only_keys_of_this_host(asked):
    mine = register(SoftKey(), asked)
    elsewhere = msgspec.structs.replace(mine, place="old.example", id=b"x" * 16)
    asking = passkeys.options_to_add(asked, (mine, elsewhere))
    assert asking["rp"]["id"] == PLACE
    assert [one["id"] for one in asking["excludeCredentials"]] == [text(mine.id)]
    assert "ann" not in asking["user"]["id"]
    assert (asking["authenticatorSelection"]["userVerification"], asking["attestation"]) == (
        "preferred",
        "none",
    )
    shown = passkeys.options_to_show(asked, (mine, elsewhere))
    assert [one["id"] for one in shown["allowCredentials"]] == [text(mine.id)]
    assert (shown["rpId"], shown["userVerification"]) == (PLACE, "preferred")
    json.dumps([asking, shown])


LIES: dict[str, dict[str, Any]] = {
    "another kind": {"client": {"type": "webauthn.other"}},
    "another challenge": {"client": {"challenge": text(b"c" * 32)}},
    "a shorter challenge": {"client": {"challenge": ""}},
    "another origin": {"client": {"origin": "https://evil.example"}},
    "another port": {"client": {"origin": "https://console.example"}},
    "no TLS": {"client": {"origin": "http://console.example:8443"}},
    "a frame of another page": {"client": {"crossOrigin": True}},
    "what is no text": {"client": {"origin": None, "challenge": 7}},
    "bytes behind": {"behind": b"x"},
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_the_answer_adds_no_key_and_shows_none(asked, lie):
    key = SoftKey()
    mine = register(key, asked)
    with pytest.raises(Unproved):
        register(key, asked, **LIES[lie])
    with pytest.raises(Unproved):
        show(key, asked, (mine,), **LIES[lie])


def test_an_answer_for_another_host_or_with_nobody_there_counts_for_nothing(asked):
    key = SoftKey()
    mine = register(key, asked)
    for place, flags in (("evil.example", PRESENT), ("example", PRESENT), (PLACE, 0)):
        with pytest.raises(Unproved):
            passkeys.added(key.add(asked.challenge, ORIGIN, place, flags=flags | ATTESTED), asked, 5.0)
        with pytest.raises(Unproved):
            passkeys.shown(key.show(asked.challenge, ORIGIN, place, flags=flags), asked, (mine,))


def test_only_ones_own_key_of_this_host_with_its_own_signature_is_believed(asked):
    key, thief = SoftKey(), SoftKey()
    mine = register(key, asked)
    thief.id = key.id
    for lie in ({"signature": b""}, {"signature": b"0" * 70}, {"id": b"unknown"}, {"data": bytes(37)}):
        with pytest.raises(Unproved):
            show(key, asked, (mine,), **lie)
    with pytest.raises(Unproved, match="signature is wrong"):
        show(thief, asked, (mine,))
    with pytest.raises(Unproved, match="no key of theirs"):
        show(key, asked, ())
    with pytest.raises(Unproved, match="no key of theirs"):
        show(key, asked, (msgspec.structs.replace(mine, place="old.example"),))


def weak_rsa() -> RS256:
    return RS256({1: 3, 3: -257, -1: b"\x80" + b"\x01" * 127, -2: b"\x01\x00\x01"})


POINT = ES256.from_cryptography_key(ec.generate_private_key(ec.SECP256R1()).public_key())
NO_KEYS: dict[str, Any] = {
    "P-384": ES384.from_cryptography_key(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "no point of the curve": {**POINT, -3: b"\x01" * 32},
    "no coordinates": {1: 2, 3: -7, -1: 1},
    "coordinates as text": {**POINT, -2: "x" * 32},
    "of another curve": {**POINT, -1: 2},
    "RSA of 1024 bits": weak_rsa(),
    "RSA of 16384 bits": {1: 3, 3: -257, -1: b"\xff" * 2048, -2: b"\x01\x00\x01"},
    "no algorithm": {1: 2},
    "an algorithm as text": {1: 2, 3: "ES256"},
    "none at all": [1, 2, 3],
}


@pytest.mark.parametrize("kind", NO_KEYS)
def test_a_key_nobody_could_check_is_not_taken(asked, kind):
    with pytest.raises(Unproved):
        register(SoftKey(public=NO_KEYS[kind]), asked)


def test_rsa_of_2048_bits_is_taken_for_the_sake_of_tpms(asked):
    public = RS256.from_cryptography_key(rsa.generate_private_key(65537, 2048).public_key())
    assert register(SoftKey(public=public), asked).public == cbor.encode(public)


@pytest.mark.parametrize(
    "attestation",
    [b"", b"\xa0", b"\x81" * 5000, b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff", b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff\x00",
     b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff", cbor.encode({"fmt": "none", "attStmt": {}, "authData": b"x" * 36}),
     cbor.encode({"fmt": "none", "attStmt": {}, "authData": "text"}), cbor.encode([1])],
)  # fmt: skip
def test_an_attestation_that_is_none_is_refused(asked, attestation):
    with pytest.raises(Unproved):
        register(SoftKey(), asked, attestation=attestation)


@pytest.mark.parametrize(
    "answer",
    ["", "null", "[]", "{}", '{"rawId": 1}', '{"id": "a", "rawId": "b", "response": {}}', "[" * 5000, "{" * 5000, "x" * (ANSWER_LENGTH + 1),
     '{"rawId": "AA", "response": null}', '{"rawId": "\u00e9", "response": {"clientDataJSON": "e30"}}', '{"rawId": "AA", "response": {"clientDataJSON": 5}}'],
)  # fmt: skip
def test_what_is_no_answer_at_all_is_refused(asked, answer):
    with pytest.raises(Unproved):
        passkeys.added(answer, asked, 5.0)
    with pytest.raises(Unproved):
        passkeys.shown(answer, asked, ())


ASKED = Ceremony("ann", ORIGIN, b"c" * 32, 0.0, "blue")
KEY = SoftKey()
MINE = register(KEY, ASKED)
PARTS: dict[str, str] = json.loads(KEY.show(ASKED.challenge, ORIGIN, PLACE))[
    "response"
]  # one answer for all runs


@given(
    st.sampled_from(sorted(PARTS)), st.floats(0, 1, exclude_max=True), st.sampled_from("ABCXYZabcxyz0189-_")
)
@settings(deadline=None, max_examples=60)
def test_no_change_of_a_byte_is_believed_or_raises_anything_else(part, where, mark):
    kept = PARTS[part]
    at = int(where * (len(kept) - 1))  # the last character has bits nobody reads
    changed = PARTS | {part: kept[:at] + mark + kept[at + 1 :]}
    named = text(KEY.id)
    answer = json.dumps({"id": named, "rawId": named, "type": "public-key", "response": changed})
    if changed == PARTS:
        assert passkeys.shown(answer, ASKED, (MINE,)) == (MINE, 1)
        return
    with pytest.raises(Unproved):
        passkeys.shown(answer, ASKED, (MINE,))


@pytest.mark.parametrize(("kept", "said", "good"), [(0, 0, True), (0, 1, True), (5, 6, True), (5, 900, True), (5, 5, False), (5, 4, False), (5, 0, False)])  # fmt: skip
def test_a_counter_that_does_not_go_on_is_a_copys(asked, kept, said, good):
    mine = msgspec.structs.replace(register(SoftKey(), asked), count=kept)
    other = register(SoftKey(), asked)
    own = Enrolment(passkeys=(other, mine))
    if good:
        assert [one.count for one in passkeys.counted(own, mine.id, said).passkeys] == [other.count, said]
        return
    with pytest.raises(Copied):
        passkeys.counted(own, mine.id, said)
    with pytest.raises(Unproved, match="removed"):
        passkeys.counted(Enrolment(passkeys=(other,)), mine.id, 99)


def test_a_challenge_is_for_one_asker_and_purpose_once_and_for_a_while(ceremonies, clock):
    made = ceremonies.begin(Purpose.ENTER, "browser", "ann", ORIGIN)
    for purpose, asked in ((Purpose.PROVE, "browser"), (Purpose.ENTER, "other"), (Purpose.ENTER, "ann")):
        with pytest.raises(Unproved):
            ceremonies.take(purpose, asked)
    assert ceremonies.take(Purpose.ENTER, "browser") is made
    with pytest.raises(Unproved):
        ceremonies.take(Purpose.ENTER, "browser")
    ceremonies.begin(Purpose.ENTER, "browser", "ann", ORIGIN)
    clock.now += CEREMONY_S
    with pytest.raises(Unproved):
        ceremonies.take(Purpose.ENTER, "browser")


def test_the_last_challenge_counts_and_there_are_never_too_many(ceremonies):
    first = ceremonies.begin(Purpose.PROVE, "ann", "ann", ORIGIN)
    second = ceremonies.begin(Purpose.PROVE, "ann", "ann", ORIGIN)
    assert first.challenge != second.challenge
    assert ceremonies.take(Purpose.PROVE, "ann") is second
    for number in range(MOST + 5):
        ceremonies.begin(Purpose.ENTER, str(number), "ann", ORIGIN)
    assert len(ceremonies._waiting) == MOST


@pytest.mark.parametrize(
    "origin", ["https://127.0.0.1:8443", "https://[::1]:8443", "https://", "", "https://192.0.2.1"]
)
def test_an_address_has_no_keys(ceremonies, origin):
    with pytest.raises(Nameless, match="set public"):
        ceremonies.begin(Purpose.ADD, "ann", "ann", origin)
    assert passkeys.usable((Passkey(b"i", b"p", "127.0.0.1", "n", 0.0),), origin) == ()


def test_a_name_is_what_can_be_seen_of_it():
    assert passkeys.checked_name("  blue \x1b[31m\u202e key\n") == "blue [31m key"
    assert passkeys.checked_name("\u202e\n ") == ""
