"""PyRDP as an independent reader: its parsers find in a replay of ours what our own find in the recording.

PyRDP lives in a venv of its own, and nothing of it is imported here. Its converter, which opens a replay as its player does, must read it whole too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxyd.index.rdp import frames
from proxyd.index.rdp.bulk import Inflater
from proxyd.protocols.rdp import capabilities, fastpath, mcs, share, updates
from proxyd.protocols.rdp.events import (
    Event,
    ExtendedMouse,
    Mouse,
    Quality,
    RelativeMouse,
    Scancode,
    Sync,
    Unicode,
)
from proxyd.protocols.rdp.events import parse_input as parse_slow_input
from proxyd.protocols.rdp.fastpath import Fragment, Fragments, UpdateCode
from proxyd.protocols.rdp.share import ControlKind, DataKind
from proxyd.protocols.rdp.updates import UpdateType
from proxyd.protocols.rdp.wire import is_fast_path
from proxyd.recorder.record import Kind, Record
from tests.e2e.test_rdp_cli import PASSWORD, furnished
from tests.peers.daemon import Proxyd
from tests.peers.process import eventually
from tests.peers.rdp import freerdp, shadow, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.pyrdp import NotInstalled, programs
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.x11 import IN_TERMINAL, Screen, same
from tests.peers.rdp.xrdp import Xrdp

pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and freerdp.INSTALLED and shadow.INSTALLED),
        reason="xrdp, xfreerdp or freerdp-shadow is not installed",
    ),
    pytest.mark.mission("M6", "M16"),
    pytest.mark.timeout(300),
]

READER = Path(__file__).with_name("pyrdp_reader.py")
READ_S = 120
TEXT = "Grüße, 5 € {text}"
LINE = "echo typed"
EVENTS: dict[type[Event], int] = {
    Scancode: 0, Mouse: 1, ExtendedMouse: 2, Sync: 3, Unicode: 4, RelativeMouse: 5, Quality: 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def pyrdp() -> Path:
    """Where PyRDP's programs are."""
    try:
        return programs()
    except NotInstalled as error:
        pytest.skip(str(error))


# ---------------------------------------------------------------- what we find


def counted(records: list[Record]) -> Counter[str]:
    """What our own parsers find in the frames of a recording, by the reader's names."""
    counts: Counter[str] = Counter()
    (about,) = [record.body for record in records if frames.is_session(record)]
    inflater, fragments = Inflater(), Fragments()
    licensed = False
    for record in records:
        if record.kind is Kind.END:
            counts["message CONNECTION_CLOSE"] += 1
        if record.kind not in {Kind.PDU, Kind.INPUT_PDU}:
            continue
        for frame in frames.split(record.body):
            if is_fast_path(frame):
                (_fast_output if record.kind is Kind.PDU else _fast_input)(frame, counts, inflater, fragments)
            elif (data := mcs.data_frame(frame)) and data.channel == about["io"]:
                licensed = licensed or data.payload[2] & 0xF == ControlKind.DEMAND_ACTIVE
                for control in share.split(data.payload) if licensed else ():
                    _slow(control, counts, inflater, record.kind)
    return counts


def _fast_input(frame: bytes, counts: Counter[str], _inflater: Inflater, _fragments: Fragments) -> None:
    counts["message FAST_PATH_INPUT"] += 1
    counts.update(f"fast input {EVENTS[type(event)]}" for event in fastpath.parse_input(frame))


def _fast_output(frame: bytes, counts: Counter[str], inflater: Inflater, fragments: Fragments) -> None:
    counts["message FAST_PATH_OUTPUT"] += 1
    for update in fastpath.parse_output(frame):
        counts[f"fast output {update.code}"] += 1
        data = inflater.inflate(update.data, update.compression)
        whole = fragments.feed(update.code, Fragment(update.fragment), data)
        if whole is not None and update.code == UpdateCode.BITMAP:
            _rectangles(whole, counts)


def _slow(control: share.Control, counts: Counter[str], inflater: Inflater, kind: Kind) -> None:
    if control.kind == ControlKind.CONFIRM_ACTIVE:
        counts["confirm active"] += 1
        counts["message SLOW_PATH_PDU"] += 1
        counts["capability sets"] += len(capabilities.parse_confirm_active(control).sets)
    if control.kind != ControlKind.DATA:
        return
    message = share.share_data(control)
    body = inflater.inflate(message.body, message.compression) if kind is Kind.PDU else message.body
    if message.kind == DataKind.INPUT and kind is Kind.INPUT_PDU:
        counts["message SLOW_PATH_PDU"] += 1
        counts["slow input"] += len(parse_slow_input(body))
    if message.kind == DataKind.UPDATE and kind is Kind.PDU:
        counts["message SLOW_PATH_PDU"] += 1
        counts[f"slow update {updates.update_type(body)}"] += 1
        if updates.update_type(body) == UpdateType.BITMAP:
            _rectangles(body, counts)


