"""Roles, permissions, and who is at the other end."""

from __future__ import annotations

import os
import pwd
import socket

import pytest
import trio

from proxyd.config import OPERATOR_ROLES, Operator
from proxyd.control.client import Code, ControlError
from proxyd.control.permissions import ROLES, Caller, Permission, identify, peer_of

EVERYTHING = frozenset(Permission)


def test_the_config_knows_the_same_roles() -> None:
    assert set(ROLES) == set(OPERATOR_ROLES)


@pytest.mark.mission("M2", "M6")
@pytest.mark.parametrize("permission", [Permission.WATCH, Permission.REPLAY])
def test_screens_are_for_three_roles(permission: Permission) -> None:
    having = {role for role, permissions in ROLES.items() if permission in permissions}
    assert having == {"PAM Administrator", "PAM Auditor", "System Administrator"}


def test_a_refusal_names_the_permission_and_who_has_it() -> None:
    caller = Caller("bob", 1000, "bob", ("PAM Operator",))
    with pytest.raises(ControlError, match=r"sessions\.watch, which .*PAM Auditor has") as refusal:
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
    found = identify([group, person], 1234567, frozenset({10}), "proxyd.toml")
    assert found == Caller("ann", 1234567, "ann", ("PAM Auditor",))


def test_a_group_stands_for_many_so_the_person_is_named() -> None:
    group = Operator(name="wheel", gid=10, roles=["PAM Operator"])
    me = pwd.getpwuid(os.getuid()).pw_name
    assert identify([group], os.getuid(), frozenset({7, 10}), "proxyd.toml").name == me
    assert identify([group], os.getuid(), frozenset({7, 10}), "proxyd.toml").user == me
    assert identify([group], 1234567, frozenset({10}), "proxyd.toml").name == "wheel:1234567"


def test_an_entry_for_a_uid_does_not_stand_for_its_group() -> None:
    both = Operator(name="ann", uid=1, gid=10, roles=["PAM Auditor"])
    with pytest.raises(ControlError):
        identify([both], 2, frozenset({10}), "proxyd.toml")


def test_a_stranger_is_told_the_key_to_set() -> None:
    with pytest.raises(ControlError) as refusal:
        identify([], 1234567, frozenset(), "/etc/proxyd/proxyd.toml")
    assert "uid 1234567 is no operator" in str(refusal.value)
    assert "[[control.operators]]" in str(refusal.value)
    assert "/etc/proxyd/proxyd.toml" in str(refusal.value)


async def test_the_kernel_says_who_connects() -> None:
    left, right = socket.socketpair()
    with left, right:
        uid, groups = peer_of(trio.socket.from_stdlib_socket(left))
    assert uid == os.getuid()
    assert groups == {os.getgid(), *os.getgroups()}
