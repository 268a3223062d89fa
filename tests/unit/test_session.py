"""Sessions from permit to seal, with a real recorder and a conduit that notes what it is told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
import trio

from proxyd.access import Access, Permit
from proxyd.admission import Admission
from proxyd.config import Config, load
from proxyd.engine import Core
from proxyd.errors import Denied, Dropped, RecordingFailed, TargetError
from proxyd.gate import RESTORED, REVOKED, Gate, Settled
from proxyd.governance.notices import Event, Notice
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.keys import load_signer
from proxyd.recorder.ledger import Ledger
from proxyd.recorder.record import Kind, Record
from proxyd.recorder.recorder import Recorder
from proxyd.recorder.replay import Recording
from proxyd.session import DISCONNECTED, TIME_OVER, Login, Registry, Session, State, opened
from proxyd.setup import initialise

MORE = """
[users.alice]
password = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQxMjM$RdescudvJCsgt3ub+b3YAWPPpcCNdK/ZH3kdgbXoDX0"
[targets.web1]
address = "127.0.0.1:22"
[targets.web1.accounts.root]
password = "env:NOWHERE"
[[grants]]
users = ["alice"]
targets = ["web1"]
accounts = ["root"]
"""

LOGIN = Login("alice", "192.0.2.7", "publickey")


class NotedConduit:
    """Stands in for an engine's conduit: notes what it is told, settles at once."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.parted: list[str] = []
        self.held: list[bool] = []
        self.mute = False  # its protocol can't tell the user anything

    def notify(self, text: str) -> bool:
        if not self.mute:
            self.told.append(text)
        return not self.mute

    async def settle(self) -> Settled:
        return Settled(7, 3, True)

    def hold(self, held: bool) -> None:
        self.held.append(held)

    def part(self, text: str) -> None:
        self.parted.append(text)


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    made = initialise(tmp_path, ssh_port=0, metrics_port=0)
    with made.config.open("a") as config:
        config.write(MORE)
    return load(made.config)


@asynccontextmanager
async def core_of(settings: Config) -> AsyncIterator[Core]:
    signer = load_signer(settings.recording.signing_key)
    with (
        Catalog(settings.recording.catalog) as catalog,
        Ledger(settings.recording.ledger, signer, "n") as ledger,
    ):
        recorder = Recorder(settings.recording, "n", catalog=catalog, ledger=ledger)
        async with trio.open_nursery() as nursery:
            await nursery.start(recorder.run)
            yield Core(
                settings,
                Access(settings),
                Admission(settings.admission),
                catalog,
                ledger,
                recorder,
                Registry(),
            )
            nursery.cancel_scope.cancel()


def permit_of(core: Core, **changes: object) -> Permit:
    permit = core.access.authorize("alice", "root", "web1", LOGIN.user_ip)
    return replace(permit, **changes)


def records_of(settings: Config, session: Session) -> list[Record]:
    assert settings.recording.identity is not None
    (folder,) = settings.recording.directory.glob(f"*/*/*/{session.id}")
    return list(Recording.open(folder, settings.recording.identity).records())


@pytest.mark.mission("M1", "M10", "M16")
async def test_a_session_is_on_disk_and_listed_before_its_body_runs(settings: Config) -> None:
    async with core_of(settings) as core:
        async with opened(core, LOGIN, permit_of(core), "ssh") as session:
            assert core.registry.list() == [session]
            (folder,) = settings.recording.directory.glob(f"*/*/*/{session.id}")
            assert list(folder.glob("*.pxr"))
            assert core.catalog.session(session.id).state == "live"
        row = core.catalog.session(session.id)
    assert (row.user, row.user_ip, row.target, row.login, row.state) == (
        "alice",
        "192.0.2.7",
        "web1",
        "root",
        "ended",
    )
    first, *_, last = records_of(settings, session)
    assert (first.kind, first.body["user"], first.body["host"]) == (Kind.META, "alice", "127.0.0.1:22")
    assert (last.kind, last.body["reason"]) == (Kind.END, "closed")
    assert core.registry.list() == []


