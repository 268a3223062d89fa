"""From the frames on the tape to what they say: the desktop, bitmaps, pointers, pipeline messages; the user's input.

Rule 1: compressed output is inflated in the order of the wire, whether anybody looks at it or not.
Rule 2: a PDU that cannot be read is counted and left out; the PDUs behind it are read.
Rule 3: before Demand and Confirm Active both sides send licences, which are none of these PDUs: nothing is counted there.

MS-RDPBCGR 2.2.8.1.1.1 (slow path), 2.2.8.1.2 and 2.2.9.1.2 (fast path), MS-RDPEDYC 2.2, read by proxyd.protocols.rdp.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from proxyd.index.rdp.bulk import Inflater
from proxyd.protocols.rdp import capabilities, channels, events, fastpath, mcs, share, updates
from proxyd.protocols.rdp.capabilities import Desktop
from proxyd.protocols.rdp.channels import DynamicReassembly, Reassembly
from proxyd.protocols.rdp.fastpath import UpdateCode
from proxyd.protocols.rdp.share import ControlKind, DataKind
from proxyd.protocols.rdp.updates import PointerUpdate, SystemPointer, UpdateType
from proxyd.protocols.rdp.wire import Framer, WireError, is_fast_path
from proxyd.recorder.record import Kind, Record

SESSION: Final = "rdp"  # name of the REQUEST record that says how a session was negotiated
IO_CHANNEL: Final = mcs.GLOBAL_CHANNEL  # until that record says another
NO_CHANNEL: Final = 0
DYNAMIC: Final = "drdynvc"  # MS-RDPEDYC 2.1


class Bitmaps(NamedTuple):
    """One update of the picture."""

    bitmaps: list[updates.Bitmap]


class Surfaces(NamedTuple):
    """One update by surface commands."""

    bits: list[updates.SurfaceBits]


class Opened(NamedTuple):
    """The target opens a channel for the graphics pipeline: whatever was on one before is gone."""


class Graphics(NamedTuple):
    """A message of the graphics pipeline, as it was compressed."""

    message: bytes


Output = Desktop | Bitmaps | Surfaces | PointerUpdate | Opened | Graphics

MAX_GRAPHICS: Final = 1 << 26  # bytes of one message: a desktop of 4K, uncompressed, twice

_SILENT: Final = {UpdateType.PALETTE, UpdateType.SYNCHRONIZE}  # they change nothing at 16 and 32 bits
_SILENT_FAST: Final = {UpdateCode.PALETTE, UpdateCode.SYNCHRONIZE}


def is_session(record: Record) -> bool:
    """Tell the record that says how the session was negotiated."""
    return (
        record.kind is Kind.REQUEST and isinstance(record.body, dict) and record.body.get("name") == SESSION
    )


def dynamic_channel(record: Record) -> int:
    """Give the number of the channel that dynamic channels run in, from the record of a session."""
    named = record.body.get("channels", {})
    return next((int(number) for number, name in named.items() if name == DYNAMIC), NO_CHANNEL)


def split(body: bytes) -> list[bytes]:
    """Take a record of whole frames apart; raises WireError."""
    framer = Framer()
    frames = framer.feed(body)
    if framer.held:
        raise WireError("a frame is cut short")
    return frames


class Inputs:
    """Reads what one client sends. `io` is the target's I/O channel, `faults` counts what could not be read."""

    def __init__(self) -> None:
        self.io = IO_CHANNEL
        self.faults = 0
        self._active = False

    def feed(self, body: bytes) -> list[events.Event]:
        """Take the frames of one record; gives what the user did, in order."""
        found: list[events.Event] = []
        try:
            for frame in split(body):
                found += fastpath.parse_input(frame) if is_fast_path(frame) else self._slow(frame)
        except WireError:
            self.faults += 1
        return found

    def _slow(self, frame: bytes) -> list[events.Event]:
        data = mcs.data_frame(frame)
        if data is None or data.channel != self.io:
            return []
        found: list[events.Event] = []
        try:
            for control in share.split(data.payload):
                if control.kind == ControlKind.CONFIRM_ACTIVE:
                    self._active = True
                if control.kind == ControlKind.DATA:
                    message = share.share_data(control)
                    found += events.parse_input(message.body) if message.kind == DataKind.INPUT else []
        except WireError:
            self.faults += self._active  # rule 3
        return found


