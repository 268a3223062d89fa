"""Exports that people ask for in a console: made for them by whoever keeps the identity, theirs alone, begun again, removed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from unit.control.test_exporting import frame, sample
from unit.control.test_recordings import SESSION_ID, recorded

from proxyd.config import Export, Mail, Notify, Review, User
from proxyd.control.client import Client, ControlError, Stream
from proxyd.exports import DAY_S, FULL, MOST, TRIES, Exports
from proxyd.recorder.exported import manifest_of
from proxyd.recorder.forms import Settings, settle
from proxyd.recorder.jobs import Jobs
from tests.peers.process import eventually

pytestmark = [pytest.mark.mission("M13"), pytest.mark.timeout(180)]
__all__ = ["recorded"]
ROLES = {"ann": "PAM Auditor", "bob": "PAM Auditor", "carl": "PAM Administrator", "oli": "PAM Operator"}
FILE = {"sha256": "ab" * 32, "size": 3_000_000, "duration_us": 5}


@pytest.fixture
def people(background: Any, played: Any, recorded: Path) -> Callable[[str], Client]:
    """Give a console's client for one person."""
    played.operate_as("Console", name="web")
    played.config.users = {name: User(name=name, roles=[role]) for name, role in ROLES.items()}
    return lambda name: background.client.acting_for(name, "192.0.2.9") if name else background.client


@pytest.fixture
def makers(people: Any) -> Iterator[Any]:
    """Make a job as the console's processes do; give the stream."""
    open_: list[Stream] = []

    def make(job: str, person: str = "ann", **more: Any) -> Stream:
        stream = people(person).stream("export-resume", job=job, **more)
        open_.append(stream)
        return stream

    yield make
    for stream in open_:
        stream.close()


def asked(people: Any, person: str = "ann", form: str = "webm", **settings: Any) -> dict[str, Any]:
    answer = people(person).call("export-ask", session=SESSION_ID, form=form, settings=settings)
    return dict(answer["export"])


def one(people: Any, job: str, person: str = "ann") -> dict[str, Any]:
    (row,) = people(person).call("exports", job=job)["exports"]
    return dict(row)


