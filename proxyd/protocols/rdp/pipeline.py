"""What a target shows by the graphics pipeline, as far as it can be seen without decoding, and notices in between.

Rule 1: a stream that is compressed is not read: each piece builds on all before it. From there on nothing is known, and
        nothing may be put in between, as that would change what the client's decompressor builds on.
Rule 2: memory is the surfaces' sizes and the head of one command, whatever the target sends, and of that it never raises.
Rule 3: a notice is a surface of its own, so nothing the target has drawn is lost. When a frame of the target's has covered
        it, it is copied onto itself, which paints it again; when it goes, that is done to the target's where it stood.

MS-RDPEGFX 2.2.1.5, 2.2.2 (messages), 2.2.5 (RDP_SEGMENTED_DATA).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp import mcs
from proxyd.protocols.rdp.channels import DynamicReassembly, build_chunks, build_dynamic_data
from proxyd.protocols.rdp.graphics import HEADER, Command, OwnFrames, build
from proxyd.protocols.rdp.wire import u16, u32

SINGLE, MULTIPART = 0xE0, 0xE1  # descriptor of RDP_SEGMENTED_DATA, 2.2.5.1
RDP8: Final = 0x04  # PACKET_COMPR_TYPE_RDP8, of every segment
COMPRESSED: Final = 0x20  # PACKET_COMPRESSED
MAX_SEGMENT: Final = 65_535  # bytes a segment holds, 2.2.5.2
MAX_SURFACES: Final = 1024  # that are remembered
OWN_SURFACE: Final = 0xFFF0  # servers count up from 0
_XRGB: Final = 0x20  # PIXEL_FORMAT_XRGB_8888, 2.2.1.4
_UNCOMPRESSED: Final = 0  # codecId, 2.2.2.1
_STRIP: Final = 48_000  # bytes of pixels in one message, so that it is a single segment
_PIXEL: Final = 4

_CREATE: Final = Struct("<HHHB")
_MAP: Final = Struct("<HHII")
_RESET: Final = Struct("<II")
_WIRE: Final = Struct("<HHBHHHHI")
_COPY: Final = Struct("<HHHHHHHHH")  # 2.2.2.5 with one destination
_READ: Final = {  # how much of their bodies is looked at
    Command.CREATESURFACE: _CREATE.size,
    Command.DELETESURFACE: 2,
    Command.STARTFRAME: 0,
    Command.ENDFRAME: 0,
    Command.RESETGRAPHICS: _RESET.size,
    Command.MAPSURFACETOOUTPUT: _MAP.size,
}


class Place(NamedTuple):
    """A rectangle of the screen."""

    left: int
    top: int
    width: int
    height: int

    def common(self, other: Place) -> Place | None:
        """Give what both have, None for nothing."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right = min(self.left + self.width, other.left + other.width)
        bottom = min(self.top + self.height, other.top + other.height)
        return Place(left, top, right - left, bottom - top) if left < right and top < bottom else None


