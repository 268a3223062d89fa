"""Who may see what, at a running daemon and console: every address and every command, tried by everybody at random.

The model of `tests.access_model` has a word on each attempt, and the ledger has each look that was let, and no other.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage
import pytest

from proxyd.errors import FormatError
from proxyd.recorder.replay import Recording
from tests.access_model import DAY, PEOPLE, SIGHTS
from tests.access_table import COMMANDS
from tests.e2e.access_lab import LONG, AccessLab
from tests.e2e.access_web import CALLERS, Attempts, drawn
from tests.peers import eventually
from tests.peers.browser import Socket
from tests.peers.console import Answer
from tests.peers.memory import holds, scalar

pytestmark = pytest.mark.timeout(300)

SHORT = 1_500
WHOLE = 100_000
STARTS = (-3600.0, -90.0, -30.0, 0.0, 0.0, 0.0, 2.0, 600.0)
LASTS = (-5.0, 0.0, 1.0, 3.0, 60.0, 60.0, 600.0, 600.0, 30 * DAY, 31 * DAY)
RECONFIGURED = 250  # attempts between two changes of the configuration, about
VERDICTS = (*("approve",) * 6, "deny", "revoke")
DECIDERS = ("root", *("alice", "carl", "dora") * 4)
RARELY = 0.05
CLOCK_S = 0.5  # between a decision and the ledger's entry of it
LIVING = ("alice", "bob")  # whose sessions live


@pytest.fixture(scope="module")
def standing_access(shared: Path) -> Iterator[AccessLab]:
    with AccessLab(shared / "access").running() as lab:
        yield lab


@pytest.fixture
def access(standing_access: AccessLab) -> AccessLab:
    """The lab all tests here share, handed on with no request open."""
    standing_access.clear()
    return standing_access


def written(at: float) -> str:
    """A moment as a form has it, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def ask(access: AccessLab, who: str, session: str, lasts: float = 600.0, **fields: str) -> Answer:
    """Fill in the justification screen."""
    form = {"justification": "the pump stopped", "reason": "incident", "code": "CHG-1234"}
    form |= {"starts": "", "ends": written(time.time() + lasts)} | fields
    return access.browser(who).post(f"/sessions/{session}/request", form)


def newest(access: AccessLab, who: str) -> dict[str, Any]:
    """Their newest request, as those who decide read it."""
    listed: list[dict[str, Any]] = access.client("root").call("requests", user=who, limit=1)["requests"]
    return listed[0]


def decide(access: AccessLab, who: str, verdict: str, request: str) -> Answer:
    """Decide by the button on the list of requests."""
    return access.browser(who).post(f"/requests/{request}/{verdict}", {"comment": "so be it"})


def granted(access: AccessLab, who: str, session: str, lasts: float = 600.0) -> str:
    """Have somebody ask for a session and carl approve it; gives the request."""
    assert ask(access, who, session, lasts).status == 303
    request = newest(access, who)["id"]
    assert decide(access, "carl", "approve", request).status == 303
    return str(request)


def reads(access: AccessLab, who: str, number: int) -> int:
    """Ask for a piece of the long recording."""
    return access.browser(who).get(f"/sessions/{LONG}/recording/pieces/{number}").status


def views(access: AccessLab, session: str) -> list[dict[str, Any]]:
    """Who saw a session, as the daemon tells."""
    listed: list[dict[str, Any]] = access.client("root").call("views", session=session)["views"]
    return listed


