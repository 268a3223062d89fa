"""Block: after the acknowledgement not one client byte reaches the target, whatever carries it.

The stream typed is eight-byte counters, so that what the target holds says which bytes passed, and in what order.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from proxyd.recorder.record import Kind
from tests.e2e.lab import Lab, held
from tests.e2e.tape import of_kind
from tests.peers import EchoServer, Sshd, Tap, Terminal, eventually, free_port
from tests.peers.clients import OpenSSH
from tests.peers.commandline import listens
from tests.peers.daemon import TARGET, USER
from tests.peers.endpoint import HOST
from tests.peers.process import Process

pytestmark = [pytest.mark.mission("M3", "M17"), pytest.mark.timeout(1800)]

SSH = OpenSSH()
BATCH = 8192  # counters a write: 64 KiB
ENOUGH = 1 << 20  # bytes that count as "at full rate"
WIRE_SLACK = 4096  # bytes towards the target that are no input: window adjusts, an answered request
ACK_P99_S = 0.050  # the promise, measured over the whole run
ACK_LOADED_S = 1.0  # beside other tests on the same cores: what `settled` waits at most
BLOCKS_A_SESSION = 5
TRIALS, EVERY_TRIAL = 20, 1000
REVOKED = b"Session interaction revoked"


TYPIST = f"""
import sys
from array import array
number = 0
while True:
    batch = array("Q", range(number, number + {BATCH}))
    batch.byteswap()
    sys.stdout.buffer.write(batch.tobytes())
    number += {BATCH}
"""


class Typist:
    """A process that types counters as fast as they are taken; not a thread, which would slow what is measured."""

    def __init__(self) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", TYPIST], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    @property
    def typed(self) -> int:
        """Bytes typed so far."""
        fields = dict(
            line.split(": ") for line in Path(f"/proc/{self.popen.pid}/io").read_text().splitlines()
        )
        return int(fields["wchar"])

    def beyond(self, size: int) -> bool:
        """Whether more than `size` bytes were typed."""
        return self.typed > size

    def close(self) -> None:
        """Stop typing."""
        assert self.popen.stdout
        self.popen.stdout.close()
        self.popen.kill()
        self.popen.wait(10)


def place(part: bytes) -> int:
    """Where in the typed stream `part` begins; it must hold two whole counters."""
    for shift in range(8):
        first, second = (int.from_bytes(part[at : at + 8], "big") for at in (shift, shift + 8))
        if second == first + 1:
            return first * 8 - shift
    raise AssertionError(f"not of the typed stream: {part[:32].hex()}")


def stream(start: int, size: int) -> bytes:
    """The typed stream's bytes from `start`."""
    first, last = start // 8, (start + size) // 8 + 1
    numbers = array("Q", range(first, last + 1))
    numbers.byteswap()
    return numbers.tobytes()[start - first * 8 :][:size]


@pytest.fixture
def tapped(own_lab: Callable[..., Lab]) -> Iterator[tuple[Lab, Tap]]:
    """A lab whose target stands behind a tap."""
    taps: list[Tap] = []

    def tap(sshd: Sshd) -> int:
        taps.append(Tap(sshd.port).__enter__())
        return taps[0].port

    yield own_lab(tapped=tap), taps[0]
    taps[0].__exit__(None, None, None)


@contextmanager
def typing(lab: Lab, directory: Path, sink: Path) -> Iterator[Typist]:
    at = lab.proxied(directory)
    sink.unlink(missing_ok=True)
    typist = Typist()
    argv, log = SSH.argv(at, command=f"cat > {sink}"), directory / "client.log"
    try:
        with Process(argv, log=log, stdin=typist.popen.stdout, env=SSH.env(at)) as client:
            yield typist
            client.kill()
    finally:
        typist.close()