class Segments:
    """Takes messages of the pipeline's channel piece by piece; gives what they hold as long as it is not compressed."""

    def __init__(self) -> None:
        self.blind = False  # rule 1
        self._head = bytearray()
        self._want = 1  # bytes of the head that is being read
        self._left = 0  # of the segment
        self._more = 0  # segments behind it
        self._single = False

    def begin(self) -> None:
        """Begin a message."""
        self._head.clear()
        self._want, self._left, self._more, self._single = 1, 0, 0, False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next piece of a message."""
        at = 0
        while at < len(data) and not self.blind:
            if self._left or self._single:
                size = len(data) - at if self._single else min(self._left, len(data) - at)
                yield data[at : at + size]
                at += size
                self._left = max(0, self._left - size)
                self._want = 5  # the next segment's size and header, 2.2.5.1
                continue
            size = min(self._want - len(self._head), len(data) - at)
            self._head += data[at : at + size]
            at += size
            if len(self._head) == self._want:
                self._headed()

    def _headed(self) -> None:
        head = self._head
        if self._want == 1:
            self._want = {SINGLE: 2, MULTIPART: 7}.get(head[0], 0)
            self.blind = not self._want
        elif head[0] == SINGLE and self._want == 2:
            self._single = True
            self.blind = bool(head[1] & COMPRESSED)
            head.clear()
        elif self._want == 7:
            self._more = int.from_bytes(head[1:3], "little")
            self._want = 5
            head.clear()
        else:
            self._left = int.from_bytes(head[:4], "little") - 1
            self._more -= 1
            self.blind = bool(head[4] & COMPRESSED) or self._left < 0 or self._more < 0
            head.clear()


class Watch:
    """What is known of one graphics channel; `channel` is its number, `own` has our frames on it.

    `inside`: the static channel it is in, by the client's numbers.
    """

    def __init__(self, channel: int, inside: int) -> None:
        self.channel = channel
        self._inside = inside
        self.own = OwnFrames()
        self.gathering = DynamicReassembly()  # of what the client says on it
        self.size: tuple[int, int] | None = None  # of the desktop, once the target has said it here
        self._segments = Segments()
        self._sizes: dict[int, tuple[int, int]] = {}
        self._mapped: dict[int, tuple[int, int]] = {}
        self._message_left = 0
        self._drawing = False
        self._standing: Place | None = None  # a notice, on a surface of our own
        self.covered = False  # it was painted over by a frame
        self.wiped = False  # clients have forgotten what it shows
        self._head = bytearray()
        self._skip = 0

    @property
    def drawn_on(self) -> bool:
        """Whether the target's pictures come here and ours can stand among them (rule 1)."""
        return bool(self._mapped) and not self._segments.blind

    @property
    def ready(self) -> bool:
        """Whether that is so now: between two frames of the target's."""
        return not (self._message_left or self._drawing or self._head or self._skip)

    def feed(self, data: bytes, total: int | None) -> None:
        """Take data of the channel; `total`: of a message of so many bytes that begins, as DYNVC_DATA_FIRST says it."""
        if not self._message_left:
            self._message_left = len(data) if total is None else total
            self._segments.begin()
        self._message_left = max(0, self._message_left - len(data))
        for piece in self._segments.feed(data):
            self._commands(piece)

    def _commands(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._skip:
                size = min(self._skip, len(data) - at)
                self._skip -= size
                at += size
                continue
            want = self._wanted()
            size = min(want - len(self._head), len(data) - at)
            self._head += data[at : at + size]
            at += size
            if len(self._head) == self._wanted():
                self._command()

    def _wanted(self) -> int:
        if len(self._head) < HEADER.size:
            return HEADER.size
        command, _, size = HEADER.unpack_from(self._head)
        return HEADER.size + max(0, min(_READ.get(command, 0), int(size) - HEADER.size))

    def _command(self) -> None:
        command, _, size = HEADER.unpack_from(self._head)
        body = bytes(self._head[HEADER.size :])
        self._skip = size - len(self._head)
        self._head.clear()
        if self._skip < 0:
            self._segments.blind, self._skip = True, 0
        elif len(body) == _READ.get(command, -1):
            self._take(command, body)

    def _take(self, command: int, body: bytes) -> None:
        match command:
            case Command.CREATESURFACE:
                surface, width, height, _ = _CREATE.unpack(body)
                if len(self._sizes) < MAX_SURFACES:
                    self._sizes[surface] = width, height
            case Command.DELETESURFACE:
                surface = int.from_bytes(body, "little")
                self._sizes.pop(surface, None)
                self._mapped.pop(surface, None)
            case Command.STARTFRAME | Command.ENDFRAME:
                self._drawing = command == Command.STARTFRAME
                self.covered = self._standing is not None
            case Command.RESETGRAPHICS:
                self.size = _RESET.unpack(body)
                self.wiped = self._standing is not None
            case Command.MAPSURFACETOOUTPUT:
                surface, _, left, top = _MAP.unpack(body)
                if surface in self._sizes:
                    self._mapped[surface] = left, top

    # ------------------------------------------------------------------ notices (rule 3)

    def shown(self, place: Place, pixels: bytes) -> bytes:
        """Give the frames that show a notice: blue, green, red and nothing of each pixel, the top row first."""
        return b"".join(map(self._frames, self._show(place, pixels)))

    def raised(self) -> bytes:
        """Give the frames that show it again where it stands."""
        if self._standing is None:
            return b""
        self.covered = False
        _, _, right, bottom = self._standing
        return self._frames(self._framed(_copy(OWN_SURFACE, Place(0, 0, right, bottom))))

    def hidden(self, place: Place) -> bytes:
        """Give the frames after which a notice that stood there is gone."""
        return self._frames(self._hide(place))

    def _frames(self, message: bytes) -> bytes:
        data = mcs.Data(mcs.SERVER_USER, self._inside, b"")
        return b"".join(
            mcs.build_data(data._replace(payload=chunk), to_server=False)
            for part in build_dynamic_data(self.channel, message)
            for chunk in build_chunks(part)
        )

    def _show(self, place: Place, pixels: bytes) -> Iterator[bytes]:
        row = place.width * _PIXEL
        rows = max(1, _STRIP // row)
        if self._standing is not None:
            yield self._message(build(Command.DELETESURFACE, u16(OWN_SURFACE)))
        self._standing, self.covered, self.wiped = place, False, False
        yield self._message(
            build(Command.CREATESURFACE, _CREATE.pack(OWN_SURFACE, place.width, place.height, _XRGB)),
            build(Command.MAPSURFACETOOUTPUT, _MAP.pack(OWN_SURFACE, 0, place.left, place.top)),
        )
        frame = self.own.number()
        yield self._message(build(Command.STARTFRAME, u32(0) + u32(frame)))
        for top in range(0, place.height, rows):
            bottom = min(top + rows, place.height)
            strip = pixels[top * row : bottom * row]
            where = _WIRE.pack(OWN_SURFACE, _UNCOMPRESSED, _XRGB, 0, top, place.width, bottom, len(strip))
            yield self._message(build(Command.WIRETOSURFACE_1, where + strip))
        yield self._message(build(Command.ENDFRAME, u32(frame)))

    def _hide(self, place: Place) -> bytes:
        gone = b"" if self._standing is None else build(Command.DELETESURFACE, u16(OWN_SURFACE))
        self._standing = None
        copies = []
        for surface, (left, top) in self._mapped.items():
            below = place.common(Place(left, top, *self._sizes[surface]))
            if below is not None:
                copies.append(_copy(surface, below._replace(left=below.left - left, top=below.top - top)))
        return self._framed(*copies, before=gone)

    def _framed(self, *pdus: bytes, before: bytes = b"") -> bytes:
        frame = u32(self.own.number())
        return self._message(
            before, build(Command.STARTFRAME, u32(0) + frame), *pdus, build(Command.ENDFRAME, frame)
        )

    @staticmethod
    def _message(*pdus: bytes) -> bytes:
        return bytes((SINGLE, RDP8)) + b"".join(pdus)


def _copy(surface: int, part: Place) -> bytes:
    """Copy a part of a surface onto itself."""
    left, top, width, height = part
    where = (left, top, left + width, top + height)
    return build(Command.SURFACETOSURFACE, _COPY.pack(surface, surface, *where, 1, left, top))