@pytest.mark.mission("M9")
def test_a_request_by_the_form_needs_reason_code_window_and_two_others(access: AccessLab) -> None:
    access.review(
        approval=True, approvers=2, reasons=["incident", "audit"], code=r"CHG-\d{4}", longest_days=2
    )
    page = access.browser("ann").get(f"/sessions/{LONG}/request").text
    assert "<option >incident</option>" in page
    for wrong, says in (
        ({"reason": "curiosity"}, "The reason is one of: incident, audit"),
        ({"reason": ""}, "The reason is one of"),
        ({"code": "CHG-12"}, "A request needs a governance code of the form"),
        ({"code": ""}, "A request needs a governance code"),
        ({"justification": ""}, "justification"),
        ({"ends": ""}, "Say when access ends"),
        ({"ends": written(time.time() - 60)}, "Access has to end after it starts"),
        ({"ends": written(time.time() + 3 * DAY)}, "Access is given for 2 days at most"),
        ({"starts": written(time.time() - 3600)}, "Access can&#39;t start in the past"),
    ):
        answer = ask(access, "ann", LONG, **wrong)
        assert (answer.status, says in answer.text) == (400, True), (wrong, answer.text)
    assert not access.client("root").call("requests", user="ann")["requests"]

    assert ask(access, "ann", LONG).status == 303
    request = newest(access, "ann")
    assert (request["reason"], request["code"], request["status"]) == ("incident", "CHG-1234", "pending")
    own = decide(access, "ann", "approve", request["id"])
    assert own.status == 403  # an auditor decides on nothing
    for who, status, says in (("carl", 303, ""), ("carl", 409, "somebody else has to, too")):
        answer = decide(access, who, "approve", request["id"])
        assert (answer.status, says in answer.text) == (status, True), answer.text
        assert newest(access, "ann")["status"] == "pending"
        assert reads(access, "ann", 0) == 403
    assert decide(access, "dora", "approve", request["id"]).status == 303
    assert newest(access, "ann")["status"] == "approved"
    assert (reads(access, "ann", 0), reads(access, "bob", 0), reads(access, "carl", 0)) == (200, 403, 403)
    assert "approved" in access.browser("ann").get("/requests").text

    assert ask(access, "carl", LONG, reason="audit").status == 303
    answer = decide(access, "carl", "approve", newest(access, "carl")["id"])
    assert (answer.status, "Nobody decides on their own request" in answer.text) == (409, True)
    assert decide(access, "alice", "deny", newest(access, "carl")["id"]).status == 303
    assert newest(access, "carl")["status"] == "denied"


@pytest.mark.mission("M9", "M12")
def test_what_is_revoked_in_the_middle_of_a_replay_goes_no_further(access: AccessLab) -> None:
    access.review(approval=True)
    request = granted(access, "bob", LONG)
    assert (reads(access, "bob", 0), reads(access, "bob", 1)) == (200, 200)
    before = views(access, LONG)
    assert decide(access, "dora", "revoke", request).status == 303
    assert [reads(access, "bob", number) for number in (2, 1, 0)] == [403] * 3
    assert access.told("bob", "read", session=LONG, kind="replay") is None
    assert views(access, LONG) == before
    assert {one["request"] for one in before[-2:]} == {request}


@pytest.mark.mission("M9", "M12")
def test_a_window_that_ends_in_the_middle_of_a_replay_ends_it(access: AccessLab) -> None:
    access.review(approval=True)
    granted(access, "dora", LONG, lasts=4)
    ends = newest(access, "dora")["ends_at"]
    assert reads(access, "dora", 0) == 200
    eventually("the window has ended", lambda: reads(access, "dora", 1) == 403, within_s=30)
    assert time.time() >= ends
    assert newest(access, "dora")["status"] == "expired"
    assert max(one["at"] for one in views(access, LONG)) < ends + CLOCK_S
    assert "expired" in access.browser("dora").get("/requests").text


@pytest.mark.mission("M2", "M9")
def test_a_live_view_ends_with_the_leave_to_see_it(access: AccessLab) -> None:
    access.review(approval=True)
    session = access.hold("alice")
    held = access.held[session]
    path = f"/sessions/{session}/live/stream"
    request = granted(access, "ann", session)
    with access.browser("ann").socket(path) as socket:
        held.say("while they may")
        _until(socket, b"while they may")
        assert decide(access, "carl", "revoke", request).status == 303
        held.say("after that")
        assert b"after that" not in _rest(socket)
        assert (socket.code, "is revoked" in socket.reason) == (4403, True), socket.reason
    granted(access, "ann", session, lasts=4)
    ends = newest(access, "ann")["ends_at"]
    with access.browser("ann").socket(path) as socket:
        _rest(socket)  # nobody types: the silent view is ended too
        assert (socket.code, time.time() >= ends) == (4403, True)
    with access.browser("ann").socket(path) as socket:
        assert (_rest(socket), socket.code) == (b"", 4403)
    seen = views(access, session)
    assert [one["kind"] for one in seen] == ["live", "live"]
    assert seen[0]["request"] == request
    access.end(session)


def _until(socket: Socket, text: bytes) -> None:
    shown = b""
    while text not in shown:
        message = socket.receive()
        assert message is not None, (shown, socket.code)
        shown += _out(message)


def _rest(socket: Socket) -> bytes:
    shown = b""
    while (message := socket.receive()) is not None:
        shown += _out(message)
    return shown


def _out(message: dict[str, Any]) -> bytes:
    return bytes(message["out"][1]) if "out" in message else b""