def finished(people: Any, makers: Any, played: Any, **file: Any) -> dict[str, Any]:
    """An export that is done, with a file of the size that was signed."""
    row = asked(people)
    path = Path(row["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * (FILE | file)["size"])
    stream = makers(row["id"])
    assert frame(stream)["export"]["path"] == row["path"]
    assert frame(stream)["go"]["session"]["id"] == SESSION_ID
    manifest_of(path).write_bytes(
        people("ann").call("export-sign", job=row["id"], **(FILE | file))["manifest"]
    )
    people("ann").call("export-end", job=row["id"])
    return one(people, row["id"])


def test_what_is_asked_for_waits_for_a_maker_that_acts_for_who_asked(
    people: Any, makers: Any, played: Any
) -> None:
    row = asked(people, keys=True, pause_s=2.0)
    assert (row["state"], row["person"], row["settings"]) == ("queued", "ann", {"keys": True, "pause_s": 2.0})
    assert Path(row["path"]).parent == played.config.export.directory / SESSION_ID
    assert people("").call("export-waiting")["exports"] == [
        {"id": row["id"], "form": "webm", "person": "ann", "address": "192.0.2.9"}
    ]
    with pytest.raises(ControlError, match=r"it takes console\.act"):
        people("carl").call("export-waiting")
    with pytest.raises(ControlError, match="not to be made here"):
        frame(makers(row["id"], "bob"))
    stream = makers(row["id"])
    said = frame(stream)
    assert (said["before"], said["export"]["settings"]) == (0, row["settings"])
    assert frame(stream)["go"]["path"]
    assert people("").call("export-waiting")["exports"] == []
    with pytest.raises(ControlError, match="not to be made here"):
        frame(makers(row["id"]))
    people("ann").call("export-told", job=row["id"], percent=40)
    assert (one(people, row["id"])["state"], one(people, row["id"])["percent"]) == ("running", 40)
    asking, viewing = list(played.ledger.entries())[-2:]
    assert (asking.kind, viewing.kind, viewing.fields["kind"]) == ("export-asked", "view", "export")
    for entry in (asking, viewing):
        assert {"who": "ann", "via": "web", "address": "192.0.2.9"}.items() <= entry.fields.items()


def test_a_maker_that_goes_leaves_its_job_to_the_next_a_few_times(
    people: Any, makers: Any, played: Any
) -> None:
    job = asked(people)["id"]
    before = sample("proxyd_exports_ended_total", result="failed")
    for tries in range(1, TRIES + 1):
        assert one(people, job)["tries"] == tries - 1
        stream = makers(job, afresh=True)
        assert frame(stream)["job"] == job
        assert frame(stream)["go"]
        people("ann").call("export-told", job=job, percent=7)
        stream.close()
        eventually("its job waits again, or has failed", lambda: one(people, job)["state"] != "running")
    assert (one(people, job)["state"], one(people, job)["error"]) == (
        "failed", f"its process ended without a word, {TRIES} times")  # fmt: skip
    assert sample("proxyd_exports_ended_total", result="failed") == before + 1
    other = asked(people)["id"]
    for _ in range(TRIES + 1):  # a console that stops says so, and nothing is counted
        stream = makers(other, afresh=True)
        assert frame(stream)["job"] == other
        assert frame(stream)["go"]
        people("ann").call("export-end", job=other, error="over", again=True)
        assert "end" in frame(stream)
    assert (one(people, other)["state"], one(people, other)["tries"]) == ("queued", 0)


def test_the_next_daemon_goes_on_with_it(people: Any, makers: Any, played: Any, background: Any) -> None:
    row = asked(people)
    stream = makers(row["id"])
    assert frame(stream)["job"] == row["id"]
    assert frame(stream)["go"]
    people("ann").call("export-sign", job=row["id"], **FILE)
    after = Exports(Jobs(played.catalog, "node1"), played.config.export, played.notifier.tell)
    trio.run(after.take_up)
    background.do(lambda: played.__dict__.__setitem__("exports", after))
    trio.run(after.lose)
    assert (one(people, row["id"])["state"], one(people, row["id"])["percent"]) == ("queued", 0)
    next_one = makers(row["id"])
    assert frame(next_one)["job"] == row["id"]
    assert frame(next_one)["go"]
    people("ann").call("export-end", job=row["id"])  # what it had signed at the daemon before counts
    assert (one(people, row["id"])["state"], one(people, row["id"])["size"]) == ("done", FILE["size"])


def test_who_may_see_nothing_any_more_gets_nothing_made(people: Any, makers: Any, played: Any) -> None:
    first, second = asked(people)["id"], asked(people, "bob")["id"]
    del played.config.users["bob"]
    assert [row["id"] for row in people("").call("export-waiting")["exports"]] == [first]
    assert one(people, second, "carl")["error"] == "bob may export nothing any more"
    played.config.review = Review(download=False)
    stream = makers(first)
    assert frame(stream)["job"] == first
    with pytest.raises(ControlError, match="nobody takes copies"):
        frame(stream)
    eventually("it has failed", lambda: one(people, first)["state"] == "failed")
    assert "nobody takes copies" in one(people, first)["error"]
    with pytest.raises(ControlError, match="nobody takes copies"):
        asked(people)
    assert people("ann").call("exports")["ask"] is False


@pytest.mark.parametrize(
    ("form", "settings", "why"),
    [
        ("pyrdp", {}, "of desktops"),
        ("csv", {}, "a table of statements"),
        ("gif", {}, "none of the forms"),
        ("asciicast", {"pause_s": 2}, "is no film"),
        ("webm", {"pause_s": 0.1}, "pause_s"),
        ("webm", {"channel": -1}, "channel"),
        ("webm", {"speed": 17}, "speed"),
        ("webm", {"speed": 0}, "speed"),
        ("asciicast", {"speed": 2}, "neither a speed nor a size"),
        ("jsonl", {"half": True}, "neither a speed nor a size"),
        ("webm", {"size": "half"}, "size"),
    ],
)
def test_what_can_not_be_made_is_not_taken(
    people: Any, form: str, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ControlError, match=why):
        asked(people, form=form, **settings)
    assert people("ann").call("exports")["exports"] == []


def test_forms_are_settled_by_what_a_session_has() -> None:
    assert settle("", "rdp", Settings(keys=True, pause_s=1)) == "webm"
    assert settle("", "postgres", Settings()) == "jsonl"
    for form, protocol, settings in (("mp4", "rdp", Settings(channel=1)), ("pyrdp", "rdp", Settings(keys=True)),
                                     ("csv", "mysql", Settings(keys=True))):  # fmt: skip
        with pytest.raises(Exception, match="channels"):
            settle(form, protocol, settings)


def test_an_operator_who_may_not_and_one_who_is_nobody_ask_in_vain(people: Any, played: Any) -> None:
    with pytest.raises(ControlError, match=r"it takes recordings\.export"):
        asked(people, "oli")
    played.operate_as("System Administrator", name="root")
    with pytest.raises(ControlError, match="exports are made for users of the proxy"):
        asked(people, "")


def test_of_one_person_so_many_wait_and_no_more(people: Any) -> None:
    jobs = [asked(people)["id"] for _ in range(MOST)]
    with pytest.raises(ControlError, match="let some end"):
        asked(people)
    assert asked(people, "bob")["state"] == "queued"
    people("ann").call("export-cancel", job=jobs[0])
    assert asked(people)["state"] == "queued"


def test_recordings_have_the_disk_first(people: Any, makers: Any, played: Any) -> None:
    job = asked(people)["id"]
    stream = makers(job)
    assert frame(stream)["job"] == job
    assert frame(stream)["go"]
    people("ann").call("export-told", job=job, percent=1)
    played.config.recording = SimpleNamespace(reserve_bytes=1 << 60)
    with pytest.raises(ControlError, match="no room for it"):
        people("ann").call("export-told", job=job, percent=2)
    assert (one(people, job)["state"], one(people, job)["error"]) == ("failed", FULL)
    late = asked(people)["id"]
    stream = makers(late)
    assert frame(stream)["job"] == late
    with pytest.raises(ControlError, match="no room for it"):
        frame(stream)


# ---------------------------------------------------------------- whose they are


def test_a_file_is_for_who_asked_and_nobody_else(people: Any, makers: Any, played: Any) -> None:
    row = finished(people, makers, played)
    told = people("ann").call("export-fetch", job=row["id"], first=10, end=20)
    assert told["path"] == row["path"]
    (entry,) = (entry for entry in played.ledger.viewers(SESSION_ID) if entry.fields["kind"] == "download")
    assert {"who": "ann", "address": "192.0.2.9", "export": row["id"], "first_byte": 10, "end_byte": 20}.items() <= entry.fields.items()  # fmt: skip
    assert people("bob").call("exports")["exports"] == []
    with pytest.raises(ControlError, match="made for somebody else"):
        people("bob").call("exports", job=row["id"])
    (seen,) = people("carl").call("exports", session=SESSION_ID)["exports"]
    assert (seen["mine"], seen["person"], seen["about"]) == (False, "ann", "alice on root@db1")
    for other in ("bob", "carl"):
        with pytest.raises(ControlError, match="made for somebody else"):
            people(other).call("export-fetch", job=row["id"])
    assert [entry.fields["who"] for entry in played.ledger.entries("export-refused")] == [
        "bob",
        "bob",
        "carl",
    ]
    with pytest.raises(ControlError, match=r"it takes exports\.others"):
        people("bob").call("export-cancel", job=asked(people)["id"])
    assert people("carl").call("export-cancel", job=asked(people)["id"])["error"] == "cancelled by carl"


def test_each_piece_of_a_download_is_asked_for(people: Any, makers: Any, played: Any) -> None:
    row = finished(people, makers, played)
    ann, bob = people("ann"), people("bob")
    told = ann.call("export-fetch", job=row["id"])
    piece = {"ticket": told["ticket"], "file": "file", "start": 1 << 20, "length": 1 << 20}
    assert ann.call("export-piece", **piece) == {}
    with pytest.raises(ControlError, match="no such range"):
        ann.call("export-piece", **(piece | {"start": FILE["size"] - 5}))
    with pytest.raises(ControlError, match="not by you"):
        bob.call("export-piece", **piece)
    played.reviews.set_auditors(SESSION_ID, ["bob"], "carl")
    with pytest.raises(ControlError, match="none of this session's auditors"):
        ann.call("export-piece", **piece)
    played.reviews.set_auditors(SESSION_ID, [], "carl")
    assert ann.call("export-piece", **piece) == {}
    played.config.review = Review(download=False)
    with pytest.raises(ControlError, match="nobody takes copies"):
        ann.call("export-fetch", job=row["id"])


async def swept(played: Any) -> None:
    await played.exports.sweep()


def test_files_go_when_their_time_has_come_or_their_recording(
    people: Any, makers: Any, played: Any, ctl: Any, background: Any
) -> None:
    row = finished(people, makers, played)
    path = Path(row["path"])
    assert row["goes_at"] == pytest.approx(row["ended_at"] + 30 * DAY_S)
    trio.run(swept, played)
    assert path.exists()
    Jobs(played.catalog, "node1").keep(row["id"], ended_at=time.time() - 31 * DAY_S)
    trio.run(swept, played)
    assert [path.exists(), manifest_of(path).exists()] == [False, False]
    assert one(people, row["id"])["removed_at"] is not None
    with pytest.raises(ControlError, match="was removed"):
        people("ann").call("export-fetch", job=row["id"])
    other = finished(people, makers, played)
    played.exports.reconfigure(Export(directory=played.config.export.directory, keep_days=0))
    assert one(people, other["id"])["goes_at"] is None
    Jobs(played.catalog, "node1").keep(other["id"], ended_at=1.0)
    trio.run(swept, played)
    assert Path(other["path"]).exists()
    played.operate_as("System Administrator")
    ctl("purge", "1a2b", "--reason", "spilled", "--yes")
    trio.run(swept, played)
    assert Jobs(played.catalog, "node1").find(other["id"]).removed_at is not None


def test_nothing_half_made_is_left_of_what_was_cancelled_and_nothing_elsewhere_touched(
    people: Any, makers: Any, played: Any, tmp_path: Path, at_home: Any
) -> None:
    row = asked(people)
    path = Path(row["path"])
    path.parent.mkdir(parents=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(b"half a film")
    stream = makers(row["id"])
    assert frame(stream)["job"] == row["id"]
    assert frame(stream)["go"]
    people("ann").call("export-cancel", job=row["id"])
    assert frame(stream)["cancelled"] == "cancelled by ann"
    assert not part.exists()
    mine = tmp_path / ".x.webm.1"
    mine.write_bytes(b"somebody's own")
    own = at_home(str(tmp_path / "x.webm"))
    own.close()
    played.operate_as("System Administrator")
    eventually("it has failed", lambda: {row["state"] for row in people("").call("exports")["exports"]} == {"cancelled", "failed"})  # fmt: skip
    assert mine.exists()


@pytest.fixture
def at_home(people: Any, background: Any, played: Any) -> Any:
    """Begin a job of an operator's own, to a file of theirs."""

    def begin(path: str) -> Stream:
        played.operate_as("Console", "System Administrator", name="web")
        stream = background.client.stream("export-job", session=SESSION_ID, form="webm", path=path)
        assert frame(stream)["job"]
        assert frame(stream)["go"]
        return stream

    return begin


def test_who_asks_is_told_whether_a_mail_comes(people: Any, played: Any) -> None:
    def told() -> bool:
        return bool(people("ann").call("export-ask", session=SESSION_ID, form="webm")["mail"])

    assert not told()
    played.config.notify = Notify(mail=Mail(server="127.0.0.1:1", sender="proxyd@example.org", tls="off"))
    assert not told()
    played.config.users["ann"] = User(name="ann", roles=["PAM Auditor"], email="ann@example.org")
    assert told()
