"""Security keys of users: added behind a proof, good for one sign-in each time, refused when they were copied, never lost unnoticed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxyd import enrolled
from proxyd.config import Console
from proxyd.control import enrolling, owning, proving, vouching
from proxyd.control.client import Code, ControlError
from proxyd.control.commands import COMMANDS
from proxyd.control.enrolling import Ask, Begin, Confirm, Remove
from proxyd.control.owning import KeyAdd
from proxyd.control.permissions import Caller, Permission
from proxyd.control.proving import Again
from proxyd.control.vouching import KeySignIn, Person, SignIn, Unenrol
from proxyd.enrolled import Enrolled
from proxyd.passkeys import CEREMONY_S, WANTED
from tests.peers.softkey import SoftKey
from tests.unit.control.own_world import (
    ADDRESS,
    ALICE,
    CONSOLE,
    DAVE,
    PASSWORD,
    ROOT,
    World,
    enrol,
    made,
    new_key,
    refused,
)

ORIGIN, PLACE = "https://console.example", "console.example"
BROWSER = "b" * 64


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made(tmp_path) as world:
        yield world


def begun(name: str = "blue", *, password: str = PASSWORD, code: str = "", origin: str = ORIGIN) -> Begin:
    return Begin(password, code, name=name, origin=origin)


def challenge_of(options: dict[str, Any]) -> bytes:
    padded = options["challenge"] + "="
    return msgspec.json.decode(f'"{padded.replace("-", "+").replace("_", "/")}"', type=bytes)


async def add(
    world: World, who: Caller = ALICE, code: str = "", **how: Any
) -> tuple[SoftKey, dict[str, Any]]:
    key = SoftKey(**how)
    options = (await enrolling.begin(world, who, begun(code=code)))["options"]
    answer = key.add(challenge_of(options), ORIGIN, PLACE)
    return key, await enrolling.confirm(world, who, Confirm(answer))


async def signed(world: World, who: Caller, key: SoftKey) -> str:
    """What the key makes of a challenge to prove who one is."""
    options = (await enrolling.challenge(world, who, Ask(ORIGIN)))["options"]
    return key.show(challenge_of(options), ORIGIN, PLACE)


async def entered(
    world: World, name: str, key: SoftKey, *, browser: str = BROWSER
) -> tuple[dict[str, Any], str]:
    """Sign in by password and key; give what is said, and what the key answered."""
    said = await vouching.sign_in(world, CONSOLE, SignIn(name, "", ADDRESS, BROWSER, ORIGIN))
    assert said["why"] == WANTED
    answer = key.show(challenge_of(said["options"]), ORIGIN, PLACE)
    return await vouching.sign_in_by_key(world, CONSOLE, KeySignIn(browser, answer, ADDRESS)), answer


async def test_a_key_signs_in_with_the_password_and_its_answer_is_good_once(world: World) -> None:
    key, added = await add(world)
    assert len(added["codes"]) == 10  # it is her first second factor
    assert await vouching.sign_in(world, CONSOLE, SignIn("alice", "", ADDRESS)) == {"why": "no one-time code"}
    key.count = 2
    said, answer = await entered(world, "alice", key)
    assert said == {"user": "alice", "why": ""}
    again = await vouching.sign_in_by_key(world, CONSOLE, KeySignIn(BROWSER, answer, ADDRESS))
    assert again == {"user": "", "why": "security key: no challenge waits for it"}
    await vouching.sign_in(world, CONSOLE, SignIn("alice", "", ADDRESS, BROWSER, ORIGIN))
    replayed = await vouching.sign_in_by_key(world, CONSOLE, KeySignIn(BROWSER, answer, ADDRESS))
    assert replayed == {"user": "", "why": "security key: it is the answer to another challenge"}
    (row,) = (await owning.access(world, ALICE, None))["passkeys"]
    assert (row["name"], row["place"], row["fingerprint"]) == ("blue", PLACE, added["fingerprint"])
    assert row["used_at"] == pytest.approx(time.time(), abs=60)


async def test_a_challenge_is_for_the_browser_whose_password_was_right(world: World) -> None:
    key, _ = await add(world)
    key.count = 2
    said, answer = await entered(world, "alice", key, browser="another")
    assert said["why"] == "security key: no challenge waits for it"
    world.now += CEREMONY_S
    late = await vouching.sign_in_by_key(world, CONSOLE, KeySignIn(BROWSER, answer, ADDRESS))
    assert late["why"] == "security key: no challenge waits for it"


async def test_anothers_key_signs_nobody_in(world: World) -> None:
    await add(world)
    key, _ = await add(world, DAVE, world.code(world.seed))
    said, _ = await entered(world, "alice", key)
    assert said == {"user": "", "why": "security key: it is no key of theirs"}


async def test_who_has_a_key_shows_it_also_where_no_second_factor_is_asked_for(world: World) -> None:
    lax = Console(certificate=Path("c"), key=Path("k"), second_factor=False)
    world.configured = msgspec.structs.replace(world.configured, console=lax)
    world.config = msgspec.structs.replace(world.config, console=lax)
    assert await vouching.sign_in(world, CONSOLE, SignIn("alice", "", ADDRESS, BROWSER, ORIGIN)) == {
        "why": ""
    }
    await add(world)
    here = SignIn("alice", "", ADDRESS, BROWSER, ORIGIN)
    assert (await vouching.sign_in(world, CONSOLE, here))["why"] == WANTED
    for origin in ("https://127.0.0.1:8443", "https://other.example", ""):
        elsewhere = SignIn("alice", "", ADDRESS, BROWSER, origin)
        assert await vouching.sign_in(world, CONSOLE, elsewhere) == {"why": "no one-time code"}


async def test_where_one_comes_from_is_asked_behind_the_key_too(world: World) -> None:
    key, _ = await add(world, DAVE, world.code(world.seed))
    key.count = 2
    said = await vouching.sign_in(world, CONSOLE, SignIn("dave", "", "198.51.100.1", BROWSER, ORIGIN))
    answer = key.show(challenge_of(said["options"]), ORIGIN, PLACE)
    done = await vouching.sign_in_by_key(world, CONSOLE, KeySignIn(BROWSER, answer, "198.51.100.1"))
    assert done == {"user": "dave", "why": "address"}


async def test_a_copied_key_is_refused_and_its_user_is_told(world: World, tmp_path: Path) -> None:
    key, added = await add(world)
    for count, why in ((2, ""), (2, "copy"), (1, "copy"), (3, "")):
        key.count = count
        said, _ = await entered(world, "alice", key)
        assert (why in said["why"], bool(said["why"])) == (True, bool(why))
    told = [entry.fields for entry in world.ledger.entries("credential-refused")]
    assert [(one["user"], one["fingerprint"], one["source"]) for one in told] == [
        ("alice", added["fingerprint"], ADDRESS)
    ] * 2
    notices = [notice for notice, _ in world.notices if "copy" in notice.title]
    assert [notice.people for notice in notices] == [("alice",)] * 2
    kept = json.loads((world.enrolled._path).read_text())["users"]["alice"]["passkeys"]
    assert [one["count"] for one in kept] == [3]
    assert Enrolled(world.enrolled._path).of("alice") == world.enrolled.of("alice")


async def test_a_key_proves_who_one_is_in_place_of_a_code(world: World) -> None:
    key, _ = await add(world, DAVE, world.code(world.seed))
    key.count = 2
    answer = await signed(world, DAVE, key)
    assert await proving.prove(world, DAVE, Again(PASSWORD, passkey=answer)) == {"password", "totp"}
    for wrong in (answer, "{}", await signed(world, DAVE, SoftKey(id=key.id))):
        await refused(
            Code.DENIED,
            "security key",
            owning.key_add(world, DAVE, KeyAdd(PASSWORD, "", new_key(), passkey=wrong)),
        )
    assert len(list(world.ledger.entries("credential-refused"))) == 3
    await refused(
        Code.DENIED, "not your password", proving.prove(world, DAVE, Again("wrong", passkey=answer))
    )
    assert answer not in repr(Again(PASSWORD, passkey=answer)) + repr(KeySignIn("x", answer))


async def test_who_has_nothing_but_a_key_shows_it_or_a_recovery_code(world: World) -> None:
    key, added = await add(world)
    key.count = 2
    await refused(Code.DENIED, "that code", proving.prove(world, ALICE, Again(PASSWORD)))
    assert await proving.prove(world, ALICE, Again(PASSWORD, added["codes"][0]))
    assert (
        len(
            (await owning.recovery(world, ALICE, Again(PASSWORD, passkey=await signed(world, ALICE, key))))[
                "codes"
            ]
        )
        == 10
    )
    assert world.access.missing("alice", frozenset({"password"})) == frozenset()  # where there is no browser


async def test_the_last_second_factor_is_not_taken_away(world: World) -> None:
    _key, added = await add(world)
    mark = added["fingerprint"]
    await refused(
        Code.REFUSED,
        "only second factor",
        enrolling.remove(world, ALICE, Remove(PASSWORD, added["codes"][0], mark)),
    )
    other, second = await add(world, code=added["codes"][0])
    assert second["codes"] == []
    await enrolling.remove(world, ALICE, Remove(PASSWORD, added["codes"][1], mark))
    assert [one.id for one in world.enrolled.of("alice").passkeys] == [other.id]
    secret, _ = await enrol(world, code=added["codes"][2])
    await enrolling.remove(world, ALICE, Remove(PASSWORD, world.code(secret), second["fingerprint"]))
    assert world.enrolled.of("alice").passkeys == ()
    await refused(Code.NOT_FOUND, "no such", enrolling.remove(world, ALICE, Remove(PASSWORD, "", mark)))
    said = await vouching.sign_in(world, CONSOLE, SignIn("alice", "", ADDRESS, BROWSER, ORIGIN))
    assert said == {"why": "no one-time code"}
    assert [one for one in world.actions() if one.startswith("passkey")] == ["passkey-added"] * 2 + [
        "passkey-removed"
    ] * 2


async def test_nothing_is_added_without_a_proof_a_name_and_a_host(world: World) -> None:
    await refused(Code.DENIED, "not your password", enrolling.begin(world, ALICE, begun(password="wrong")))
    await refused(Code.DENIED, "that code", enrolling.begin(world, DAVE, begun()))
    await refused(Code.USAGE, "a name", enrolling.begin(world, ALICE, begun("\u202e ")))
    await refused(
        Code.REFUSED, "called by a name", enrolling.begin(world, ALICE, begun(origin="https://127.0.0.1:1"))
    )
    await refused(Code.REFUSED, "begin again", enrolling.confirm(world, ALICE, Confirm("{}")))
    options = (await enrolling.begin(world, ALICE, begun()))["options"]
    answer = SoftKey().add(challenge_of(options), ORIGIN, PLACE)
    await refused(Code.REFUSED, "begin again", enrolling.confirm(world, DAVE, Confirm(answer)))
    await refused(Code.REFUSED, "begin again", enrolling.confirm(world, ALICE, Confirm("{}")))
    await refused(
        Code.REFUSED, "begin again", enrolling.confirm(world, ALICE, Confirm(answer))
    )  # used up by that
    await refused(Code.REFUSED, "no security key", enrolling.challenge(world, ALICE, Ask(ORIGIN)))
    world.allow(keys=True)
    await refused(Code.REFUSED, "administrator here", enrolling.begin(world, ALICE, begun()))
    assert not world.actions()


async def test_a_key_is_of_one_user_and_one_has_so_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolled, "MAX_PASSKEYS", 3)
    key, _added = await add(world)
    options = (await enrolling.begin(world, DAVE, begun(code=world.code(world.seed))))["options"]
    answer = key.add(challenge_of(options), ORIGIN, PLACE)
    await refused(Code.REFUSED, "already", enrolling.confirm(world, DAVE, Confirm(answer)))
    key.count = 1
    for _ in range(2):
        key.count += 1
        fresh, proof = SoftKey(), await signed(world, ALICE, key)
        options = (
            await enrolling.begin(world, ALICE, Begin(PASSWORD, passkey=proof, name="n", origin=ORIGIN))
        )["options"]
        await enrolling.confirm(world, ALICE, Confirm(fresh.add(challenge_of(options), ORIGIN, PLACE)))
    await refused(Code.REFUSED, "remove one", enrolling.begin(world, ALICE, begun()))


async def test_operators_take_keys_away_and_nobody_their_own(world: World) -> None:
    _key, _ = await add(world)
    secret, _ = await enrol(world, DAVE, world.code(world.seed))
    await add(world, DAVE, world.code(secret))
    alice = Caller("alice", 0, "alice", ("PAM Administrator",))
    await refused(
        Code.DENIED, "their own second factor", vouching.unenrol(world, alice, Unenrol("alice", "passkeys"))
    )
    await refused(Code.DENIED, "nobody vouches", vouching.recovery_code(world, alice, Person("alice")))
    done = await vouching.unenrol(world, ROOT, Unenrol("dave", "passkeys"))
    assert done == {"user": "dave", "keys": 0, "passkeys": 1, "totp": False, "recovery": 0}
    assert await world.access.verify_totp("dave", world.code(secret))
    done = await vouching.unenrol(world, ROOT, Unenrol("alice"))
    assert (done["passkeys"], done["recovery"]) == (1, 10)
    said = await vouching.sign_in(world, CONSOLE, SignIn("alice", "", ADDRESS, BROWSER, ORIGIN))
    assert said == {"why": "no one-time code"}
    assert world.actions()[-2:] == ["passkeys-removed", "unenrolled"]
    assert [notice.people for notice, _ in world.notices][-2:] == [("dave",), ("alice",)]
    assert COMMANDS["sign-in-by-key"].permission is Permission.ACT


async def test_a_key_that_is_taken_away_while_it_answers_signs_nobody_in(world: World) -> None:
    key, _ = await add(world)
    key.count = 2
    said = await vouching.sign_in(world, CONSOLE, SignIn("alice", "", ADDRESS, BROWSER, ORIGIN))
    answer = key.show(challenge_of(said["options"]), ORIGIN, PLACE)
    await vouching.unenrol(world, ROOT, Unenrol("alice", "passkeys"))
    done = await vouching.sign_in_by_key(world, CONSOLE, KeySignIn(BROWSER, answer, ADDRESS))
    assert done == {"user": "", "why": "security key: it is no key of theirs"}


async def test_who_left_the_configuration_is_not_signed_in_by_a_key(world: World) -> None:
    key, _ = await add(world)
    key.count = 0
    said = await vouching.sign_in(world, CONSOLE, SignIn("alice", "", ADDRESS, BROWSER, ORIGIN))
    users = {name: user for name, user in world.configured.users.items() if name != "alice"}
    world.configured = msgspec.structs.replace(world.configured, users=users)
    world.settle()
    key.count = 2
    answer = key.show(challenge_of(said["options"]), ORIGIN, PLACE)
    done = await vouching.sign_in_by_key(world, CONSOLE, KeySignIn(BROWSER, answer, ADDRESS))
    assert done["why"] == "needs more factors"


def test_what_is_asked_for_names_a_page_and_nothing_more() -> None:
    for arguments in (
        {"origin": "http://console.example"},
        {"origin": "https://x y"},
        {"origin": "https://x", "user": "dave"},
        {},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(arguments, Ask)


async def test_a_key_answers_for_whoever_is_asked_and_for_nobody_else(world: World) -> None:
    key, _ = await add(world)
    key.count = 2
    answer = await signed(world, ALICE, key)
    with pytest.raises(ControlError, match="that security key"):
        await proving.prove(world, DAVE, Again(PASSWORD, passkey=answer))
    assert await proving.prove(world, ALICE, Again(PASSWORD, passkey=answer))
