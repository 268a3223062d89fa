"""One fuzzed RDP session on the real conduit: what a program's steps do to it, and what must hold whatever they do.

Rule 1: only ProxydError comes out of the conduit, whatever either side sends.
Rule 2: each side gets whole frames in its own numbers: what was recorded, in order, and what is ours between it.
Rule 3: while the gate is shut no input passes, and nothing of what is sent on a channel of the user's.
Rule 4: what is kept of a message that is not whole is bounded.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, Final, cast

import trio

from proxyd.config import Clipboard, ClipboardWay, Devices
from proxyd.decoders import Graphics
from proxyd.errors import ProxydError
from proxyd.gate import Gate
from proxyd.protocols.rdp import channels, mcs, share
from proxyd.protocols.rdp.conduit import Conduit
from proxyd.protocols.rdp.crossing import FIRST_CHANNEL, Desk, numbers
from proxyd.protocols.rdp.share import ControlKind, DataKind
from proxyd.protocols.rdp.static import SOUND, USER, Policy, StaticChannels
from proxyd.protocols.rdp.wire import MAX_TPKT, Framer, is_fast_path
from proxyd.recorder.record import Kind
from tests.fuzz import program
from tests.fuzz.program import CANARY, Framing, Input, Op, Step, Tape, driven

NAMES: Final = ("rdpdr", SOUND, "cliprdr", "drdynvc", "other")
TARGET_USER: Final = 1010
TARGET_CHANNELS: Final = range(1020, 1020 + len(NAMES))  # the target counts in another way
NUMBERS: Final = numbers(NAMES, TARGET_USER, mcs.GLOBAL_CHANNEL, TARGET_CHANNELS)
ASIDE: Final = (USER, 1999)  # a channel nobody joins, and one nobody knows
OF_CLIENT: Final = (mcs.GLOBAL_CHANNEL, *range(FIRST_CHANNEL, FIRST_CHANNEL + len(NAMES)), *ASIDE)
OF_TARGET: Final = (mcs.GLOBAL_CHANNEL, *TARGET_CHANNELS, *ASIDE)
_WAY: Final = ClipboardWay(text="log", files="log", other="log")
EVERYTHING: Final = Policy(
    Clipboard(to_target=_WAY, to_client=_WAY),
    Devices(drives="log", printers="log", smartcards="log", ports="log"),
)
SAID, FAREWELL = "An operator says hello", "An operator ends this"
WIDTH, HEIGHT = 800, 600


class Stream:
    """Stands for a stream of the session: `ours` is what the conduit said by itself."""

    def __init__(self) -> None:
        self.ours: list[bytes] = []
        self.out = bytearray()
        self.closed = trio.Event()
        self.detached = False
        self.unsent = 0

    def send(self, data: bytes) -> None:
        self.ours.append(data)
        self.out += data

    def pause(self, why: object) -> None:
        pass

    def resume(self, why: object) -> None:
        pass

    def abort(self) -> None:
        self.closed.set()

    def detach(self) -> None:
        self.detached = True

    async def arrived(self, within_s: float) -> bool:
        return True


class Kept(Tape):
    """The tape, with what became of whole frames."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: dict[Kind, list[bytes]] = {Kind.PDU: [], Kind.INPUT_PDU: [], Kind.REFUSED: []}

    def add(self, kind: int, body: Any, channel: int = 0, weight: int = 0) -> None:
        super().add(kind, body, channel, weight)
        if kind in self.frames:
            self.frames[Kind(kind)].append(body)