@pytest.mark.mission("M3")
async def test_block_tells_the_user_settles_and_is_recorded(settings: Config) -> None:
    async with core_of(settings) as core, opened(core, LOGIN, permit_of(core), "ssh") as session:
        with pytest.raises(Denied, match="not live"):
            await session.block("bob")
        conduit = NotedConduit()
        session.attach(conduit)
        assert await session.block("bob", "why") == {"passed_bytes": 7, "discarded_bytes": 3, "settled": True}
        assert session.gate.closed
        with pytest.raises(Denied, match="blocked already, by bob"):
            await session.block("eve")
        await session.unblock("bob")
        assert not session.gate.closed
        with pytest.raises(Denied, match="not blocked"):
            await session.unblock("bob")
        assert conduit.told == [REVOKED, RESTORED]
    controls = [record.body for record in records_of(settings, session) if record.kind is Kind.CONTROL]
    assert [(body["action"], body["by"]) for body in controls] == [("block", "bob"), ("unblock", "bob")]


@pytest.mark.mission("M4")
async def test_drop_parts_with_the_sentence_and_seals_with_who_and_why(settings: Config) -> None:
    async with core_of(settings) as core:
        conduit = NotedConduit()
        with pytest.raises(Dropped, match=DISCONNECTED):
            async with opened(core, LOGIN, permit_of(core), "ssh") as session, trio.open_nursery() as nursery:
                session.attach(conduit)
                nursery.start_soon(session.drop, "bob", "lunch")
                await trio.sleep_forever()
        row = core.catalog.session(session.id)
    assert conduit.parted == [DISCONNECTED]
    assert (row.reason, row.by, row.error) == ("dropped", "bob", DISCONNECTED)
    assert session.ended.is_set()
    assert session.state is State.ENDED


@pytest.mark.mission("M17")
async def test_a_message_is_shown_and_on_the_tape_with_who_wrote_it(settings: Config) -> None:
    async with core_of(settings) as core:
        conduit = NotedConduit()
        async with opened(core, LOGIN, permit_of(core), "ssh") as session:
            with pytest.raises(Denied, match="not live"):
                session.message("bob", "too early")
            session.attach(conduit)
            assert session.message("bob", " öffnen\x1b[2J\n\u202e! ") == "öffnen\\x1b[2J\\n\\u202e!"
            with pytest.raises(Denied, match="no text"):
                session.message("bob", " \n ")
            conduit.mute = True
            with pytest.raises(Denied, match="nothing to show"):
                session.message("bob", "unheard")
    assert conduit.told == ["öffnen\\x1b[2J\\n\\u202e!"]
    done = [record.body for record in records_of(settings, session) if record.kind is Kind.CONTROL]
    assert done == [{"action": "message", "by": "bob", "reason": "öffnen\\x1b[2J\\n\\u202e!"}]


@pytest.mark.mission("M3")
async def test_a_blocked_user_is_refused_with_author_and_date(settings: Config) -> None:
    async with core_of(settings) as core:
        core.catalog.block("alice", "web1", "bob", "incident")
        with pytest.raises(
            Denied, match=r"^User has been prevented to start sessions by bob on \d{4}-\d\d-\d\d "
        ):
            async with opened(core, LOGIN, permit_of(core), "ssh"):
                pytest.fail("the session must not open")
        assert core.registry.list() == []
        assert core.recorder.live == {}


async def test_the_first_cause_of_an_end_is_the_one_recorded(settings: Config) -> None:
    async with core_of(settings) as core:
        with pytest.raises(TargetError, match="gone"):
            async with opened(core, LOGIN, permit_of(core), "ssh") as session:
                raise TargetError("web1 is gone")
        row = core.catalog.session(session.id)
        assert (row.reason, row.error) == ("target error", "web1 is gone")

        with pytest.raises(Dropped):
            async with opened(core, LOGIN, permit_of(core), "ssh") as session:
                session.failed(RecordingFailed("The recording failed: the recording storage is full"))
                await session.drop("bob")
        assert core.catalog.session(session.id).reason == "recording failed"


