"""Roles, permissions, and who is at the other end."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from proxyd.config import OPERATOR_ROLES, Operator, Role, User
from proxyd.control.client import Code, ControlError
from proxyd.control.permissions import ROLES, Caller, Permission, acting_for, identify, peer_of
from proxyd.governance.permissions import CONSOLE


def configured(*operators: Operator, roles: tuple[Role, ...] = (), **users: User) -> Any:
    control = SimpleNamespace(operators=list(operators), roles=list(roles))
    return SimpleNamespace(path=Path("/etc/proxyd/proxyd.toml"), control=control, users=users)


def test_the_config_knows_the_same_roles() -> None:
    assert set(ROLES) == set(OPERATOR_ROLES)


@pytest.mark.mission("M2", "M6")
@pytest.mark.parametrize("permission", [Permission.WATCH, Permission.REPLAY])
def test_screens_are_for_three_roles(permission: Permission) -> None:
    having = {role for role, permissions in ROLES.items() if permission in permissions}
    assert having == {"PAM Administrator", "PAM Auditor", "System Administrator"}


def test_a_refusal_names_the_permission_and_who_has_it() -> None:
    caller = Caller("bob", 1000, "bob", ("PAM Operator",))
    with pytest.raises(ControlError, match=r"sessions\.watch, which .*PAM Auditor .*has") as refusal:
        caller.require(Permission.WATCH)
    assert refusal.value.code is Code.DENIED


def test_roles_add_up_and_unknown_ones_give_nothing() -> None:
    assert Caller("a", 1, "", ("PAM Auditor", "PAM Operator")).permissions == ROLES["PAM Auditor"] | {
        Permission.DROP
    }
    assert Caller("a", 1, "", ("Root",)).permissions == frozenset()


def test_a_uid_goes_before_a_group() -> None:
    group = Operator(name="wheel", gid=10, roles=["PAM Operator"])
    person = Operator(name="ann", uid=1234567, roles=["PAM Auditor"], user="ann")
    found = identify(configured(group, person), 1234567, frozenset({10}))
    assert found == Caller("ann", 1234567, "ann", ("PAM Auditor",))


def test_a_group_stands_for_many_so_the_person_is_named() -> None:
    group = Operator(name="wheel", gid=10, roles=["PAM Operator"])
    me = pwd.getpwuid(os.getuid()).pw_name
    assert identify(configured(group), os.getuid(), frozenset({7, 10})).name == me
    assert identify(configured(group), os.getuid(), frozenset({7, 10})).user == me
    assert identify(configured(group), 1234567, frozenset({10})).name == "wheel:1234567"


def test_an_entry_for_a_uid_does_not_stand_for_its_group() -> None:
    both = Operator(name="ann", uid=1, gid=10, roles=["PAM Auditor"])
    with pytest.raises(ControlError):
        identify(configured(both), 2, frozenset({10}))


def test_a_stranger_is_told_the_key_to_set() -> None:
    with pytest.raises(ControlError) as refusal:
        identify(configured(), 1234567, frozenset())
    assert "uid 1234567 is no operator" in str(refusal.value)
    assert "[[control.operators]]" in str(refusal.value)
    assert "/etc/proxyd/proxyd.toml" in str(refusal.value)


def test_a_role_of_the_configuration_gives_its_permissions_and_no_built_in_one_more() -> None:
    night = Role(name="Night shift", permissions=["sessions.list", "sessions.drop"])
    stolen = Role(name="PAM Operator", permissions=["sessions.watch"])
    ann = Operator(name="ann", uid=1, roles=["Night shift"])
    bob = Operator(name="bob", uid=2, roles=["PAM Operator"])
    config = configured(ann, bob, roles=(night, stolen))
    assert identify(config, 1, frozenset()).permissions == {Permission.LIST, Permission.DROP}
    assert identify(config, 2, frozenset()).permissions == ROLES["PAM Operator"]
    with pytest.raises(ControlError, match=r"sessions\.drop, which Night shift or .* has"):
        Caller("eve", 3, "", (), table=identify(config, 1, frozenset()).table).require(Permission.DROP)


def test_only_the_console_acts_for_others() -> None:
    assert {role for role, permissions in ROLES.items() if Permission.ACT in permissions} == {CONSOLE}
    root = Operator(name="root", uid=0, roles=["System Administrator", "PAM Administrator"])
    config = configured(root, bob=User(name="bob", roles=["PAM Auditor"]))
    with pytest.raises(ControlError, match=r"console\.act, which Console has") as refusal:
        acting_for(config, identify(config, 0, frozenset()), "bob", "")
    assert refusal.value.code is Code.DENIED


def test_who_is_acted_for_has_their_own_roles_and_not_the_consoles() -> None:
    console = Operator(name="web", uid=7, roles=[CONSOLE])
    bob = Operator(name="root", uid=0, roles=["PAM Operator"], user="bob")
    user = User(name="bob", roles=["PAM Auditor", "ops"])
    config = configured(console, bob, bob=user)
    found = acting_for(config, identify(config, 7, frozenset()), "bob", "2001:DB8::1")
    assert (found.name, found.user, found.person, found.via, found.uid) == ("bob", "bob", "bob", "web", 7)
    assert found.roles == ("PAM Auditor", "PAM Operator")
    assert found.permissions == ROLES["PAM Auditor"] | ROLES["PAM Operator"]
    assert found.signature == {"who": "bob", "via": "web", "address": "2001:db8::1"}
    with pytest.raises(ControlError, match=r"console\.act"):  # nobody acts for others through somebody else
        acting_for(config, found, "bob", "")


def test_a_user_without_a_role_may_do_nothing_by_the_console() -> None:
    config = configured(Operator(name="web", uid=7, roles=[CONSOLE]), eve=User(name="eve", roles=["ops"]))
    found = acting_for(config, identify(config, 7, frozenset()), "eve", "")
    assert found.permissions == frozenset()
    with pytest.raises(ControlError, match=r"eve \(no role\) may not"):
        found.require(Permission.LIST)


@pytest.mark.parametrize(
    ("user", "address", "code"),
    [("nobody", "", Code.NOT_FOUND), ("eve", "localhost", Code.FORMAT), ("eve", "1.2.3.4 x", Code.FORMAT)],
)
def test_nobody_acts_for_a_stranger_or_from_nowhere(user: str, address: str, code: Code) -> None:
    config = configured(Operator(name="web", uid=7, roles=[CONSOLE]), eve=User(name="eve"))
    with pytest.raises(ControlError) as refusal:
        acting_for(config, identify(config, 7, frozenset()), user, address)
    assert refusal.value.code is code


async def test_the_kernel_says_who_connects() -> None:
    left, right = socket.socketpair()
    with left, right:
        uid, groups = peer_of(trio.socket.from_stdlib_socket(left))
    assert uid == os.getuid()
    assert groups == {os.getgid(), *os.getgroups()}