@pytest.mark.mission("M6", "M9", "M16")
def test_the_daemon_alone_opens_no_recording(access: AccessLab) -> None:
    """It has served live views and pieces by now: the key that opens them has never been in its memory."""
    access.review()
    assert reads(access, "ann", 0) == 200
    identity = access.proxyd.home / access.proxyd.settings["recording"]["identity"]
    (secret,) = re.findall(rb"AGE-SECRET-KEY-1[0-9A-Z]+", identity.read_bytes())
    public = access.proxyd.settings["recording"]["recipients"][0].encode()
    assert holds(access.proxyd.pid, public)  # what it has is found
    for needle in (secret, secret.lower(), scalar(secret.decode())):
        assert not holds(access.proxyd.pid, needle)
    answer = access.client("ann").call("read", session=LONG, kind="replay")
    other = access.directory / "other"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    other.chmod(0o600)
    with pytest.raises(FormatError, match="no identity given here opens this recording"):
        next(iter(Recording.open(Path(answer["path"]), other).records()))
    assert next(iter(Recording.open(Path(answer["path"]), identity).records())).body["user"] == "zoe"


def place(trial: Attempts, chance: random.Random) -> tuple[str, str]:
    """Choose who tries to see which session: anybody any, or who has asked what they have asked for."""
    asked = [one for one in trial.model.requests if one.session in trial.model.users]
    given = [one for one in asked if one.status(time.time()) == "approved"]
    if (some := given if chance.random() < 0.5 else asked) and chance.random() < 0.7:
        one = chance.choice(some)
        return one.person, one.session
    return chance.choice(CALLERS), chance.choice(list(trial.model.users))


def attempt(trial: Attempts, chance: random.Random) -> None:
    """Make one attempt, of any kind."""
    model, pick = trial.model, chance.choice
    who, session = place(trial, chance)
    user = who if who in PEOPLE else "root"
    match chance.randrange(24):
        case 0 if chance.random() < 0.5:
            trial.audit(pick(CALLERS), session, chance.sample(PEOPLE, pick((0, 0, 1, 3))))
        case 1 | 2 | 3:
            trial.ask(pick((*CALLERS, "root")), session, pick(STARTS), pick(LASTS))
        case 4 | 5 | 6 | 7 if model.requests:
            waiting = [one for one in model.requests if not one.over and len(one.approved) < one.needed]
            trial.decide(pick((*CALLERS, *DECIDERS)), pick((waiting or model.requests)[-6:]), pick(VERDICTS))
        case 8:
            pick((trial.block, trial.message, trial.hold))(pick(CALLERS), session)
            trial.say(who, session)
        case 9:
            trial.search(pick((*CALLERS, "root")))
        case 10 | 11:
            trial.watch(who, session)
        case 12 | 13 | 14:
            trial.read(user, session, pick(SIGHTS), pick((0.0, 5.5)), pick((0.0, 1.0, 60.0)))
        case 15 if chance.random() < 0.3:
            trial.download(pick((*CALLERS, "ann", "ann", "root")))
        case 15:
            trial.command(pick((*PEOPLE, "root")), pick(list(COMMANDS)), session)
        case 16 if chance.random() < RARELY:
            trial.drop(pick(CALLERS), session)
        case 17 if chance.random() < RARELY:
            trial.sign_out(pick(PEOPLE))
        case _:
            trial.get(who, pick(drawn()), session)


def everything(access: AccessLab, count: int, seed: int) -> Attempts:
    """Make so many attempts."""
    chance = random.Random(seed)
    pick = chance.choice
    trial = Attempts(access, chance)
    with closing(trial):
        for number in range(count):
            if number % RECONFIGURED == 0:
                trial.start_over(approval=chance.random() < 0.7, live=pick((True, True, False)),
                                 download=pick((True, True, False)), approvers=pick((1, 1, 2)))  # fmt: skip
            for user in LIVING:
                if not any(access.model.users[one] == user for one in access.model.live):
                    access.hold(user)
            attempt(trial, chance)
            trial.settle()
        trial.evidence()
    said = {**trial.count, **{f"saw {kind}": number for kind, number in sorted(trial.sights.items())}}
    print(f"{count} attempts: {said}, {sum(trial.leaving.values())} live views; all in the ledger")
    return trial


@pytest.mark.mission("M2", "M3", "M6", "M8", "M9", "M13")
def test_nobody_sees_by_http_or_socket_what_the_rules_do_not_let_them(access: AccessLab) -> None:
    trial = everything(access, SHORT, seed=1)
    assert {"replay", "log"} <= set(trial.sights)
    assert trial.leaving
    assert trial.count["refused"] > trial.count["let"] > SHORT / 20
    assert trial.count["forged"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.mission("M2", "M3", "M6", "M8", "M9", "M13")
def test_nobody_sees_by_http_or_socket_in_100_000_attempts(access: AccessLab) -> None:
    trial = everything(access, WHOLE, seed=20261122)
    assert set(trial.sights) == set(SIGHTS)
    assert trial.count["views cut short"]
