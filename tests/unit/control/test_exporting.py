"""Exports as jobs: their turn, how far they are, their end, the manifest, and the command line about them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from unit.control.test_recordings import SESSION_ID, recorded

from proxyd import exports, metrics
from proxyd.cli_exports import ENTRY
from proxyd.config import Export
from proxyd.control.client import ControlError, Stream
from proxyd.exports import STOPPED, Exports
from proxyd.recorder.jobs import ENDS, NEXT, Jobs, State
from proxyd.recorder.ledger import EXPORTED
from tests.peers.process import eventually

pytestmark = [pytest.mark.mission("M13"), pytest.mark.timeout(180)]
__all__ = ["recorded"]
OTHER = "9" * 32


@pytest.fixture
def at_work(background: Any, played: Any, recorded: Path) -> Iterator[Any]:
    """Begin jobs at the daemon as their workers do; give each stream and its first frame."""
    open_: list[Stream] = []

    def begin(form: str = "webm", path: str = "/x") -> tuple[Stream, dict[str, Any]]:
        stream = background.client.stream("export-job", session=SESSION_ID, form=form, path=path)
        open_.append(stream)
        return stream, frame(stream)

    yield begin
    for stream in open_:
        stream.close()
    _HEARD.clear()


_HEARD: dict[Stream, list[dict[str, Any]]] = {}


def frame(stream: Stream) -> dict[str, Any]:
    """The next frame of a stream."""
    heard = _HEARD.setdefault(stream, [])
    while not heard:
        heard += stream.receive()
    return heard.pop(0)


def listed(background: Any) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in background.client.call("exports")["exports"]}


def state(background: Any, job: str) -> str:
    return str(listed(background)[job]["state"])


def sample(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


# ---------------------------------------------------------------- turns and ends


def test_one_film_is_made_at_a_time_and_text_waits_for_nobody(background: Any, at_work: Any) -> None:
    first, said = at_work()
    assert said["before"] == 0
    assert frame(first)["go"]["session"]["id"] == SESSION_ID
    second, waits = at_work("mp4")
    third, waits_too = at_work("pyrdp")
    assert (waits["before"], waits_too["before"]) == (1, 2)
    text, _ = at_work("jsonl")
    assert frame(text)["go"]["path"]
    assert (state(background, said["job"]), state(background, waits["job"])) == ("running", "queued")
    assert sample("proxyd_exports", state="queued") == 2
    assert sample("proxyd_exports", state="running") == 2
    background.client.call("export-end", job=said["job"], error="the disk is full")
    assert "end" in frame(first)
    assert frame(second)["go"]
    assert listed(background)[said["job"]]["error"] == "the disk is full"
    background.client.call("export-cancel", job=waits["job"])
    assert frame(second)["cancelled"] == "cancelled by root"
    assert frame(third)["go"]


def test_the_number_at_once_follows_a_reload(background: Any, at_work: Any, played: Any) -> None:
    first, _ = at_work()
    assert frame(first)["go"]
    second, waits = at_work()
    assert waits["before"] == 1
    background.do(played.exports.reconfigure, Export(jobs=2))
    assert frame(second)["go"]


def test_a_worker_that_goes_without_a_word_has_failed(background: Any, at_work: Any) -> None:
    stream, said = at_work()
    assert frame(stream)["go"]
    before = sample("proxyd_exports_ended_total", result="failed")
    stream.close()
    eventually("the job has failed", lambda: state(background, said["job"]) == "failed")
    assert "without a word" in listed(background)[said["job"]]["error"]
    assert sample("proxyd_exports_ended_total", result="failed") == before + 1
    next_one, _ = at_work()
    assert frame(next_one)["go"]


def test_only_who_began_a_job_speaks_for_it(background: Any, at_work: Any, played: Any) -> None:
    stream, said = at_work()
    assert frame(stream)["go"]
    job, call = said["job"], background.client.call
    call("export-told", job=job, percent=41)
    assert listed(background)[job]["percent"] == 41
    played.operate_as("PAM Auditor", name="mallory")
    file = {"sha256": "0" * 64, "size": 1, "duration_us": 1}
    for name, more in (("told", {"percent": 99}), ("sign", file), ("end", {})):
        with pytest.raises(ControlError, match="not at work here"):
            call(f"export-{name}", job=job, **more)
    with pytest.raises(ControlError, match=r"it takes exports\.others"):
        call("export-cancel", job=job)
    assert listed(background) == {}
    played.operate_as("PAM Administrator", name="carl")
    assert listed(background)[job]["percent"] == 41
    played.operate_as("PAM Operator")
    with pytest.raises(ControlError, match="it takes recordings"):
        call("export-cancel", job=job)
    with pytest.raises(ControlError, match="it takes recordings"):
        at_work()
    played.operate_as("System Administrator")
    assert state(background, job) == "running"


def test_a_file_is_signed_for_once_and_not_when_its_recording_is_gone(
    background: Any, at_work: Any, played: Any, ctl: Any
) -> None:
    stream, said = at_work()
    assert frame(stream)["go"]
    job, call = said["job"], background.client.call
    with pytest.raises(ControlError, match="no manifest: nothing was made"):
        call("export-end", job=job)
    file = {"sha256": "ab" * 32, "size": 7, "duration_us": 1}
    with pytest.raises(ControlError, match="sha256"):
        call("export-sign", job=job, **(file | {"sha256": "x"}))
    manifest = json.loads(call("export-sign", job=job, **file)["manifest"])
    assert manifest["fields"]["sha256"] == "ab" * 32
    assert manifest["fields"]["chain"] == played.catalog.session(SESSION_ID).chain
    with pytest.raises(ControlError, match="has its manifest already"):
        call("export-sign", job=job, **file)
    call("export-end", job=job)
    assert (listed(background)[job]["state"], listed(background)[job]["size"]) == ("done", 7)
    other, said = at_work()
    assert frame(other)["go"]
    ctl("purge", "1a2b", "--reason", "too much", "--yes")
    with pytest.raises(ControlError, match="purged meanwhile"):
        call("export-sign", job=said["job"], **file)
    assert len(list(played.ledger.entries(EXPORTED))) == 1


def test_what_a_daemon_left_unfinished_waits_for_its_maker_and_is_lost_without(
    background: Any, at_work: Any, played: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, said = at_work()
    assert frame(stream)["go"]
    _, waits = at_work()
    assert Jobs(played.catalog, "node2").left() == []
    monkeypatch.setattr(exports, "REJOIN_S", 0.0)
    after = Exports(Jobs(played.catalog, "node1"), played.config.export, played.notifier.tell)

    async def start() -> None:
        await after.take_up()
        assert {one["state"] for one in listed(background).values()} == {"queued"}
        await after.lose()

    trio.run(start)
    jobs = Jobs(played.catalog, "node1")
    for job in (said["job"], waits["job"]):
        assert (jobs.find(job).state, jobs.find(job).error) == ("lost", STOPPED)
        assert not jobs.move(job, State.DONE)


def test_no_end_leads_anywhere() -> None:
    assert set(NEXT) == set(State)
    assert all(not NEXT[one] for one in ENDS)
    assert not NEXT[State.QUEUED] & {State.DONE, State.QUEUED}


# ---------------------------------------------------------------- the manifest


@pytest.fixture
def exported(ctl: Any, tmp_path: Path) -> Path:
    target = tmp_path / "x.cast"
    ctl("export", "1a2b", "-o", str(target))
    return target


def test_an_exported_file_proves_what_it_is(ctl: Any, exported: Path, played: Any) -> None:
    manifest = exported.with_name("x.cast.manifest.json")
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o600
    done = ctl("verify", str(exported))
    assert done.stdout.endswith("Whole and unaltered.\n")
    assert f"x.cast: asciicast of session {SESSION_ID}, made by root on 20" in done.stdout
    (report,) = json.loads(ctl("--json", "verify", str(exported)).stdout)["reports"]
    assert (report["state"], report["session"], report["ok"]) == ("exported", SESSION_ID, True)
    (entry,) = played.ledger.entries(EXPORTED)
    assert entry.fields["who"] == "root"
    assert entry.fields["duration_us"] >= 0


def test_another_file_or_another_manifest_is_no_proof(
    ctl: Any, exported: Path, recorded: Path, tmp_path: Path, played: Any
) -> None:
    manifest = exported.with_name("x.cast.manifest.json")
    whole, line = exported.read_bytes(), manifest.read_bytes()

    def refused(text: str) -> None:
        done = ctl("verify", str(exported), status=1)
        assert text in done.stderr, done.stderr
        assert "damaged" in done.stdout

    for altered in (whole + b"\n", whole[:-1], whole.replace(b"Linux", b"Minix")):
        exported.write_bytes(altered)
        refused("it is not the file that was exported")
    exported.write_bytes(whole)
    for altered in (
        line.replace(b'"who":"root"', b'"who":"alan"'),
        line[:-9],
        b"{}",
        b"",
        b"[" * 100_000,
        b"\xff",
    ):
        manifest.write_bytes(altered)
        refused("it is not what was signed")
    manifest.write_bytes(played.config.recording.ledger.read_bytes().splitlines(keepends=True)[0])
    refused("it is of something else than an exported file")
    manifest.unlink()
    refused("the manifest can't be read: No such file")
    other = tmp_path / "y.jsonl"
    ctl("export", "1a2b", "--format", "jsonl", "-o", str(other))
    shutil.copy(tmp_path / "y.jsonl.manifest.json", manifest)
    refused("it is not the file that was exported")


def test_a_manifest_of_another_site_or_of_no_ledger(
    ctl: Any, exported: Path, recorded: Path, tmp_path: Path
) -> None:
    ledger = recorded / "state" / "ledger"
    public = tmp_path / "node.pub"
    shutil.copy(ledger.with_name("ledger.pub"), public)
    elsewhere = [sys.executable, "-c", ENTRY, "--config", str(tmp_path / "none"), "verify", str(exported)]
    done = subprocess.run(
        [*elsewhere, "--public-key", str(public)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "compared with its manifest alone" in done.stderr
    assert subprocess.run(elsewhere, capture_output=True, timeout=60, check=False).returncode == 2
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(tmp_path / "k")], check=True, timeout=60
    )
    foreign = tmp_path / "foreign.pub"
    subprocess.run(
        ["openssl", "pkey", "-in", str(tmp_path / "k"), "-pubout", "-out", str(foreign)],
        check=True,
        timeout=60,
    )
    done = ctl("verify", str(exported), "--public-key", str(foreign), status=1)
    assert "signed by a key that is not trusted" in done.stderr
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(line for line in lines if b'"kind":"exported"' not in line))
    done = ctl("verify", str(exported), status=1)
    assert "has no such entry" in done.stderr


@pytest.mark.mission("M7")
def test_a_purge_takes_exports_along_and_what_is_elsewhere_says_so(
    ctl: Any, exported: Path, played: Any, tmp_path: Path
) -> None:
    kept = played.config.export.directory / SESSION_ID
    kept.mkdir(parents=True)
    shutil.copy(exported, kept / "a.cast")
    other = played.config.export.directory / OTHER
    other.mkdir()
    ctl("purge", "1a2b", "--reason", "spilled", "--yes")
    assert not kept.exists()
    assert other.exists()
    done = ctl("verify", str(exported))
    assert "its recording was purged on 20" in done.stdout
    assert "by root: spilled" in done.stdout
    (report,) = json.loads(ctl("--json", "verify", str(exported)).stdout)["reports"]
    assert (report["state"], report["ok"]) == ("purged", True)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def apart(background: Any, recorded: Path) -> Any:
    """Run proxyctl as a process."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        named = ["--config", str(recorded / "proxyd.toml"), "--socket", str(background.path), "--utc"]
        return subprocess.run(
            [sys.executable, "-c", ENTRY, *named, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_in_the_background_it_is_made_apart_and_fetched(
    apart: Any, ctl: Any, background: Any, played: Any, recorded: Path, tmp_path: Path
) -> None:
    assert ctl("exports").stdout == "No exports yet.\n"
    target = tmp_path / "x.cast"
    done = apart("export", "1a2b", "--background", "-o", str(target))
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[1].rstrip(",")
    assert f"proxyctl exports cancel {job}" in done.stdout
    eventually(
        "the export is done", lambda: [row["state"] for row in listed(background).values()] == ["done"]
    )
    assert json.loads(target.read_text().splitlines()[0])["version"] == 3
    ctl("verify", str(target))
    heading, line = ctl("exports", "--session", "1a2b").stdout.splitlines()
    assert heading.split() == ["EXPORT", "STATE", "SESSION", "FORMAT", "SIZE", "TIME", "BY", "ASKED", "FILE"]
    assert line.split()[:4] == [job, "done", "1a2b3c4d", "asciicast"]
    assert line.endswith(str(target))
    copy = tmp_path / "copy.cast"
    assert ctl("exports", "fetch", job, "-o", str(copy)).stdout.startswith(f"{copy}: asciicast, ")
    assert copy.read_bytes() == target.read_bytes()
    ctl("verify", str(copy))
    assert [entry.fields["kind"] for entry in played.ledger.viewers(SESSION_ID)] == ["export", "download"]
    assert "add --force" in ctl("exports", "fetch", job, "-o", str(copy), status=1).stderr
    target.write_bytes(b"another")
    assert (
        "is not the file that was exported"
        in ctl("exports", "fetch", job, "-o", str(tmp_path / "z"), status=1).stderr
    )
    assert not (tmp_path / "z").exists()
    assert "no export zz" in ctl("exports", "fetch", "zz", "-o", str(tmp_path / "z"), status=1).stderr
    named = json.loads(apart("--json", "export", "1a2b", "--format", "jsonl", "--background").stdout)
    assert Path(named["path"]).parent == recorded / "state" / "exports" / SESSION_ID
    eventually("both are done", lambda: {row["state"] for row in listed(background).values()} == {"done"})
    assert stat.S_IMODE(Path(named["path"]).stat().st_mode) == 0o600
    assert [row["id"] for row in json.loads(ctl("exports", "--json").stdout)["exports"]] == [
        named["export"],
        *[one for one in listed(background) if one != named["export"]],
    ]


def test_what_can_not_begin_in_the_background_says_why_at_once(
    apart: Any, tmp_path: Path, played: Any
) -> None:
    (tmp_path / "there").write_text("mine")
    done = apart("export", "1a2b", "--background", "-o", str(tmp_path / "there"))
    assert (done.returncode, "add --force" in done.stderr) == (1, True)
    done = apart("export", "1a2b", "--background", "-o", str(tmp_path / "x"), "--format", "pyrdp")
    assert (done.returncode, "of desktops" in done.stderr) == (2, True)
    done = apart("export", "1a2b", "--skip-idle", "2", "-o", str(tmp_path / "x"))
    assert (done.returncode, "is no film" in done.stderr) == (2, True)
    for more in (("--speed", "2"), ("--half-size",)):
        done = apart("export", "1a2b", *more, "-o", str(tmp_path / "x"))
        assert (done.returncode, "neither a speed nor a size" in done.stderr) == (2, True)
    played.operate_as("PAM Operator")
    done = apart("export", "1a2b", "--background", "-o", str(tmp_path / "x"))
    assert (done.returncode, "recordings.export" in done.stderr) == (1, True)
    assert list(played.ledger.entries("view")) == []


def test_an_export_that_fails_is_listed_with_its_reason(ctl: Any, background: Any, tmp_path: Path) -> None:
    ctl("export", "1a2b", "--channel", "9", "-o", str(tmp_path / "out"), status=1)
    (row,) = listed(background).values()
    assert (row["state"], row["error"]) == ("failed", "channel 9 showed nothing; channels that did: 1")
    assert list(tmp_path.glob("*out*")) == []
    assert (
        f"is failed: {row['error']}"
        in ctl("exports", "fetch", row["id"], "-o", str(tmp_path / "z"), status=1).stderr
    )
    assert "is not at work here: it is failed" in ctl("exports", "cancel", row["id"], status=1).stderr


def test_what_is_cancelled_at_work_leaves_nothing(
    ctl: Any, background: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.cast"
    going = threading.Event()

    def slow(*_: Any, **__: Any) -> Iterator[str]:
        going.set()
        while True:
            yield "x"

    monkeypatch.setattr("proxyd.recorder.export.export", slow)
    jobs: list[str] = []

    def cancel() -> None:
        assert going.wait(30)
        jobs.extend(name for name, row in listed(background).items() if row["form"] == "asciicast")
        background.client.call("export-cancel", job=jobs[0])

    canceller = threading.Thread(target=cancel)
    canceller.start()
    assert "the export was cancelled by root" in ctl("export", "1a2b", "-o", str(target), status=1).stderr
    canceller.join()
    assert state(background, jobs[0]) == "cancelled"
    assert [path for path in tmp_path.iterdir() if "x.cast" in path.name] == []


@pytest.mark.parametrize("how", ["killed", "cancelled"])
def test_a_film_in_the_background_that_is_ended_while_it_waits_leaves_no_file(
    how: str, apart: Any, ctl: Any, at_work: Any, background: Any, tmp_path: Path
) -> None:
    held, _ = at_work()
    assert frame(held)["go"]
    target = tmp_path / "x.webm"
    job = json.loads(
        apart("--json", "export", "1a2b", "--format", "webm", "--background", "-o", str(target)).stdout
    )
    assert state(background, job["export"]) == "queued"
    (worker,) = workers(target)
    if how == "killed":
        os.kill(worker, signal.SIGKILL)
        eventually("the job has failed", lambda: state(background, job["export"]) == "failed")
    else:
        ctl("exports", "cancel", job["export"][:8])
        assert state(background, job["export"]) == "cancelled"
    eventually("its process has ended", lambda: not workers(target))
    background.client.call(
        "export-end", job=next(iter(set(listed(background)) - {job["export"]})), error="over"
    )
    assert "end" in frame(held)
    assert list(tmp_path.glob("*x.webm*")) == []


def workers(target: Path) -> list[int]:
    """Processes that were told to make this file, by what their command lines say."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            words = (process / "cmdline").read_bytes().split(b"\0")
            if str(target).encode() in words and b"--detached" in words:
                found.append(int(process.name))
    return found


def test_no_room_for_the_manifest_is_no_file(
    ctl: Any, background: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.cast"
    real = os.open

    def full(path: Any, *rest: Any, **more: Any) -> int:
        if "manifest" in str(path):
            raise OSError(28, "No space left on device", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", full)
    assert "No space left" in ctl("export", "1a2b", "-o", str(target), status=1).stderr
    monkeypatch.undo()
    (row,) = listed(background).values()
    assert (row["state"], row["error"]) == ("failed", "no space left on device")
    assert [path for path in tmp_path.iterdir() if "x.cast" in path.name] == []


def test_completion_offers_exports(ctl: Any, exported: Path, background: Any, recorded: Path) -> None:
    (job,) = listed(background)
    words = f"proxyctl --config {recorded / 'proxyd.toml'} --socket {background.path} exports fetch "
    env = {**os.environ, "_PROXYCTL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "7"}
    done = subprocess.run([sys.executable, "-c", ENTRY.replace("proxyctl()", "proxyctl(prog_name='proxyctl')")], env=env,
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert f"plain,{job[:8]}" in done.stdout, done
