"""A desktop session as PyRDP's replay file, which its player shows: frames as they came, each with its time.

Rule 1: compressed output is inflated, for the player knows no compression; else frames are as they came. What is too long
        for one frame then is put into several.
Rule 2: what met a closed gate is not in it: PyRDP records what the target got. There is no Client Info and so no
        credential: the recording has none.
Rule 3: pictures of the graphics pipeline are unknown to PyRDP: of a session that had it `blind` says so.
Rule 4: what cannot be read is counted in `faults` and left out; what comes behind it is there.

The layout is PyRDP's own (pyrdp/parser/player.py, pyrdp/enum/player.py of GoSecure/pyrdp): messages one behind the other,
each its length with this head (64 bits), a type (16), milliseconds since 1970 (64), and its payload, all little-endian.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from struct import Struct
from typing import Final

from proxyd.index.rdp import frames
from proxyd.index.rdp.bulk import Inflater
from proxyd.protocols.rdp import clipboard, fastpath, mcs, share, updates
from proxyd.protocols.rdp.channels import Reassembly
from proxyd.protocols.rdp.clipboard import CF_UNICODETEXT, ClipType
from proxyd.protocols.rdp.fastpath import Fragment, Update
from proxyd.protocols.rdp.share import Control, ControlKind, DataKind
from proxyd.protocols.rdp.updates import BitmapFlag, UpdateType
from proxyd.protocols.rdp.wire import WireError, is_fast_path, u16
from proxyd.recorder.record import Kind, Record

BITMAPS: Final = "bitmap"  # the policy without the graphics pipeline
_HEAD: Final = Struct("<QHQ")
MAX_BODY: Final = 0x7000  # of an update in one frame: with its heads it is shorter than a frame may be
_UPDATE_HEAD: Final = 3  # of an update of the fast path
_LENGTH: Final = slice(
    12, 14
)  # of uncompressedLength, behind the share control header, shareId, pad and stream
_RECTANGLE: Final = 18  # TS_BITMAP_DATA before its pixels


class Type(enum.IntEnum):
    """PlayerPDUType, as far as a recording of ours has them."""

    FAST_PATH_INPUT = 1
    FAST_PATH_OUTPUT = 2
    SLOW_PATH_PDU = 4
    CONNECTION_CLOSE = 5
    CLIPBOARD_DATA = 6


class Replay:
    """Writes one session; `started_ms` is when it began, in milliseconds since 1970."""

    def __init__(self, started_ms: int) -> None:
        self.faults = 0
        self.blind = False
        self._started_ms = started_ms
        self._io = frames.IO_CHANNEL
        self._inflater = Inflater()
        self._active = False
        self._clips: dict[Kind, _Clips] = {}
        self._clipboard: int | None = None

    def feed(self, record: Record) -> Iterator[bytes]:
        """Take the next record; gives the messages it makes."""
        for kind, payload in self._messages(record):
            yield (
                _HEAD.pack(_HEAD.size + len(payload), kind, self._started_ms + record.at_us // 1000) + payload
            )

    def _messages(self, record: Record) -> Iterator[tuple[Type, bytes]]:
        if frames.is_session(record):
            self._io = record.body["io"]
            self.blind = record.body["graphics"] != BITMAPS
            ids = {name: int(channel) for channel, name in record.body["channels"].items()}
            self._clipboard = ids.get(clipboard.CHANNEL)
        elif record.kind is Kind.END:
            yield Type.CONNECTION_CLOSE, b""
        elif record.kind in {Kind.PDU, Kind.INPUT_PDU}:
            try:
                found = frames.split(record.body)
            except WireError:
                self.faults += 1
                return
            for frame in found:
                yield from self._frame(frame, record.kind)

    def _frame(self, frame: bytes, kind: Kind) -> Iterator[tuple[Type, bytes]]:
        try:
            if not is_fast_path(frame):
                yield from self._slow(frame, kind)
            elif kind is Kind.INPUT_PDU:
                fastpath.parse_input(frame)
                yield Type.FAST_PATH_INPUT, frame
            else:
                for one in self._output(frame):
                    yield Type.FAST_PATH_OUTPUT, one
        except WireError:
            self.faults += 1

    def _output(self, frame: bytes) -> Iterator[bytes]:
        """Give a frame of updates as frames without compression, MS-RDPBCGR 2.2.9.1.2."""
        plain = [
            one._replace(compression=0, data=self._inflater.inflate(one.data, one.compression))
            for one in fastpath.parse_output(frame)
        ]
        if sum(_UPDATE_HEAD + len(one.data) for one in plain) <= MAX_BODY:
            yield fastpath.build_output(plain)
            return
        for update in plain:
            for part in _parts(update):
                yield fastpath.build_output([part])

    def _slow(self, frame: bytes, kind: Kind) -> Iterator[tuple[Type, bytes]]:
        data = mcs.data_frame(frame)
        if data is None:
            return
        if data.channel == self._clipboard:
            yield from self._clip(data.payload, kind)
        if data.channel != self._io:
            return
        for control in self._controls(data.payload, kind):
            for payload in self._control(control, kind):
                yield Type.SLOW_PATH_PDU, payload

    def _controls(self, payload: bytes, kind: Kind) -> list[Control]:
        """Take the payload of a frame of the I/O channel apart; licences come before the first Demand Active."""
        try:
            controls = share.split(payload)
        except WireError:
            if self._active:
                raise
            return []
        if kind is Kind.PDU and any(one.kind == ControlKind.DEMAND_ACTIVE for one in controls):
            self._active = True
        return controls if self._active else []

    def _control(self, control: Control, kind: Kind) -> Iterator[bytes]:
        """Give what PyRDP records of the slow path: Confirm Active, Input and Update."""
        if kind is Kind.INPUT_PDU:
            if control.kind == ControlKind.CONFIRM_ACTIVE or (
                control.kind == ControlKind.DATA and share.share_data(control).kind == DataKind.INPUT
            ):
                yield share.build_control(control)
            return
        if control.kind != ControlKind.DATA:
            return
        message = share.share_data(control)
        body = self._inflater.inflate(message.body, message.compression)
        if message.kind == DataKind.UPDATE:
            for part in _bodies(body):
                yield _update(message._replace(body=part, compression=0))

    def _clip(self, payload: bytes, kind: Kind) -> Iterator[tuple[Type, bytes]]:
        """Give text that was pasted, as PyRDP does; other answers hold no text, and its readers want one."""
        message = self._clips.setdefault(kind, _Clips()).feed(payload)
        if message is None:
            return
        clip = clipboard.parse_clip(message)
        if clip.kind == ClipType.FORMAT_DATA_REQUEST:
            other = Kind.PDU if kind is Kind.INPUT_PDU else Kind.INPUT_PDU
            self._clips.setdefault(other, _Clips()).asked = clipboard.parse_data_request(clip)
        text = clip.kind == ClipType.FORMAT_DATA_RESPONSE and self._clips[kind].asked == CF_UNICODETEXT
        if text and not clip.failed:
            yield Type.CLIPBOARD_DATA, message


class _Clips:
    """What one side says of the clipboard; `asked` is the format it was asked for last."""

    def __init__(self) -> None:
        self.asked = 0
        self._gathering = Reassembly()

    def feed(self, payload: bytes) -> bytes | None:
        """Take a chunk; gives a whole message. Raises WireError."""
        try:
            message = self._gathering.feed(payload)
        except WireError:
            self._gathering = Reassembly()
            raise
        return message.data if message is not None and message.whole else None


def _update(message: share.ShareData) -> bytes:
    """Write an Update PDU; PyRDP takes its uncompressedLength to count both headers, as some servers do."""
    written = bytearray(share.build_share_data(message))
    written[_LENGTH] = u16(len(written))
    return bytes(written)


def _parts(update: Update) -> Iterator[Update]:
    """Cut an update that is too long for a frame into fragments, MS-RDPBCGR 2.2.9.1.2.1."""
    if len(update.data) <= MAX_BODY:
        yield update
        return
    starts = range(0, len(update.data), MAX_BODY)
    for at in starts:
        first = at == 0 and update.fragment in {Fragment.SINGLE, Fragment.FIRST}
        last = at == starts[-1] and update.fragment in {Fragment.SINGLE, Fragment.LAST}
        place = Fragment.FIRST if first else Fragment.LAST if last else Fragment.NEXT
        yield update._replace(fragment=place, data=update.data[at : at + MAX_BODY])


def _bodies(body: bytes) -> Iterator[bytes]:
    """Cut the body of an Update PDU that is too long for one into several, each of some of its rectangles."""
    if len(body) <= MAX_BODY or updates.update_type(body) != UpdateType.BITMAP:
        yield body
        return
    some: list[updates.Bitmap] = []
    size = 0
    for bitmap in updates.parse_bitmaps(body):
        needs = _RECTANGLE + len(bitmap.data)
        if some and size + needs > MAX_BODY:
            yield updates.build_bitmaps(some)
            some, size = [], 0
        plain = bitmap.flags | BitmapFlag.NO_COMPRESSION_HDR if bitmap.compressed else bitmap.flags
        some.append(bitmap._replace(flags=plain))
        size += needs
    yield updates.build_bitmaps(some)
