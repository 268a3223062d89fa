"""Films and replays of a real desktop session: what is seen and heard in them, when, and what PyRDP reads."""

from __future__ import annotations

import array
import itertools
import math
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from operator import sub
from pathlib import Path

import pytest

from proxyd import decoders
from proxyd.recorder.record import Record
from tests.e2e.test_rdp_cli import PASSWORD, furnished
from tests.peers.daemon import Proxyd
from tests.peers.process import eventually
from tests.peers.rdp import freerdp, shadow, sound, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.x11 import IN_TERMINAL, Picture, same, still
from tests.peers.rdp.xrdp import Xrdp

av = pytest.importorskip("av", reason="what makes films is not installed")
pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and freerdp.INSTALLED), reason="xrdp or xfreerdp is not installed"
    ),
    pytest.mark.mission("M6", "M12", "M16"),
    pytest.mark.timeout(240),
]

TONE_HZ, TONE_S = 440.0, 2.0
CLOSE_HZ = 1.0
IN_SYNC_S = 0.040
DURATION_S = 0.1
STILL_S = 0.3  # several pictures of a film
LEAST_DB = 36.0  # colours at half the resolution cost a white and black terminal no more
POINTER = 24  # pixels around where it points: films show it, displays in memory do not
RED = (205, 0, 0)  # xterm's colour 41
HZ = 48_000
LOUD = sound.LOUDNESS // 4
MARK = f"""
import socket, struct, sys, time
samples = open(sys.argv[2], "rb").read()
with socket.socket(socket.AF_UNIX) as link:
    link.connect(sys.argv[1])
    size, began = {int(sound.RATE * 0.02) * sound.CHANNELS * 2}, None
    for at in range(0, len(samples), size):
        part = samples[at : at + size]
        link.sendall(struct.pack("<II", 0, 8 + len(part)) + part)
        if began is None:
            began = time.monotonic()
            sys.stdout.write("\\033[41m\\033[2J")
            sys.stdout.flush()
        time.sleep(max(0.0, began + at / size * 0.02 - time.monotonic()))
    link.sendall(struct.pack("<II", 1, 8))
"""


@dataclass
class Session:
    """What was recorded, and what the client showed at moments of it."""

    proxyd: Proxyd
    id: str
    records: list[Record]
    duration_s: float
    seen: list[tuple[float, Picture]]


@pytest.fixture(scope="module")
def session(shared: Path) -> Iterator[Session]:
    """A session with a tone, a marker at its beginning, and typing."""
    directory = shared / "film"
    with Xrdp(directory / "x") as desktop:
        proxyd, identity, port = furnished(directory, desktop)
        with proxyd:
            seen: list[tuple[float, Picture]] = []
            with FreeRdp(directory / "c", port, "alice%desk", PASSWORD, fingerprint=identity.fingerprint,
                         options=("/sound:sys:fake",)) as client:  # fmt: skip
                same(client.screen, desktop.screen)
                row = proxyd.the_live_session()
                (desktop.home / "mark.py").write_text(MARK)
                (desktop.home / "tone").write_bytes(sound.tone(TONE_HZ, TONE_S))
                client.screen.click(*IN_TERMINAL)
                for line in (
                    "echo one",
                    "ls /etc | head -30",
                    f"python3 mark.py {desktop.sound} tone; touch rung",
                ):
                    client.screen.enter(line)
                    picture = still(client.screen, for_s=STILL_S)  # so the moment after it shows the same
                    seen.append((time.time() - row["started_at"], picture))
                rung = desktop.home / "rung"
                eventually("the tone has been played", rung.exists)
                client.screen.enter("clear; echo last")
                picture = still(client.screen, for_s=STILL_S)
                seen.append((time.time() - row["started_at"], picture))
            proxyd.ended(row["id"])
            recording = proxyd.recording(row["id"])
            records = list(recording.records())
            yield Session(proxyd, row["id"], records, recording.duration_us / 1e6, seen[:2] + seen[3:])