class Outputs:
    """Reads what one target sends. `io` is its I/O channel, `dynamic` where its dynamic ones are, `faults` counts."""

    def __init__(self) -> None:
        self.io = IO_CHANNEL
        self.dynamic = NO_CHANNEL
        self.faults = 0
        self._chunks = Reassembly()
        self._messages = DynamicReassembly(MAX_GRAPHICS)
        self._graphics: int | None = None
        self._surfaces = False  # there were surface commands, whose codec nobody can take along
        self._inflater = Inflater()
        self._fragments = fastpath.Fragments()
        self._active = False

    def saved(self) -> dict[str, Any] | None:
        """Give what `resumed` needs; None inside an update, while its history is lost, and where a codec has one."""
        bulk = self._inflater.saved()
        if bulk is None or self._fragments.held or self._chunks.held:
            return None
        if self._surfaces or self._graphics is not None:
            return None
        return {"io": self.io, "dynamic": self.dynamic, "active": self._active, "bulk": bulk}

    @classmethod
    def resumed(cls, saved: dict[str, Any]) -> Outputs:
        """Make one that reads on where another stood; raises WireError."""
        outputs = cls()
        outputs.io, outputs._active = int(saved["io"]), bool(saved["active"])
        outputs.dynamic = int(saved["dynamic"])
        outputs._inflater = Inflater.resumed(saved["bulk"])
        return outputs

    def feed(self, body: bytes) -> list[Output]:
        """Take the frames of one record; gives what they say, in order."""
        found: list[Output] = []
        try:
            frames = split(body)
        except WireError:
            self.faults += 1
            return found
        for frame in frames:
            try:
                found += self._fast(frame) if is_fast_path(frame) else self._slow(frame)
            except WireError:
                self.faults += 1
        return found

    def _slow(self, frame: bytes) -> list[Output]:
        data = mcs.data_frame(frame)
        if data is not None and data.channel == self.dynamic:
            return self._dynamic(data.payload)
        if data is None or data.channel != self.io:
            return []
        if not self._active:
            return self._first(data.payload)
        found: list[Output] = []
        for control in share.split(data.payload):
            try:
                found += self._control(control)
            except WireError:
                self.faults += 1
        return found

    def _dynamic(self, payload: bytes) -> list[Output]:
        chunk = self._chunks.feed(payload)
        if chunk is None:
            return []
        match channels.parse_dynamic(chunk.data, from_server=True):
            case channels.Create(channel, channels.GRAPHICS):
                self._graphics = channel
                self._messages.close(channel)
                return [Opened()]
            case channels.DynamicData(channel) as data if channel == self._graphics:
                message = self._messages.feed(data)
                if message is not None and not message.whole:
                    raise WireError("a message of the graphics pipeline is too long")
                return [Graphics(message.data)] if message is not None else []
            case channels.Close(channel) if channel == self._graphics:
                self._graphics = None
        return []

    def _first(self, payload: bytes) -> list[Output]:
        """Wait for the first Demand Active (rule 3)."""
        try:
            controls = share.split(payload)
            if controls and controls[0].kind == ControlKind.DEMAND_ACTIVE:
                self._active = True
                return self._control(controls[0])
        except WireError:
            self._active = False
        return []

    def _control(self, control: share.Control) -> list[Output]:
        if control.kind == ControlKind.DEMAND_ACTIVE:
            return [capabilities.desktop(capabilities.parse_demand_active(control))]
        if control.kind != ControlKind.DATA:
            return []
        message = share.share_data(control)
        body = self._inflater.inflate(message.body, message.compression)
        if message.kind == DataKind.POINTER:
            return [updates.parse_pointer(body)]
        if message.kind != DataKind.UPDATE:
            return []
        kind = updates.update_type(body)
        if kind in _SILENT:
            return []
        return [Bitmaps(updates.parse_bitmaps(body))]  # which says so of drawing orders, never negotiated

    def _fast(self, frame: bytes) -> list[Output]:
        found: list[Output] = []
        for update in fastpath.parse_output(frame):
            try:
                data = self._inflater.inflate(update.data, update.compression)
                whole = self._fragments.feed(update.code, update.fragment, data)
                if whole is not None:
                    self._surfaces |= update.code == UpdateCode.SURFACE_COMMANDS
                    found += _fast_update(update.code, whole)
            except WireError:
                self.faults += 1
                self._fragments = fastpath.Fragments()  # the rest of an update that lost a part is no update
        return found


def _fast_update(code: int, data: bytes) -> list[Output]:
    """Read a whole update of the fast path, 2.2.9.1.2.1; raises WireError."""
    match code:
        case UpdateCode.BITMAP:
            return [Bitmaps(updates.parse_bitmaps(data))]
        case UpdateCode.SURFACE_COMMANDS:
            return [Surfaces(updates.parse_surface_commands(data))]
        case UpdateCode.POINTER_NULL:
            return [SystemPointer(updates.SYSTEM_NULL)]
        case UpdateCode.POINTER_DEFAULT:
            return [SystemPointer(updates.SYSTEM_DEFAULT)]
        case UpdateCode.POINTER_POSITION:
            return [updates.pointer_position(data)]
        case UpdateCode.POINTER_COLOR:
            return [updates.color_pointer(data)]
        case UpdateCode.POINTER_CACHED:
            return [updates.cached_pointer(data)]
        case UpdateCode.POINTER:
            return [updates.new_pointer(data)]
        case UpdateCode.POINTER_LARGE:
            return [updates.large_pointer(data)]
        case _ if code in _SILENT_FAST:
            return []
    raise WireError("an update is of a kind that was not negotiated")
