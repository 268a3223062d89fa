"""What a session plays and what its user hears.

`play` writes a tone where a session's sound server would: the socket of xrdp's channel server, which makes rdpsnd of it
(MS-RDPEA). `Ear` is the user's loudspeaker: a PulseAudio without hardware, and everything it was given to play.
"""

from __future__ import annotations

import array
import math
import shutil
import socket
import statistics
import struct
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.process import Process, eventually

PROGRAMS = ("pulseaudio", "parec")
INSTALLED = all(map(shutil.which, PROGRAMS))
RATE = 44_100  # what chansrv expects, and what we have the ear keep
CHANNELS = 2
LOUDNESS = 12_000  # of 32767
SILENCE = LOUDNESS // 4  # below it nothing was played
BLOCK_S = 0.1
MESSAGE = struct.Struct("<II")  # xrdp's sesman/chansrv/sound.c: what, size with this head
DATA, CLOSE = 0, 1
START_S = 30.0
PCM = ("--format=s16le", f"--rate={RATE}", f"--channels={CHANNELS}")
LISTEN = (
    "/sound:sys:pulse,format:1",
)  # FreeRDP's options for it: WAVE_FORMAT_PCM, where xrdp would choose Opus


def tone(hz: float, seconds: float) -> bytes:
    """Give a tone as the samples chansrv takes: 16 bit, little-endian, two channels."""
    count = int(RATE * seconds)
    wave = (int(LOUDNESS * math.sin(2 * math.pi * hz * at / RATE)) for at in range(count))
    samples = array.array("h", [value for value in wave for _ in range(CHANNELS)])
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()


def play(path: Path, samples: bytes) -> None:
    """Play samples into a session, as fast as they sound: chansrv sends on what it gets at once and keeps nothing."""
    block = int(RATE * BLOCK_S) * CHANNELS * 2
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(START_S)
        link.connect(str(path))
        began = time.monotonic()
        for at in range(0, len(samples), block):
            part = samples[at : at + block]
            link.sendall(MESSAGE.pack(DATA, MESSAGE.size + len(part)) + part)
            time.sleep(max(0.0, began + at / block * BLOCK_S - time.monotonic()))
        link.sendall(MESSAGE.pack(CLOSE, MESSAGE.size))


def left(samples: bytes) -> array.array[int]:
    """Give the left channel of 16-bit little-endian stereo."""
    both = array.array("h", samples[: len(samples) // (2 * CHANNELS) * (2 * CHANNELS)])
    if sys.byteorder == "big":
        both.byteswap()
    return both[::CHANNELS]


def pitch_hz(samples: bytes) -> float:
    """Measure a tone to about 1 % by the median distance of its rising edges, which gaps do not move; 0.0 for silence."""
    edges, below = [], False
    for at, value in enumerate(left(samples)):
        if value < -SILENCE:
            below = True
        elif below and value > SILENCE:
            edges.append(at)
            below = False
    periods = [after - before for before, after in pairwise(edges)]
    return RATE / statistics.median(periods) if periods else 0.0


def loud_s(samples: bytes) -> float:
    """Measure how many seconds were not silent."""
    span = RATE // 100
    heard = left(samples)
    blocks = [heard[at : at + span] for at in range(0, len(heard), span)]
    return sum(len(part) / RATE for part in blocks if max(map(abs, part)) > SILENCE)


class Ear:
    """A loudspeaker that keeps what it plays: `with Ear(directory) as ear`, `ear.env` for the client's environment."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._socket = directory / "ear.socket"
        self._kept = directory / "heard"
        self._stack = ExitStack()

    @property
    def env(self) -> dict[str, str]:
        """Where a client finds it."""
        return {"PULSE_SERVER": f"unix:{self._socket}"}

    @property
    def heard(self) -> bytes:
        """Everything it has played, silence too: 16 bit, little-endian, two channels, 44100 Hz."""
        return self._kept.read_bytes()

    def __enter__(self) -> Self:
        home = {"HOME": str(self.directory), "XDG_RUNTIME_DIR": str(self.directory)}
        argv = ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes",
                "-L", f"module-null-sink sink_name=ear format=s16le rate={RATE} channels={CHANNELS}",
                "-L", f"module-native-protocol-unix socket={self._socket} auth-anonymous=1"]  # fmt: skip
        with ExitStack() as stack:
            log = self.directory / "log"
            server = stack.enter_context(Process(argv, log=log, env=home))
            up = lambda: self._socket.exists() or not server.running  # noqa: E731
            eventually("PulseAudio listens", up, within_s=START_S)
            assert server.running, server.text()
            with self._kept.open("wb") as sink:
                parec = ["parec", "--device=ear.monitor", "--raw", "--latency-msec=50", *PCM]
                keeper = Process(parec, log=log, env={**home, **self.env}, stdout=sink)
            stack.enter_context(keeper)
            started = lambda: self._kept.stat().st_size or not keeper.running  # noqa: E731
            eventually("the ear listens", started, within_s=START_S)
            assert keeper.running, keeper.text()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