@pytest.fixture(scope="module", params=["webm", "mp4"])
def film(request: pytest.FixtureRequest, session: Session, shared: Path) -> Path:
    """One film of it, as proxyctl makes it."""
    target = shared / f"film.{request.param}"
    lines = session.proxyd.ctl(
        "export", session.id, "--format", request.param, "--keys", "-o", str(target)
    ).lines
    made = lines[-1]
    assert (made["format"], made["bytes"], made["faults"]) == (request.param, target.stat().st_size, 0)
    assert [line["percent"] for line in lines[:-1]] == sorted({line["percent"] for line in lines[:-1]})
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    return target


# ---------------------------------------------------------------- sound


def edges(samples: array.array[int]) -> list[float]:
    """Where a tone rises through zero, in samples, interpolated."""
    return [
        at - 1 + before / (before - after)
        for at, (before, after) in enumerate(itertools.pairwise(samples), 1)
        if before < 0 <= after
    ]


def pitch_hz(samples: array.array[int], rate: int) -> float:
    """The pitch of a tone by all of its periods."""
    found = edges(samples)
    return (len(found) - 1) / (found[-1] - found[0]) * rate


def loud(samples: array.array[int]) -> tuple[int, int]:
    """Where a tone begins and ends."""
    high = [at for at, value in enumerate(samples) if abs(value) > LOUD]
    return high[0], high[-1]


def heard_in(path: Path) -> array.array[int]:
    """The left channel of a film's sound, 48 kHz, from time 0 on."""
    both = bytearray()
    resampler = av.AudioResampler(format="s16", layout="stereo", rate=HZ)
    with av.open(path) as film:
        for frame in film.decode(audio=0):
            start = round(frame.time * HZ) * 4
            for part in resampler.resample(frame):
                if start < 0:  # what a decoder needs to begin
                    continue
                both += bytes(max(0, start - len(both)))
                both += bytes(part.planes[0])[: part.samples * 4]
    return sound.left(bytes(both))


def marked_s(records: list[Record]) -> float:
    """When the recording shows the marker."""
    from proxyd.index.rdp.screen import Screen  # noqa: PLC0415 - needs the decoder

    shown = Screen()
    for record in records:
        if shown.feed(record) and (canvas := shown.canvas):
            at = (IN_TERMINAL[1] * canvas.width + IN_TERMINAL[0]) * 4
            if canvas.pixels[at : at + 3] == bytes(reversed(RED)):
                return record.at_us / 1e6
    raise AssertionError("no marker in the recording")


def test_the_tone_is_in_the_recording_when_the_marker_is(session: Session) -> None:
    from proxyd.index.rdp.audio import sounds  # noqa: PLC0415 - needs the decoder

    pieces = list(sounds(session.records))
    assert all((piece.rate, piece.channels, piece.bits) == (sound.RATE, 2, 16) for piece in pieces)
    samples = sound.left(b"".join(piece.data for piece in pieces))
    begin, end = loud(samples)
    assert abs(pitch_hz(samples[begin:end], sound.RATE) - TONE_HZ) <= CLOSE_HZ
    heard_s = pieces[0].at_us / 1e6 + begin / sound.RATE
    assert abs(heard_s - marked_s(session.records)) <= IN_SYNC_S


def test_the_tone_is_in_the_film_when_the_marker_is(film: Path, session: Session) -> None:
    samples = heard_in(film)
    begin, end = loud(samples)
    assert abs(pitch_hz(samples[begin:end], HZ) - TONE_HZ) <= CLOSE_HZ
    assert (end - begin) / HZ == pytest.approx(TONE_S, abs=DURATION_S)
    shown_s = next(at_s for at_s, picture in pictures(film) if near(picture, RED))
    assert abs(begin / HZ - shown_s) <= IN_SYNC_S


# ---------------------------------------------------------------- pictures


def pictures(path: Path) -> Iterator[tuple[float, Picture]]:
    """The pictures of a film with their times."""
    with av.open(path) as film:
        for frame in film.decode(video=0):
            image = frame.to_image()
            yield frame.time, Picture(*image.size, image.tobytes())