async def test_a_bug_in_the_body_ends_as_failed_and_is_raised(settings: Config) -> None:
    async with core_of(settings) as core:
        with pytest.raises(ZeroDivisionError):
            async with opened(core, LOGIN, permit_of(core), "ssh") as session:
                raise ZeroDivisionError
        assert core.catalog.session(session.id).reason == "failed"


async def test_a_permit_that_expires_ends_the_session(settings: Config) -> None:
    async with core_of(settings) as core:
        conduit = NotedConduit()
        with pytest.raises(Dropped, match=TIME_OVER):
            async with opened(core, LOGIN, permit_of(core, expires=time.time() + 3600), "ssh") as session:
                session.attach(conduit)
                assert 3000 < session.scope.deadline - trio.current_time() <= 3600
                session.scope.deadline = trio.current_time()
                await trio.sleep_forever()
        assert core.catalog.session(session.id).reason == "time over"
        assert conduit.parted == [TIME_OVER]


async def test_findings_are_counted_and_recorded(settings: Config) -> None:
    async with core_of(settings) as core:
        async with opened(core, LOGIN, permit_of(core), "ssh") as session:
            session.finding("weak-algorithm", "medium", "web1 negotiated the weak algorithm hmac-sha1.")
        assert core.catalog.session(session.id).findings == 1
    found = [record.body for record in records_of(settings, session) if record.kind is Kind.FINDING]
    assert found == [
        {
            "code": "weak-algorithm",
            "severity": "medium",
            "text": "web1 negotiated the weak algorithm hmac-sha1.",
        }
    ]


async def test_critical_findings_are_told_and_no_others(settings: Config) -> None:
    told: list[Notice] = []
    async with core_of(settings) as core:
        core.tell = told.append
        async with opened(core, LOGIN, permit_of(core), "ssh") as session:
            session.finding("weak-algorithm", "high", "an old algorithm")
            session.finding("host-key-changed", "critical", "web1 showed another key")
    (notice,) = told
    assert (notice.event, notice.session, notice.people) == (Event.FINDING, session.id, ())
    assert notice.details["finding"] == "web1 showed another key"
    assert session.user in notice.title


async def test_pressure_of_the_tape_holds_the_conduit(settings: Config) -> None:
    async with core_of(settings) as core, opened(core, LOGIN, permit_of(core), "ssh") as session:
        session.pressed(True)  # nobody to hold yet: who comes is told
        conduit = NotedConduit()
        session.attach(conduit)
        session.pressed(False)
        session.pressed(True)
        assert conduit.held == [True, False, True]


async def test_ids_are_found_by_their_beginning_when_it_is_one(settings: Config) -> None:
    async with core_of(settings) as core:
        permit = permit_of(core)
        registry = Registry()
        one, other = Session(LOGIN, permit, "ssh"), Session(LOGIN, permit, "ssh")
        one.id, other.id = "abc1" + "0" * 28, "abc2" + "0" * 28
        registry.add(one)
        registry.add(other)
        assert registry.get("abc1") is one
        assert registry.get(other.id) is other
        assert registry.get("abc") is None
        assert registry.get("") is None
        registry.remove(one)
        assert len(registry) == 1


def test_a_session_can_not_go_back(settings: Config) -> None:
    session = Session(LOGIN, Access(settings).authorize("alice", "root", "web1", "127.0.0.1"), "ssh")
    session.became(State.ENDING)
    with pytest.raises(RuntimeError, match="can't go from ending to live"):
        session.became(State.LIVE)


def test_a_gate_knows_who_shut_it() -> None:
    gate = Gate()
    gate.shut("bob", "incident")
    assert (gate.closed, gate.by, gate.reason) == (True, "bob", "incident")
    gate.open()
    assert (gate.closed, gate.by) == (False, "")


def test_the_identity_made_by_init_opens_what_is_recorded(settings: Config) -> None:
    assert settings.recording.identity is not None
    lines = settings.recording.identity.read_text().splitlines()
    (secret,) = [line for line in lines if line.startswith("AGE-SECRET-KEY-")]
    assert str(pyrage.x25519.Identity.from_str(secret).to_public()) in settings.recording.recipients
