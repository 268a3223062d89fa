"""What the daemon and a process of `proxyd index` say to each other, on its standard input and output.

Rule 1: a frame is a length (4 bytes, big endian) and that many bytes of msgpack, one of the structs below.
Rule 2: the child is believed nothing but shapes: what has none of them, or is longer than LIMIT, ends it.
Rule 3: of one session one Feed or Finish is under way at a time; the child answers each with one Fed or Failed.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from proxyd.errors import FormatError
from proxyd.page import Page
from proxyd.recorder.sidecar import Keyframe

LENGTH_BYTES: Final = 4
LIMIT: Final = (1 << 27) + (1 << 20)  # the largest desktop as pixels, and what stands around it

VIEW: Final = "desktop"  # in place of a protocol: what one shows and plays, and nothing that is kept
HEARD: Final = (
    0x100  # the kind of an item that is never kept: sound from at_us on; [rate, channels, bits, samples]
)

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Side = Annotated[int, msgspec.Meta(ge=1)]  # of a picture that is asked for


class _Frame(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """A frame; its class is its tag, and it has its fields and no more."""


class Begin(_Frame, frozen=True):
    """To the child: a session begins, at its beginning or behind a keyframe; what it was before is forgotten."""

    session: int
    protocol: str
    keyframe: Keyframe | None = None


class Feed(_Frame, frozen=True):
    """To the child: the next records, packed as recorder.hub.pack_batch does."""

    session: int
    records: bytes


class Finish(_Frame, frozen=True):
    """To the child: no more records come."""

    session: int


class Forget(_Frame, frozen=True):
    """To the child: nobody wants anything of this session any more."""

    session: int


class Look(_Frame, frozen=True):
    """To the child: somebody watches: the whole picture at once (0 x 0: none yet), then what changes; or nobody does."""

    session: int
    on: bool


class Glance(_Frame, frozen=True):
    """To the child: give what changed since the glance before; all of it where that is asked for, or there was none."""

    session: int
    whole: bool


class Print(_Frame, frozen=True):
    """To the child: give what a terminal shows now; of the channel, or of that which is shown where none is asked for."""

    session: int
    channel: int | None


class Redraw(_Frame, frozen=True):
    """To the child: give what brings an empty terminal to what the one that is shown shows now."""

    session: int


class Paint(_Frame, frozen=True):
    """To the child: give a picture of the terminal that is shown, of so many pixels at most."""

    session: int
    width: _Side
    height: _Side


class Ping(_Frame, frozen=True):
    """To the child: say that you are there."""

    number: int


class Hello(_Frame, frozen=True):
    """From the child, first: whether it is cut off from the network, and whether system calls are filtered."""

    isolated: bool
    filtered: bool


class Pong(_Frame, frozen=True):
    """From the child: it is."""

    number: int


class Fed(_Frame, frozen=True):
    """From the child: read up to record `seq` at `at_us`, and this was derived: [kind, at_us, body] each."""

    session: int
    seq: _Count
    at_us: _Count
    faults: _Count
    items: list[tuple[int, _Count, Any]]


class Failed(_Frame, frozen=True):
    """From the child: these records could not be read at all; the session is forgotten."""

    session: int
    why: str


class Printed(_Frame, frozen=True):
    """From the child: what a terminal shows behind record `seq`; None: nothing yet. `channels`: all there are."""

    session: int
    seq: _Count
    at_us: _Count
    channel: int | None
    channels: list[int]
    page: Page | None


class Redrawn(_Frame, frozen=True):
    """From the child: the bytes for an empty terminal of so many columns and rows; 0 of them: nothing was shown yet."""

    session: int
    columns: _Count
    rows: _Count
    data: bytes


class Painted(_Frame, frozen=True):
    """From the child: `rgb` is zstd of width * height * 3 bytes; 0 x 0: nothing was shown yet."""

    session: int
    width: _Count
    height: _Count
    rgb: bytes


class Patch(msgspec.Struct, frozen=True, array_like=True):
    """A rectangle of the screen: `rgb` is zstd of width * height * 3 bytes."""

    left: _Count
    top: _Count
    width: _Count
    height: _Count
    rgb: bytes


class Shown(_Frame, frozen=True):
    """From the child: what the screen shows behind record `seq`.

    `whole`: forget what was before, the one patch is all of it; `pointer`: x, y, and whether it is visible.
    """

    session: int
    seq: _Count
    at_us: _Count
    width: _Count
    height: _Count
    whole: bool
    patches: list[Patch]
    pointer: tuple[int, int, bool]

    @property
    def size(self) -> int:
        """Give the bytes its patches take."""
        return sum(len(patch.rgb) for patch in self.patches)

    def told(self) -> dict[str, Any]:
        """Say it in the words of the control socket; `rgb` is zstd of width * height * 3 bytes."""
        return {
            "at_us": self.at_us,
            "seq": self.seq,
            "width": self.width,
            "height": self.height,
            "whole": self.whole,
            "pointer": list(self.pointer),
            "patches": [
                {"left": one.left, "top": one.top, "width": one.width, "height": one.height, "rgb": one.rgb}
                for one in self.patches
            ],
        }


ToChild = Begin | Feed | Finish | Forget | Look | Glance | Print | Redraw | Paint | Ping
FromChild = Hello | Pong | Fed | Failed | Shown | Printed | Redrawn | Painted

_encoder = msgspec.msgpack.Encoder()


def pack(frame: ToChild | FromChild) -> bytes:
    """Give a frame's bytes."""
    body = _encoder.encode(frame)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


_of_child: Final = msgspec.msgpack.Decoder(FromChild)
_of_daemon: Final = msgspec.msgpack.Decoder(ToChild)


class _Cutter:
    """Cuts a stream of bytes into frames; holds at most one of them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def cut(self, data: bytes) -> list[bytes]:
        """Take bytes; gives the bodies of whole frames. Raises FormatError for one that is too long."""
        self._buffer += data
        bodies, at = [], 0
        while (begin := at + LENGTH_BYTES) <= len(self._buffer):
            length = int.from_bytes(self._buffer[at:begin], "big")
            if length > LIMIT:
                raise FormatError("a frame of the indexer is too long")
            if begin + length > len(self._buffer):
                break
            bodies.append(bytes(self._buffer[begin : begin + length]))
            at = begin + length
        del self._buffer[:at]
        return bodies


class ChildFrames(_Cutter):
    """Reads what a child says."""

    def feed(self, data: bytes) -> list[FromChild]:
        """Take bytes; gives whole frames. Raises FormatError (rule 2)."""
        try:
            return [_of_child.decode(body) for body in self.cut(data)]
        except msgspec.MsgspecError:
            raise FormatError("the indexer said what is no frame of its") from None


class DaemonFrames(_Cutter):
    """Reads what the daemon says."""

    def feed(self, data: bytes) -> list[ToChild]:
        """Take bytes; gives whole frames. Raises FormatError."""
        try:
            return [_of_daemon.decode(body) for body in self.cut(data)]
        except msgspec.MsgspecError:
            raise FormatError("the daemon said what is no frame of its") from None