def near(picture: Picture, colour: tuple[int, int, int]) -> bool:
    """Whether a place of the terminal, away from the pointer, has a colour."""
    at = ((IN_TERMINAL[1] + 2 * POINTER) * picture.width + IN_TERMINAL[0] + 2 * POINTER) * 3
    return all(abs(one - other) < 24 for one, other in zip(picture.rgb[at : at + 3], colour, strict=True))


def decibels(one: Picture, other: Picture) -> float:
    """PSNR of two pictures, leaving out where the pointer is."""
    assert one[:2] == other[:2]
    total = count = 0
    for y in range(one.height):
        row = slice(y * one.width * 3, (y + 1) * one.width * 3)
        left, right = bytearray(one.rgb[row]), bytearray(other.rgb[row])
        if abs(y - IN_TERMINAL[1]) < POINTER:
            hidden = slice((IN_TERMINAL[0] - POINTER) * 3, (IN_TERMINAL[0] + POINTER) * 3)
            left[hidden] = right[hidden]
        if left != right:
            total += sum(value * value for value in map(sub, left, right))
        count += len(left)
    return 10 * math.log10(255**2 * count / total) if total else math.inf


def test_the_film_shows_what_the_client_showed(film: Path, session: Session) -> None:
    shown: list[Picture | None] = [None] * len(session.seen)
    for at_s, picture in pictures(film):
        for place, (moment_s, _) in enumerate(session.seen):
            if at_s <= moment_s:
                shown[place] = picture
    for (moment_s, expected), picture in zip(session.seen, shown, strict=True):
        assert picture is not None
        assert decibels(picture, expected) >= LEAST_DB, moment_s


def test_the_film_is_as_long_as_the_session(film: Path, session: Session) -> None:
    with av.open(film) as opened:
        assert opened.duration / 1e6 == pytest.approx(session.duration_s, abs=DURATION_S)
        codecs = {
            stream.type: stream.codec_context.codec.canonical_name
            for stream in opened.streams.video + opened.streams.audio
        }
        last = {stream.type: 0.0 for stream in opened.streams}
        typed = []
        for packet in opened.demux():
            if packet.pts is not None:
                last[packet.stream.type] = max(
                    last[packet.stream.type], float((packet.pts + (packet.duration or 0)) * packet.time_base)
                )
                if packet.stream.type == "subtitle":
                    typed.append(bytes(packet))
    expected = (
        {"video": "av1", "audio": "opus"} if film.suffix == ".webm" else {"video": "h264", "audio": "aac"}
    )
    assert codecs == expected
    for kind in ("video", "audio"):
        assert last[kind] == pytest.approx(session.duration_s, abs=DURATION_S)
    assert any("echo one‹Enter›".encode() in one for one in typed)  # noqa: RUF001


@pytest.mark.skipif(
    decoders.freerdp() is None or not shadow.INSTALLED,
    reason="FreeRDP's library or its shadow server is not installed",
)
def test_a_film_of_the_graphics_pipeline(short: Path) -> None:
    target = short / "film.webm"
    with Shadow(short / "s", Security.TLS) as desktop:
        proxyd, identity, port = furnished(short, desktop)
        proxyd.settings["targets"]["desk"]["graphics"] = "gfx"
        with proxyd:
            with FreeRdp(short / "c", port, "alice%desk", PASSWORD, fingerprint=identity.fingerprint,
                         options=("/gfx:AVC444",)) as client:  # fmt: skip
                eventually("the desktop is shown", lambda: client.screen.picture().colours >= 3, within_s=60)
                live = proxyd.the_live_session()["id"]
                client.screen.click(*IN_TERMINAL)
                before = still(client.screen)
                client.screen.enter("ls /etc | head -30")
                eventually("the list is there", lambda: client.screen.picture().differing(before) > 100)
                expected = still(client.screen)
            proxyd.ended(live)
            made = proxyd.ctl("export", live, "-o", str(target)).lines[-1]
            assert (made["faults"], made["blind"]) == (0, False)
            *_, (_, picture) = pictures(target)
            assert decibels(picture, expected) >= LEAST_DB
            told = proxyd.run_ctl("export", live, "--format", "pyrdp", "-o", str(short / "x.pyrdp"))
            assert told.code == 0
            assert "PyRDP knows no graphics pipeline" in told.err
