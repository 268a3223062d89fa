"""What users set up for themselves: proved again, counted at once, told to them, and nothing a stranger could use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyotp
import pytest

from proxyd.access import MAX_WRONG_CODES
from proxyd.config import key_data
from proxyd.control import owning, proving, vouching
from proxyd.control.client import Code, ControlError
from proxyd.control.commands import COMMANDS
from proxyd.control.owning import Confirm, Desktop, KeyAdd, KeyRemove
from proxyd.control.permissions import Caller, Permission
from proxyd.control.proving import Again
from proxyd.control.vouching import Person, SignIn, Unenrol
from proxyd.enrolled import Enrolled, fingerprint
from proxyd.errors import Denied
from proxyd.fronts import Front
from tests.unit.control.own_world import (
    ADDRESS,
    ALICE,
    CONSOLE,
    DAVE,
    HASH,
    KAY,
    LINE,
    PASSWORD,
    ROOT,
    World,
    caller,
    enrol,
    made,
    new_key,
    refused,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made(tmp_path) as world:
        yield world


async def test_what_one_may_reach_is_what_the_rules_say(world: World) -> None:
    answer = await owning.access(world, ALICE, None)
    assert [(row["target"], row["login"]) for row in answer["targets"]] == [("web1", "root"), ("desk", "svc")]
    assert answer["targets"][0]["ways"][0] == {"name": "Shell", "command": "ssh alice+root+web1@proxy"}
    assert answer["fronts"]["ssh"]["fingerprints"] == [fingerprint(key_data(LINE))]
    assert answer["totp"] == {"has": False, "own": False, "since": None}
    assert HASH not in str(answer)
    elsewhere = Caller("dave", 0, "dave", (), address="198.51.100.1")
    assert (await owning.access(world, elsewhere, None))["targets"] == []
    assert len((await owning.access(world, DAVE, None))["targets"]) == 2
    assert (await owning.access(world, caller("nora"), None))["targets"] == []


async def test_a_listener_that_leads_elsewhere_shows_no_other_target(world: World) -> None:
    world.fronts["rdp"] = Front("rdp", "proxy", 3389, bound="other")
    answer = await owning.access(world, ALICE, None)
    assert [row["target"] for row in answer["targets"]] == ["web1"]


async def test_a_key_logs_in_at_once_and_no_longer_once_it_is_removed(world: World) -> None:
    line = new_key()
    assert not world.access.key_allowed("alice", key_data(line))
    mark = (await owning.key_add(world, ALICE, KeyAdd(PASSWORD, "", line)))["fingerprint"]
    assert world.access.key_allowed("alice", key_data(line))
    assert not world.access.key_allowed("dave", key_data(line))
    world.access.key_used("alice", key_data(line))
    (shown,) = (await owning.access(world, ALICE, None))["keys"]
    assert (shown["fingerprint"], shown["own"], shown["counts"], shown["used_at"]) == (
        mark,
        True,
        True,
        world.now,
    )
    await refused(Code.REFUSED, "already", owning.key_add(world, ALICE, KeyAdd(PASSWORD, "", line)))
    await owning.key_remove(world, ALICE, KeyRemove(PASSWORD, "", mark))
    assert not world.access.key_allowed("alice", key_data(line))
    await refused(
        Code.NOT_FOUND, "no such key", owning.key_remove(world, ALICE, KeyRemove(PASSWORD, "", mark))
    )
    assert world.actions() == ["key-added", "key-removed"]


async def test_a_change_is_told_to_its_user_and_never_with_a_secret(world: World) -> None:
    line = new_key()
    await owning.key_add(world, ALICE, KeyAdd(PASSWORD, "", line))
    _, codes = await enrol(world)
    await proving.second(world, ALICE, "alice", codes[0])
    told = [notice for notice, _ in world.notices]
    assert [notice.people for notice in told] == [("alice",)] * 3
    assert [notice.details["source"] for notice in told] == [ADDRESS] * 3
    assert len({again for _, again in world.notices}) == 3
    own = world.enrolled.of("alice")
    everything = str(told) + str([entry.fields for entry in world.ledger.entries()])
    for secret in (PASSWORD, own.totp, *codes, *own.recovery, key_data(line).hex()):
        assert secret not in everything
    assert [entry.fields["who"] for entry in world.ledger.entries("credential")] == ["alice"] * 3


async def test_nothing_changes_without_the_password_and_wrong_ones_are_counted(world: World) -> None:
    for what in (
        lambda: owning.key_add(world, ALICE, KeyAdd("wrong", "", new_key())),
        lambda: owning.totp_begin(world, ALICE, Again("wrong")),
        lambda: owning.desktop(world, ALICE, Desktop("wrong", "", "desk", "svc")),
    ):
        await refused(Code.DENIED, "not your password", what())
    assert world.enrolled.of("alice") == Enrolled(world.enrolled._path).of("alice")
    assert not world.actions()
    assert len(world.actions("credential-refused")) == 3
    for _ in range(MAX_WRONG_CODES):
        await refused(Code.DENIED, "not your password", proving.prove(world, ALICE, Again("wrong")))
    await refused(Code.DENIED, "not your password", proving.prove(world, ALICE, Again(PASSWORD)))
    assert await world.access.verify_password("alice", PASSWORD)  # a login is not held off by it
    world.now += 301
    assert await proving.prove(world, ALICE, Again(PASSWORD)) == {"password"}


async def test_who_has_a_second_factor_shows_it_for_every_change(world: World) -> None:
    for code in ("", "000000", "not a code"):
        await refused(
            Code.DENIED, "that code", owning.key_add(world, DAVE, KeyAdd(PASSWORD, code, new_key()))
        )
    good = world.code(world.seed)
    assert await owning.key_add(world, DAVE, KeyAdd(PASSWORD, good, new_key()))
    await refused(Code.DENIED, "that code", owning.key_add(world, DAVE, KeyAdd(PASSWORD, good, new_key())))


async def test_a_device_counts_once_its_first_code_is_there_and_is_replaced_by_the_next(world: World) -> None:
    begun = await owning.totp_begin(world, ALICE, Again(PASSWORD))
    assert f"secret={begun['secret']}" in begun["uri"]
    assert world.access.user("alice").totp is None
    await refused(
        Code.DENIED, "not what the new device", owning.totp_confirm(world, ALICE, Confirm("000000"))
    )
    await refused(Code.REFUSED, "begin again", owning.totp_confirm(world, DAVE, Confirm("000000")))
    code = world.code(begun["secret"])
    assert len((await owning.totp_confirm(world, ALICE, Confirm(code)))["codes"]) == 10
    assert not await world.access.verify_totp("alice", code)  # what set it up is used up
    assert await world.access.verify_totp("alice", world.code(begun["secret"]))
    assert world.access.missing("alice", frozenset({"password"})) == {"totp"}
    assert world.config.users["alice"].totp
    second, _ = await enrol(world, code=world.code(begun["secret"]))
    assert not await world.access.verify_totp("alice", world.code(begun["secret"]))
    assert await world.access.verify_totp("alice", world.code(second))


async def test_a_new_device_may_show_its_code_in_the_step_the_old_ones_was_used_in(world: World) -> None:
    secret = (await owning.totp_begin(world, DAVE, Again(PASSWORD, world.code(world.seed))))["secret"]
    now = pyotp.TOTP(secret).at(int(world.now))
    assert await owning.totp_confirm(world, DAVE, Confirm(now))
    assert not await world.access.verify_totp("dave", now)
    assert not await world.access.verify_totp(
        "dave", world.code(world.seed)
    )  # the configuration's counts no more


async def test_a_secret_that_was_not_confirmed_in_time_is_forgotten(world: World) -> None:
    secret = (await owning.totp_begin(world, ALICE, Again(PASSWORD)))["secret"]
    world.now += owning.PENDING_S
    await refused(Code.REFUSED, "begin again", owning.totp_confirm(world, ALICE, Confirm(world.code(secret))))
    for number in range(owning.PENDING_MOST + 5):
        world.pending.put(f"user{number}", "s")
    assert len(world.pending._of) == owning.PENDING_MOST


@pytest.mark.mission("M2")
async def test_a_code_used_at_the_console_is_used_everywhere_and_the_other_way_round(world: World) -> None:
    code = world.code(world.seed)
    assert await vouching.sign_in(world, CONSOLE, SignIn("dave", code, ADDRESS)) == {"why": ""}
    assert not await world.access.verify_totp("dave", code)
    code = world.code(world.seed)
    assert await world.access.verify_totp("dave", code)
    assert await vouching.sign_in(world, CONSOLE, SignIn("dave", code, ADDRESS)) == {"why": "one-time code"}


@pytest.mark.parametrize(
    ("user", "address", "why"),
    [
        ("alice", ADDRESS, "no one-time code"),
        ("dave", ADDRESS, "no one-time code"),
        ("kay", ADDRESS, "no one-time code"),
    ],
)
async def test_a_password_alone_signs_nobody_in(world: World, user: str, address: str, why: str) -> None:
    assert await vouching.sign_in(world, CONSOLE, SignIn(user, "", address)) == {"why": why}


async def test_signing_in_asks_where_from_and_for_every_factor(world: World) -> None:
    elsewhere = await vouching.sign_in(world, CONSOLE, SignIn("dave", world.code(world.seed), "198.51.100.1"))
    assert elsewhere == {"why": "address"}
    code = (await vouching.recovery_code(world, ROOT, Person("kay")))["code"]
    assert await vouching.sign_in(world, CONSOLE, SignIn("kay", code, ADDRESS)) == {
        "why": "needs more factors"
    }


async def test_a_recovery_code_of_an_operator_lets_in_who_has_no_device_once(world: World) -> None:
    code = (await vouching.recovery_code(world, ROOT, Person("alice")))["code"]
    assert await vouching.sign_in(world, CONSOLE, SignIn("alice", code.upper(), ADDRESS)) == {"why": ""}
    assert await vouching.sign_in(world, CONSOLE, SignIn("alice", code, ADDRESS)) == {"why": "one-time code"}
    assert world.actions() == ["recovery-given", "recovery-used"]
    assert not await world.access.verify_totp("alice", code)  # it is for the console alone


async def test_nobody_vouches_for_their_own_second_factor(world: World) -> None:
    dave = Caller("dave", 0, "dave", ("PAM Administrator",))
    await refused(Code.DENIED, "nobody vouches", vouching.recovery_code(world, dave, Person("dave")))
    kay = Caller("kay", 0, "kay", ("PAM Administrator",))
    await refused(Code.DENIED, "nobody vouches", vouching.recovery_code(world, kay, Person("kay")))
    await refused(Code.NOT_FOUND, "no user", vouching.recovery_code(world, ROOT, Person("mallory")))
    assert COMMANDS["recovery-code"].permission is COMMANDS["unenrol"].permission is Permission.ISSUE
    assert COMMANDS["sign-in"].permission is Permission.ACT
    for _ in range(20):
        await vouching.recovery_code(world, ROOT, Person("dave"))
    await refused(Code.REFUSED, "20 unused", vouching.recovery_code(world, ROOT, Person("dave")))


async def test_unenrolling_leaves_what_the_configuration_gives(world: World) -> None:
    secret, _ = await enrol(world, DAVE, world.code(world.seed))
    own = Caller("dave", 0, "dave", ("PAM Administrator",))
    await refused(Code.DENIED, "their own second factor", vouching.unenrol(world, own, Unenrol("dave")))
    answer = await vouching.unenrol(world, ROOT, Unenrol("dave"))
    assert answer == {"user": "dave", "keys": 0, "passkeys": 0, "totp": True, "recovery": 10}
    assert not await world.access.verify_totp("dave", world.code(secret))
    assert await world.access.verify_totp("dave", world.code(world.seed))


async def test_new_recovery_codes_void_the_old_ones(world: World) -> None:
    await refused(Code.REFUSED, "set one up first", owning.recovery(world, ALICE, Again(PASSWORD)))
    secret, old = await enrol(world)
    new = (await owning.recovery(world, ALICE, Again(PASSWORD, world.code(secret))))["codes"]
    assert not await proving.second(world, ALICE, "alice", old[0])
    assert await proving.second(world, ALICE, "alice", new[0])


async def test_a_desktop_opens_once_with_a_token_of_ones_own(world: World) -> None:
    answer = await owning.desktop(world, DAVE, Desktop(PASSWORD, world.code(world.seed), "desk", "svc"))
    assert (answer["username"], answer["address"]) == ("dave%svc%desk", "127.0.0.1:3389")
    token = world.tokens.find("dave", answer["token"], time.monotonic())
    assert (token.target, token.issuer, token.once) == ("desk", "dave", True)
    (entry,) = world.ledger.entries("token")
    assert entry.fields["once"] is True
    assert answer["token"] not in str(entry.fields)
    with world.tokens.opening(token, time.monotonic):
        assert world.tokens.find("dave", answer["token"], time.monotonic()) is None
        with pytest.raises(Denied, match="used already"), world.tokens.opening(token, time.monotonic):
            pass
    assert world.tokens.find("dave", answer["token"], time.monotonic()) is None


async def test_a_token_takes_all_factors_of_a_login_and_a_grant(world: World) -> None:
    await refused(
        Code.REFUSED, "more than a password", owning.desktop(world, KAY, Desktop(PASSWORD, "", "desk", "svc"))
    )
    with pytest.raises(Denied, match="You may not reach"):
        await owning.desktop(world, ALICE, Desktop(PASSWORD, "", "else", "root"))
    assert not list(world.ledger.entries("token"))


async def test_what_the_configuration_switches_off_is_off_and_a_second_factor_stays(world: World) -> None:
    line = new_key()
    await owning.key_add(world, ALICE, KeyAdd(PASSWORD, "", line))
    secret, _ = await enrol(world)
    world.allow()
    again = Again(PASSWORD, world.code(secret))
    for waiting in (
        owning.key_add(world, ALICE, KeyAdd(again.password, again.code, new_key())),
        owning.totp_begin(world, ALICE, again),
        owning.recovery(world, ALICE, again),
        owning.desktop(world, ALICE, Desktop(again.password, again.code, "desk", "svc")),
    ):
        await refused(Code.REFUSED, "here", waiting)
    assert not world.access.key_allowed("alice", key_data(line))
    assert world.access.missing("alice", frozenset({"password"})) == {"totp"}
    (shown,) = (await owning.access(world, ALICE, None))["keys"]
    assert (shown["own"], shown["counts"]) == (True, False)


async def test_who_has_nothing_to_show_changes_nothing(world: World) -> None:
    await refused(
        Code.REFUSED, "neither a password", owning.key_add(world, caller("nora"), KeyAdd("", "", new_key()))
    )
    with pytest.raises(ControlError, match=r"users of the proxy.*root's entry"):
        ROOT.require(Permission.OWN)


async def test_a_key_that_is_none_is_refused_before_anything_is_asked(world: World) -> None:
    await refused(
        Code.USAGE, "private key", owning.key_add(world, ALICE, KeyAdd("", "", "-----BEGIN PRIVATE KEY-----"))
    )
    assert not list(world.ledger.entries())


def test_no_repr_shows_what_was_typed() -> None:
    for one in (Again("s3cret", "123456"), KeyAdd("s3cret", "123456", "x"), SignIn("alice", "123456")):
        assert "s3cret" not in repr(one)
        assert "123456" not in repr(one)