class Session:
    """A session's conduit between two streams; `licensed`: it begins behind its licensing."""

    def __init__(self, *, licensed: bool, graphics: Graphics = "bitmap") -> None:
        self.tape, self.gate = Kept(), Gate()
        session = SimpleNamespace(tape=self.tape, gate=self.gate, target="desk", parting="",
                                  settled=lambda *_, **__: None)  # fmt: skip
        self.client, self.target = Stream(), Stream()
        static = StaticChannels(EVERYTHING)
        self.desk = Desk(WIDTH, HEIGHT, licensed=licensed, active=licensed, graphics=graphics, static=static)
        self.licensed = licensed
        self.conduit = Conduit(cast("Any", session), cast("Any", self.client), cast("Any", self.target), NUMBERS, self.desk)  # fmt: skip
        self.conduit._nursery = cast("Any", SimpleNamespace(start_soon=lambda *_: None))
        self.meddled = False  # a notice may stand between what the target painted
        self.down = bytearray()  # what was passed on to the client

    def run(self, source: Input, frame: Framing) -> None:
        """Run a program to its end or to the first typed error; then look at everything."""
        sound = False
        with contextlib.suppress(ProxydError):
            for step in program.steps(source, frame):
                self.step(step)
            sound = not self.client.detached
        self.check(sound=sound)

    def step(self, step: Step) -> None:
        """Do one step, as the relay and an operator would."""
        for piece in step.pieces:
            if self.client.detached:
                return
            if step.op in program.BY_CLIENT:
                self.up(piece)
            else:
                passed = self.conduit._down(piece) or b""
                self.down += passed
                self.client.out += passed
        match step.op:
            case Op.SHUT if not self.gate.closed:
                self.gate.shut("ann", "")
                driven(self.conduit.settle())
            case Op.OPEN if self.gate.closed:
                self.gate.open()
            case Op.NOTIFY:
                self.meddled = True
                self.conduit.notify(SAID)
            case Op.PART:
                self.meddled = True
                self.conduit.part(FAREWELL)

    def up(self, piece: bytes) -> None:
        before = len(self.client.ours)
        passed = self.conduit._up(piece) or b""
        self.down += b"".join(self.client.ours[before:])  # answers in the target's place
        if self.gate.closed and self.desk.licensed:
            check_shut(passed)
        self.target.out += passed

    # ------------------------------------------------------------------ what must hold

    def check(self, *, sound: bool) -> None:
        """Rules 2 and 4."""
        whole(self.target.out)
        whole(self.client.out)
        assert self.conduit._client_frames.held <= MAX_TPKT
        assert self.conduit._target_frames.held <= MAX_TPKT
        for frame in whole(self.target.out):
            data = None if is_fast_path(frame) else mcs.data_frame(frame)
            assert data is None or (data.initiator, data.channel in OF_TARGET) == (TARGET_USER, True)
        if not self.licensed:
            return
        told = b"".join(map(NUMBERS.for_target, self.tape.frames[Kind.INPUT_PDU]))
        assert told.startswith(self.target.out), "the target got what is not on the tape"
        assert not sound or told == self.target.out, "frames are lost"
        shown = self.tape.frames[Kind.PDU]
        if self.meddled:
            assert program.in_order(shown, whole(self.down), is_fast_path), (
                "the client got what is not on the tape"
            )
            return
        assert b"".join(shown).startswith(self.down), "the client got what is not on the tape"
        assert not sound or b"".join(shown) == self.down, "frames are lost"


def whole(stream: bytes | bytearray) -> list[bytes]:
    """Cut a stream of ours into its frames."""
    framer = Framer()
    found = framer.feed(bytes(stream))
    assert not framer.held, "a frame of ours is not whole"
    return found


def check_shut(passed: bytes) -> None:
    """Rule 3, of what passed the shut gate."""
    for frame in whole(passed):
        assert not is_fast_path(frame), "input passed a shut gate"
        data = mcs.data_frame(frame)
        if data is None:
            continue
        if data.channel == mcs.GLOBAL_CHANNEL:
            for control in share.split(data.payload):
                assert control.kind != ControlKind.DATA or share.share_data(control).kind != DataKind.INPUT
        elif data.channel != TARGET_CHANNELS[NAMES.index(SOUND)]:  # its answers keep the sound going
            assert CANARY not in frame, "what a user sent passed a shut gate"


# ---------------------------------------------------------------------------------------------- what a side says

MOST: Final = 0x7000  # bytes of a payload; longer ones are cut, as MCS has no room for them


def on_channel(by_client: bool, channel: int, payload: bytes) -> bytes:
    """Frame a payload for the channel of that place."""
    ids = OF_CLIENT if by_client else OF_TARGET
    data = mcs.Data(USER if by_client else mcs.SERVER_USER, ids[channel % len(ids)], payload[:MOST])
    return mcs.build_data(data, to_server=by_client)


def chunked(by_client: bool, channel: int, message: bytes) -> bytes:
    """Frame a message of a channel."""
    return b"".join(on_channel(by_client, channel, one) for one in channels.build_chunks(message))
