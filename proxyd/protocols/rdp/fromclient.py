"""The frames of a session from the client to the target: `crossing` has the rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from proxyd.protocols.rdp import capabilities, channels, events, fastpath, graphics, info, mcs, share, wire
from proxyd.protocols.rdp.channels import DynamicData, Reassembly
from proxyd.protocols.rdp.crossing import Desk, Handover, Numbers, edited, only_pcm, passed, whole
from proxyd.protocols.rdp.events import Event, Mouse, Scancode, Unicode
from proxyd.protocols.rdp.mcs import Data
from proxyd.protocols.rdp.pipeline import Watch
from proxyd.protocols.rdp.share import Control, ControlKind, DataKind
from proxyd.protocols.rdp.static import DYNAMIC, SOUND, USER
from proxyd.protocols.rdp.wire import WireError

MAX_HELD: Final = 200  # keys held at once that are remembered; what releases them fits into one frame


@dataclass
class FromClient:
    """The direction to the target. What was refused of a frame is in `refused`, emptied by who records it."""

    desk: Desk
    numbers: Numbers
    refused: list[bytes] = field(default_factory=list)
    licensing: bool = False  # whether the last frame was a licensing message
    fast: bool | None = None  # by which path input came last; None: there was none
    _held: dict[Event, None] = field(default_factory=dict)
    _at: tuple[int, int] = (0, 0)
    _gathering: dict[int, Reassembly] = field(default_factory=dict)

    def take(self, frame: bytes, *, closed: bool) -> list[bytes]:
        """Give what passes of a frame; `closed`: the gate is shut. Raises WireError."""
        self.licensing = False
        if self.desk.handover is not Handover.DONE and not self._is_ours(frame):
            return []
        if wire.is_fast_path(frame):
            return self._input(frame, fastpath.parse_input(frame), fast=True, closed=closed)
        data = mcs.data_frame(frame)
        if data is None:
            if isinstance(mcs.parse_message(frame), mcs.Disconnect):
                return [frame]
            raise WireError("sent what has no place in a session")
        if data.channel == mcs.GLOBAL_CHANNEL:
            if not self.desk.licensed:
                info.parse_license(data.payload)
                self.licensing = True
                return [frame]
            return edited(frame, data, lambda control: self._control(control, closed=closed), to_server=True)
        name = self.numbers.names.get(data.channel)
        if name is None:
            raise WireError("sent on a channel it has not joined")
        if data.channel not in self.numbers.to_target:
            return []  # the target does not know of this channel
        return self._channel(frame, data, name, closed=closed)

    def _is_ours(self, frame: bytes) -> bool:
        """Tell whether a frame belongs to the session already, and not to our login screen (rule 6)."""
        if wire.is_fast_path(frame):
            return False
        data = mcs.data_frame(frame)
        if data is None:
            return True  # it leaves
        if self.desk.handover is Handover.WAITING:
            return False
        if data.channel != mcs.GLOBAL_CHANNEL:
            return True
        confirmed = any(control.kind == ControlKind.CONFIRM_ACTIVE for control in share.split(data.payload))
        if confirmed:
            self.desk.handover = Handover.DONE
        return confirmed

    # ------------------------------------------------------------------ input

    def _input(self, frame: bytes, did: list[Event], *, fast: bool, closed: bool) -> list[bytes]:
        if not self.desk.licensed:
            raise WireError("sent input before its session")
        if closed:
            self.refused.append(frame)
            return []
        self.fast = fast
        for event in did:
            self._note(event)
        return [frame]

    def _note(self, event: Event) -> None:
        match event:
            case Scancode() | Unicode():
                key = event._replace(released=True)
                if event.released:
                    self._held.pop(key, None)
                elif len(self._held) < MAX_HELD:
                    self._held[key] = None
            case Mouse(_, x, y):
                self._at = (x, y)
            case _:
                pass

    def released(self) -> bytes:
        """Give the frame after which nothing is held any more, empty when the client never sent input."""
        if self.fast is None:
            return b""
        done = list(dict.fromkeys((*self._held, *events.releases(*self._at))))
        self._held.clear()
        if self.fast:
            return fastpath.build_input(done)
        return self.said(DataKind.INPUT, events.build_input(done))

    def said(self, kind: DataKind, body: bytes) -> bytes:
        """Give the frame of a share data PDU in the client's name."""
        payload = share.build_share_data(share.ShareData(self.desk.share_id, USER, kind, body))
        return mcs.build_data(Data(USER, mcs.GLOBAL_CHANNEL, payload), to_server=True)

    # ------------------------------------------------------------------ the I/O channel

    def _control(self, control: Control, *, closed: bool) -> Control | None:
        if control.kind == ControlKind.CONFIRM_ACTIVE:
            active = capabilities.parse_confirm_active(control)
            return capabilities.build_confirm_active(capabilities.limited(active, self.desk.graphics))
        if control.kind != ControlKind.DATA:
            raise WireError("sent what only a server says")
        data = share.share_data(control)
        if data.compressed:
            raise WireError("sent compressed data, which was not agreed on")
        match data.kind:
            case DataKind.INPUT:
                raw = share.build_control(control)
                return (
                    control
                    if self._input(raw, events.parse_input(data.body), fast=False, closed=closed)
                    else None
                )
            case DataKind.SUPPRESS_OUTPUT if share.parse_suppress_output(data.body) is None:
                return None  # the recording would have no picture of what goes on
            case DataKind.BITMAPCACHE_PERSISTENT_LIST:
                return None  # rule 2: no server may rely on what is on the client's disk
        return control

    # ------------------------------------------------------------------ channels

    def _channel(self, frame: bytes, data: Data, name: str, *, closed: bool) -> list[bytes]:
        if name == SOUND:
            return self._sound(frame, data)
        if name == DYNAMIC:
            return self._dynamic(frame, data, closed=closed)
        left, refused = self.desk.static.from_client(frame, data, name, closed=closed)
        self.refused += refused
        return left

    def _sound(self, frame: bytes, data: Data) -> list[bytes]:
        message = whole(self._gathering.setdefault(data.channel, Reassembly()), data)
        return [] if message is None else passed(frame, data, message, [only_pcm(message)], to_server=True)

    def _dynamic(self, frame: bytes, data: Data, *, closed: bool) -> list[bytes]:
        message = whole(self._gathering.setdefault(data.channel, Reassembly()), data)
        if message is None:
            return []
        after = [message]
        watch = self.desk.watch
        told = channels.parse_dynamic(message, from_server=False)
        if closed and not isinstance(told, DynamicData | channels.Other):
            after = [channels.build_answer(told)]  # rule 3: nothing of the user's behind it
        match told:
            case channels.Capabilities() if not closed:
                after = [channels.limit_version(message)]
            case DynamicData() as said if watch is not None and said.channel == watch.channel:
                after = self._pictured(said, watch)
            case DynamicData() if closed:
                self.refused.append(frame)
                return []
            case channels.Close(channel) if watch is not None and channel == watch.channel:
                self.desk.watch = None
            case channels.Other():
                raise WireError("sent on a dynamic channel what was not agreed on")
        return passed(frame, data, message, after, to_server=True)

    def _pictured(self, data: DynamicData, watch: Watch) -> list[bytes]:
        """Give the messages of a client on the graphics channel as the target may know them (rule 2)."""
        message = watch.gathering.feed(data)
        if message is None:
            return []
        if not message.whole:
            raise WireError("a message of the graphics pipeline is too long")
        left = graphics.from_client(message.data, self.desk.graphics, watch.own)
        return list(channels.build_dynamic_data(watch.channel, left)) if left else []