def grown(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size >= size


def one_session(lab: Lab, tap: Tap | None, directory: Path, blocks: int) -> list[float]:
    """Block and release `blocks` times under full-rate input; returns the seconds to each acknowledgement."""
    sink, acks, marks = directory / "sink", [], [0]
    with typing(lab, directory, sink) as typist:
        session = lab.proxyd.the_live_session()["id"]
        for _ in range(blocks):
            eventually("input flows", lambda: grown(sink, marks[-1] + ENOUGH), within_s=30)
            started = time.monotonic()
            answer = lab.proxyd.call("block", session=session, reason="test")
            acks.append(time.monotonic() - started)
            wire, typed = tap.up if tap else 0, typist.typed
            assert answer["settled"], answer
            passed = answer["passed_bytes"]
            eventually("the target has what passed", partial(grown, sink, passed))
            eventually("more is typed and refused", partial(typist.beyond, typed + 4 * ENOUGH), within_s=30)
            assert tap is None or tap.up - wire < WIRE_SLACK
            assert sink.stat().st_size == passed
            marks.append(passed)
            lab.proxyd.call("unblock", whom=session)
        eventually("input flows again", lambda: grown(sink, marks[-1] + ENOUGH), within_s=30)
    lab.proxyd.ended(session)
    in_order(sink.read_bytes(), marks)
    return acks


def in_order(got: bytes, marks: list[int]) -> None:
    """Between blocks the stream is whole; at each block something is missing, and never comes later."""
    behind = 0
    for start, end in zip(marks, [*marks[1:], len(got)], strict=True):
        part = got[start:end]
        begins = place(part)
        assert begins > behind or start == 0
        assert part == stream(begins, len(part))
        behind = begins + len(part)


def measured(acks: list[float]) -> tuple[float, float]:
    """Median and 99th percentile, printed."""
    acks.sort()
    p50, p99 = acks[len(acks) // 2], acks[min(len(acks) - 1, int(len(acks) * 0.99))]
    print(f"block acknowledgement over {len(acks)} trials: p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms")
    return p50, p99


def test_nothing_passes_after_the_acknowledgement(tapped: tuple[Lab, Tap], short: Path) -> None:
    lab, tap = tapped
    acks: list[float] = []
    for _ in range(TRIALS // BLOCKS_A_SESSION):
        acks += one_session(lab, tap, short, BLOCKS_A_SESSION)
    assert measured(acks)[1] <= ACK_LOADED_S


@pytest.mark.slow
def test_nothing_passes_in_a_thousand_trials(own_lab: Callable[..., Lab], short: Path) -> None:
    lab = own_lab()  # no tap: it shares this process with the clock
    acks: list[float] = []
    for _ in range(EVERY_TRIAL // BLOCKS_A_SESSION):
        acks += one_session(lab, None, short, BLOCKS_A_SESSION)
    assert measured(acks)[1] <= ACK_P99_S


def test_the_recording_knows_what_was_refused(lab: Lab, short: Path) -> None:
    sink = short / "sink"
    with typing(lab, short, sink) as typist:
        session = lab.proxyd.the_live_session()["id"]
        eventually("input flows", lambda: grown(sink, ENOUGH))
        answer = lab.proxyd.call("block", session=session, reason="odd typing")
        typed = typist.typed
        eventually("more is typed", lambda: typist.typed > typed + ENOUGH)
    row = lab.proxyd.ended(session)
    lab.proxyd.call("unblock", whom=f"{USER}@{TARGET}")
    records = list(lab.proxyd.recording(session).records())
    taken = b"".join(of_kind(records, Kind.INPUT))
    passed, discarded = answer["passed_bytes"], answer["discarded_bytes"]
    assert taken[:passed] == sink.read_bytes()
    assert len(taken) == passed + discarded == row["input_bytes"]
    (settled,) = [body for body in of_kind(records, Kind.CONTROL) if body["action"] == "settled"]
    assert (settled["passed"], settled["discarded"]) == (passed, discarded)
    refused = b"".join(of_kind(records, Kind.REFUSED))
    assert refused == stream(len(taken), len(refused))
    assert len(refused) >= ENOUGH
    (block,) = [body for body in of_kind(records, Kind.CONTROL) if body["action"] == "block"]
    assert block["reason"] == "odd typing"
    assert block["by"]


def test_a_terminal_is_told_and_goes_on_showing(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    marker = short / "must-not-be"
    with Terminal(SSH.argv(at, command="bash --norc -i", terminal=True), env=SSH.env(at)) as terminal:
        terminal.type("for i in $(seq 1000); do echo tick$i; sleep 0.05; done &\r")
        terminal.expect(r"tick3\b")
        session = lab.proxyd.the_live_session()["id"]
        lab.proxyd.call("block", session=session)
        terminal.expect(REVOKED)
        terminal.type(f"touch {marker}\r")
        last = int(terminal.expect(r"tick(\d+)")[1])
        terminal.expect(rf"tick{last + 8}\b")  # the screen goes on for 0.4 s after the keys
        assert b"touch" not in terminal.seen
        lab.proxyd.call("unblock", whom=session)
        terminal.expect("restored")
        terminal.type("echo back-$((1+1))\r")
        terminal.expect("back-2")
        assert not marker.exists()
        told = lab.proxyd.ctl("message", session, "Bitte schließen\x1b[2J").data
        assert told["text"] == "Bitte schließen\\x1b[2J"
        terminal.expect(re.escape("Bitte schließen\\x1b[2J\r\n".encode()))
        terminal.type("kill %1; exit 0\r")
        assert terminal.wait() == 0


def test_a_new_login_is_refused_with_author_and_date(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    with held(lab, short) as (_, session):
        lab.proxyd.call("block", session=session, reason="look into it")
        try:
            refused = SSH.execute(at, "echo never")
            listed = lab.proxyd.call("blocked")["blocked"]
        finally:
            lab.proxyd.call("unblock", whom=f"{USER}@{TARGET}")
    assert (refused.code, refused.out) == (255, b"")
    author = lab.proxyd.call("status")["caller"]["name"]
    year = time.strftime("%Y")
    wanted = (
        rf"User has been prevented to start sessions by {re.escape(author)} on {year}-\d\d-\d\d \d\d:\d\d"
    )
    assert re.search(wanted.encode(), refused.err), refused.err
    assert [(one["user"], one["target"]) for one in listed] == [(USER, TARGET)]
    assert SSH.execute(at, "echo again").out == b"again\n"


def test_forwards_new_channels_and_transfers_are_gated(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    control, here, reverse = short / "cm", free_port(), free_port()
    got = bytearray()

    def sink(peer: socket.socket) -> None:
        while data := peer.recv(65536):
            got.extend(data)
            peer.sendall(b"+" * len(data))

    with EchoServer(sink) as server:
        options = [
            "-o",
            "ControlMaster=yes",
            "-o",
            f"ControlPath={control}",
            "-L",
            f"{here}:{HOST}:{server.port}",
        ]
        with SSH.background(at, *options, "-R", f"{reverse}:{HOST}:{server.port}") as master:
            eventually("forwards listen", lambda: (listens(here) and listens(reverse)) or not master.running)
            session = lab.proxyd.the_live_session()["id"]
            mux = ["ssh", "-F", at.config, "-o", f"ControlPath={control}", "peer"]
            with socket.create_connection((HOST, here), 10) as link:
                link.sendall(b"before")
                assert link.recv(100)
                lab.proxyd.call("block", session=session)
                link.sendall(b"after")
                link.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    link.recv(100)
            with socket.create_connection((HOST, here), 10) as link:
                link.sendall(b"new")
                link.settimeout(5)
                with suppress(ConnectionError, TimeoutError):
                    assert link.recv(100) == b""
            done = subprocess.run(
                [*mux, "touch", short / "never"],
                capture_output=True,
                timeout=30,
                env=SSH.env(at),
                check=False,
            )
            assert done.returncode != 0
            assert not (short / "never").exists()
            assert bytes(got) == b"before"
            lab.proxyd.call("unblock", whom=session)
            done = subprocess.run(
                [*mux, "echo ok"], capture_output=True, timeout=30, env=SSH.env(at), check=False
            )
            assert done.stdout == b"ok\n", done.stderr
            with socket.create_connection((HOST, here), 10) as link:
                link.sendall(b"anew")
                assert link.recv(100)
            assert bytes(got) == b"beforeanew"


def test_an_upload_is_gated(lab: Lab, short: Path) -> None:
    at = lab.proxied(short)
    source, there = short / "source", short / "there"
    with source.open("wb") as file:
        file.truncate(2 << 30)  # sparse: sftp reads zeros faster than they can pass
    log = short / "sftp.log"
    batch = short / "batch"
    batch.write_text(f"put {source} {there}\n")
    with Process(
        ["sftp", "-F", str(at.config), "-b", str(batch), "peer"], log=log, env=SSH.env(at)
    ) as client:
        session = lab.proxyd.the_live_session()["id"]
        eventually("the upload runs", lambda: grown(there, ENOUGH))
        lab.proxyd.call("block", session=session)
        held = there.stat().st_size
        eventually("the daemon has refused something", lambda: lab.proxyd.live()[0]["blocked"])
        with suppress(AssertionError):
            client.wait(1.0)  # a gated transfer makes no progress, however long one looks
        after = there.stat().st_size
        lab.proxyd.call("unblock", whom=f"{USER}@{TARGET}")
        assert after - held <= 4 << 20, (
            "more than what was in the target's own buffers was written after the block"
        )
        assert client.wait(30) != 0
    assert there.stat().st_size < 2 << 30


def test_nobody_blocks_themselves(own_lab: Callable[..., Lab], short: Path) -> None:
    def is_alice(lab: Lab) -> None:
        lab.proxyd.settings["control"]["operators"][0]["user"] = USER

    lab = own_lab(is_alice)
    with held(lab, short) as (_, session):
        refused = lab.proxyd.ctl("block", session, check=False)
        assert refused.code == 1
        assert "nobody blocks themselves" in refused.out + refused.err
        assert not lab.proxyd.live()[0]["blocked"]