def _rectangles(body: bytes, counts: Counter[str]) -> None:
    found = updates.parse_bitmaps(body)
    counts["rectangles"] += len(found)
    counts["pixels"] += sum(one.width * one.height for one in found)
    counts["bytes of bitmaps"] += sum(len(one.data) for one in found)


# ---------------------------------------------------------------- what PyRDP finds


def agrees(pyrdp: Path, proxyd: Proxyd, session: str, directory: Path) -> Counter[str]:
    """Export a session, let PyRDP read it, compare; gives what both found."""
    target = directory / "x.pyrdp"
    told = proxyd.ctl("export", session, "--format", "pyrdp", "-o", str(target)).lines[-1]
    assert told["faults"] == 0
    recording = proxyd.recording(session)
    argv = [str(pyrdp / "python"), "-I", str(READER), str(target)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=READ_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ours = counted(list(recording.records()))
    theirs = Counter(found["counts"])
    pasted = theirs.pop("message CLIPBOARD_DATA", 0)
    assert theirs == ours
    assert len(found["texts"]) == pasted
    assert found["duration_s"] == pytest.approx(
        recording.duration_us / 1e6, abs=1.0
    )  # it counts from the first message
    data = target.read_bytes()
    for secret in (PASSWORD, "Target-Pw1"):
        assert secret.encode() not in data
        assert secret.encode("utf-16-le") not in data
    ours["texts"] = found["texts"].count(TEXT)
    return ours


def copy(owner: Screen, other: Screen) -> None:
    """Copy a text on one display, and paste it on the other."""
    argv = ["xclip", "-selection", "clipboard"]
    subprocess.run([*argv, "-i"], input=TEXT.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env={**os.environ, **owner.env}, timeout=30, check=True)  # fmt: skip

    def pasted() -> bool:
        done = subprocess.run(
            [*argv, "-o"], env={**os.environ, **other.env}, capture_output=True, timeout=30, check=False
        )
        return done.stdout.decode() == TEXT

    eventually("the copied text arrives", pasted, within_s=60.0)


@contextmanager
def worked(desktop: Xrdp | Shadow, directory: Path) -> Iterator[tuple[Proxyd, str, FreeRdp]]:
    """A session in which a line was typed; proxyd runs until this is left."""
    proxyd, identity, port = furnished(directory, desktop)
    with proxyd:
        client = FreeRdp(directory / "c", port, "alice%desk", PASSWORD, fingerprint=identity.fingerprint)
        with client:
            same(client.screen, desktop.screen)
            session = proxyd.the_live_session()["id"]
            client.screen.click(*IN_TERMINAL)
            client.screen.enter(LINE)
            same(client.screen, desktop.screen)
            yield proxyd, session, client


def ended(pyrdp: Path, proxyd: Proxyd, session: str, client: FreeRdp, directory: Path) -> Counter[str]:
    """Close the client, and compare."""
    client.close()
    proxyd.ended(session)
    return agrees(pyrdp, proxyd, session, directory)


def test_pyrdp_reads_a_session_at_xrdp_with_a_paste(pyrdp: Path, short: Path) -> None:
    with Xrdp(short / "x") as desktop, worked(desktop, short) as (proxyd, session, client):
        client.screen.enter("ls /usr/bin | head -300")
        same(client.screen, desktop.screen)
        copy(desktop.screen, client.screen)
        found = ended(pyrdp, proxyd, session, client, short)
    assert found["texts"] >= 1
    for name in ("slow update 1", "rectangles", "fast input 0", "fast input 1", "confirm active"):
        assert found[name], found
    shown = converted(pyrdp, short)
    assert (shown["info"]["width"], shown["info"]["height"]) == client.size
    events = [(event["type"], event["data"]) for event in shown["events"]]
    keys = "".join(data["key"] for kind, data in events if kind == "key" and data["press"])
    assert keys.startswith("echoSpacetyped")
    assert TEXT in [data["content"].rstrip("\0") for kind, data in events if kind == "clipboard"]


def test_pyrdp_reads_a_session_whose_updates_come_by_the_fast_path(pyrdp: Path, short: Path) -> None:
    with Shadow(short / "s", Security.TLS) as desktop, worked(desktop, short) as (proxyd, session, client):
        found = ended(pyrdp, proxyd, session, client, short)
    assert found["fast output 1"], found
    assert found["rectangles"], found


def converted(pyrdp: Path, directory: Path) -> dict:
    """A replay as PyRDP's converter reads it."""
    argv = [str(pyrdp / "pyrdp-convert"), "-f", "json", "-o", str(directory), str(directory / "x.pyrdp")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=READ_S, cwd=directory, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "x.json").read_text())
