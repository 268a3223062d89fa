"""The one decision about who sees a session: permission, auditors, approval, downloads."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from proxyd.governance.permissions import ROLES, Permission
from proxyd.governance.requests import Decision, Request, Verdict
from proxyd.governance.rules import NEEDS, Allowed, Forbidden, Sight, Viewer, decide

NOW = 1000.0


@dataclass(frozen=True)
class Policy:
    approval: bool = False
    live: bool = True
    download: bool = True


ANN = Viewer("ann", "ann", ROLES["PAM Auditor"])
ROOT = Viewer("root", "", ROLES["System Administrator"])
FREE, APPROVED = Policy(), Policy(approval=True)


def request(
    person: str = "ann", *verdicts: Verdict, ends: float = 2000.0, name: str = "r1", starts: float = 0.0
) -> Request:
    decisions = tuple(Decision(f"by{index}", one, 1.0) for index, one in enumerate(verdicts))
    return Request(name, "s", person, "audit", "because", "", starts, ends, 0.0, decisions=decisions)


def granted(person: str = "ann", **fields: float) -> Request:
    return request(person, Verdict.APPROVE, **fields)  # type: ignore[arg-type]


def see(
    viewer: Viewer,
    sight: Sight = Sight.REPLAY,
    policy: Policy = FREE,
    *requests: Request,
    auditors: tuple[str, ...] = (),
) -> Allowed:
    return decide(viewer, sight, auditors=auditors, requests=requests, policy=policy, now=NOW)


@pytest.mark.mission("M2", "M6")
@pytest.mark.parametrize("sight", list(Sight))
def test_every_sight_takes_its_permission_whatever_else_holds(sight: Sight) -> None:
    without = Viewer("ann", "ann", frozenset(Permission) - {NEEDS[sight]})
    with pytest.raises(Forbidden, match=f"it takes {NEEDS[sight]}"):
        see(without, sight, APPROVED, granted(), auditors=("ann",))
    assert see(Viewer("ann", "ann", frozenset({NEEDS[sight]})), sight) == Allowed()


@pytest.mark.mission("M8")
@pytest.mark.parametrize("sight", list(Sight))
def test_who_is_not_among_the_auditors_sees_nothing(sight: Sight) -> None:
    assert see(ANN, sight, auditors=("ann", "bob")) == Allowed()
    for other in (Viewer("eve", "eve", ANN.permissions), ROOT):
        with pytest.raises(Forbidden, match="none of this session's auditors"):
            see(other, sight, auditors=("ann", "bob"))


def test_an_operator_called_like_an_auditor_is_not_one() -> None:
    with pytest.raises(Forbidden):
        see(Viewer("ann", "", ROLES["System Administrator"]), auditors=("ann",))


@pytest.mark.mission("M9")
@pytest.mark.parametrize("sight", list(Sight))
def test_approval_is_for_everyone(sight: Sight) -> None:
    administrator = Viewer("alice", "alice", ROLES["PAM Administrator"])
    with pytest.raises(Forbidden, match="ask for it with proxyctl request"):
        see(administrator, sight, APPROVED)
    with pytest.raises(Forbidden, match="says not which user they are"):
        see(ROOT, sight, APPROVED, granted(""))
    assert see(administrator, sight, APPROVED, granted("alice")) == Allowed(2000.0, "r1")


@pytest.mark.mission("M9")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (request("bob", Verdict.APPROVE), "ask for it"),
        (request("ann"), "r1 is pending"),
        (request("ann", Verdict.DENY), "r1 is denied"),
        (request("ann", Verdict.APPROVE, Verdict.REVOKE), "r1 is revoked"),
        (request("ann", Verdict.APPROVE, ends=NOW), "r1 is expired"),
        (request("ann", Verdict.APPROVE, starts=NOW + 1), "its time has not come"),
    ],
)
def test_what_is_no_grant_lets_nobody_see(given: Request, says: str) -> None:
    with pytest.raises(Forbidden, match=says):
        see(ANN, Sight.REPLAY, APPROVED, given)


def test_of_several_grants_the_longest_counts() -> None:
    grants = (
        granted(ends=1500.0, name="short"),
        granted(ends=1700.0, name="long"),
        granted("bob", ends=1900.0),
    )
    assert see(ANN, Sight.LOG, APPROVED, *grants) == Allowed(1700.0, "long")


def test_live_views_go_without_approval_where_the_configuration_says_so() -> None:
    only_recorded = Policy(approval=True, live=False)
    assert see(ANN, Sight.LIVE, only_recorded) == see(ANN, Sight.PICTURE, only_recorded) == Allowed()
    with pytest.raises(Forbidden):
        see(ANN, Sight.REPLAY, only_recorded)


@pytest.mark.mission("M13")
def test_no_copies_where_downloads_are_off() -> None:
    closed = Policy(download=False)
    for sight in (Sight.EXPORT, Sight.DOWNLOAD):
        with pytest.raises(Forbidden, match=r"review\.download is off"):
            see(ANN, sight, closed)
    assert see(ANN, Sight.REPLAY, closed) == Allowed()
