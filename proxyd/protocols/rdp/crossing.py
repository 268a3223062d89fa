"""What becomes of each frame of a session: which pass, which are edited, which are kept back; bytes in, bytes out.

Rule 1: no socket, clock, loop or log. Frames are given back in the client's numbers; `Numbers` has the target's.
Rule 2: everything the target is told it can paint by, and the client is told it may use, is what the target's policy
        of graphics leaves; sound is PCM.
Rule 3: what is typed, clicked, pasted or sent on a channel while the gate is shut is thrown away (`passing`: also of a
        message that had begun). What a client answers to pictures passes, or there would be none.
Rule 4: no way past the proxy is passed on: no redirection, no reconnect cookie, no dynamic channel that brings a device.
Rule 5: licensing comes before the session and is passed as it is; until it is over there is no input.
Rule 6: a client that was shown our own login screen has its licensing behind it, so the target's is answered for it; what
        it does is its answer to our screen until it has confirmed the target's.

MS-RDPBCGR 2.2.1.12 to 2.2.1.22, 2.2.6.1, 2.2.8; MS-RDPEDYC 2.2; MS-RDPEA 2.2.2; MS-RDPEGFX 2.2.2.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from proxyd.decoders import Graphics
from proxyd.protocols.rdp import (
    capabilities,
    channels,
    events,
    fastpath,
    graphics,
    info,
    mcs,
    share,
    sound,
    wire,
)
from proxyd.protocols.rdp.channels import ChannelFlag, DynamicData, Reassembly
from proxyd.protocols.rdp.events import Event, Mouse, Scancode, Unicode
from proxyd.protocols.rdp.info import License, LicenseError
from proxyd.protocols.rdp.mcs import Data
from proxyd.protocols.rdp.passing import CHUNK_HEADER
from proxyd.protocols.rdp.pipeline import Watch
from proxyd.protocols.rdp.share import Control, ControlKind, DataKind
from proxyd.protocols.rdp.static import DYNAMIC, SOUND, USER, StaticChannels
from proxyd.protocols.rdp.wire import WireError

FIRST_CHANNEL: Final = mcs.GLOBAL_CHANNEL + 1  # the client's channels count up from here
DYNAMIC_ALLOWED: Final = frozenset(
    {channels.DISPLAY_CONTROL}
)  # rule 4; sound has a static channel everywhere
NO_CHANNEL: Final = -0x7FFFBFFB  # E_FAIL, as a client says that it has no listener of that name
MAX_HELD: Final = 200  # keys held at once that are remembered; what releases them fits into one frame


class Numbers(NamedTuple):
    """How the two sides of a session are numbered."""

    target_user: int
    to_target: dict[int, int]  # channel ids
    to_client: dict[int, int]
    names: dict[int, str]  # of static virtual channels, by the client's ids

    @property
    def passing(self) -> dict[int, str]:
        """The static virtual channels the target knows of."""
        return {number: name for number, name in self.names.items() if number in self.to_target}

    def for_target(self, frame: bytes) -> bytes:
        """Give a frame of the client's as the target counts."""
        if wire.is_fast_path(frame) or (data := mcs.data_frame(frame)) is None:
            return frame
        return mcs.redirect(frame, self.target_user, self.to_target[data.channel])


def numbers(names: Iterable[str], target_user: int, io: int, ids: Iterable[int | None]) -> Numbers:
    """Bring the client's numbers together with the target's.

    `names`, `ids`: of the client's channels, in the same order; None for one of which the target does not know.
    """
    listed = list(names)
    ours = range(FIRST_CHANNEL, FIRST_CHANNEL + len(listed))
    known = {own: theirs for own, theirs in zip(ours, ids, strict=True) if theirs is not None}
    to_target = {mcs.GLOBAL_CHANNEL: io, **known}
    to_client = {theirs: own for own, theirs in to_target.items()}
    return Numbers(target_user, to_target, to_client, dict(zip(ours, listed, strict=True)))


class Handover(enum.Enum):
    """How far a client is that was shown our own login screen, 1.3.1.3 (rule 6)."""

    DONE = enum.auto()  # or there was none
    WAITING = enum.auto()  # the target has not said yet what there is to see
    CONFIRMING = enum.auto()  # the client has been told, and has not confirmed


@dataclass
class Desk:
    """What both directions know of the session."""

    width: int
    height: int
    licensed: bool = False  # rule 5
    active: bool = False  # the client takes output: between Font Map and Deactivate All
    share_id: int = capabilities.OUR_SHARE
    graphics: Graphics = "bitmap"
    watch: Watch | None = None  # while the graphics channel is open
    static: StaticChannels = field(default_factory=StaticChannels)
    handover: Handover = Handover.DONE


def _edited(
    frame: bytes, data: Data, change: Callable[[Control], Control | None], *, to_server: bool
) -> list[bytes]:
    """Put the controls of an I/O frame through `change`; the frame stays as it came where nothing did."""
    before = share.split(data.payload)
    after = [change(control) for control in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return [frame]
    kept = [share.build_control(one) for one in after if one is not None and one.kind != ControlKind.FLOW]
    if not kept:
        return []
    return [mcs.build_data(data._replace(payload=b"".join(kept)), to_server=to_server)]


def _rebuilt(data: Data, message: bytes, *, to_server: bool) -> list[bytes]:
    """Write a channel's message as frames, with the flags of the chunk it ended with."""
    flags = channels.parse_chunk(data.payload).flags & ChannelFlag.SHOW_PROTOCOL
    chunks = channels.build_chunks(message, flags)
    return [mcs.build_data(data._replace(payload=one), to_server=to_server) for one in chunks]


def _whole(gathering: Reassembly, data: Data) -> bytes | None:
    """Take a chunk; gives the message it ends, None when it ends none. Raises WireError."""
    message = gathering.feed(data.payload)
    if message is None:
        return None
    if not message.whole:
        raise WireError("a channel's message is too long")
    return message.data


def _passed(frame: bytes, data: Data, before: bytes, after: list[bytes], *, to_server: bool) -> list[bytes]:
    """Give a message of a channel as frames again; the frame it came in stays as it is where nothing was changed."""
    if after == [before] and len(data.payload) == CHUNK_HEADER + len(before):
        return [frame]
    return [one for message in after for one in _rebuilt(data, message, to_server=to_server)]


def _only_pcm(message: bytes) -> bytes:
    return sound.pcm_only(message) if sound.sound_type(message) == sound.SoundType.FORMATS else message


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
            return _edited(frame, data, lambda control: self._control(control, closed=closed), to_server=True)
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
        passed, refused = self.desk.static.from_client(frame, data, name, closed=closed)
        self.refused += refused
        return passed

    def _sound(self, frame: bytes, data: Data) -> list[bytes]:
        message = _whole(self._gathering.setdefault(data.channel, Reassembly()), data)
        return [] if message is None else _passed(frame, data, message, [_only_pcm(message)], to_server=True)

    def _dynamic(self, frame: bytes, data: Data, *, closed: bool) -> list[bytes]:
        message = _whole(self._gathering.setdefault(data.channel, Reassembly()), data)
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
        return _passed(frame, data, message, after, to_server=True)

    def _pictured(self, data: DynamicData, watch: Watch) -> list[bytes]:
        """Give the messages of a client on the graphics channel as the target may know them (rule 2)."""
        message = watch.gathering.feed(data)
        if message is None:
            return []
        if not message.whole:
            raise WireError("a message of the graphics pipeline is too long")
        left = graphics.from_client(message.data, self.desk.graphics, watch.own)
        return list(channels.build_dynamic_data(watch.channel, left)) if left else []


@dataclass
class FromTarget:
    """The direction to the client. What the target is to be answered in the client's place is in `answers`."""

    desk: Desk
    numbers: Numbers
    answers: list[bytes] = field(default_factory=list)
    licenses: list[bytes] = field(default_factory=list)  # those about licensing
    licensing: bool = False  # whether the last frame was a licensing message
    _gathering: dict[int, Reassembly] = field(default_factory=dict)
    _wave: bool = (
        False  # the next message of the sound channel is a Wave, which has no header, MS-RDPEA 2.2.3.4
    )

    def take(self, frame: bytes, *, closed: bool = False) -> list[bytes]:
        """Give what passes of a frame; `closed`: the gate is shut, and the client will not answer. Raises WireError."""
        self.licensing = False
        if wire.is_fast_path(frame):
            return [frame]
        data = mcs.data_frame(frame)
        if data is None:
            if isinstance(mcs.parse_message(frame), mcs.Disconnect):
                return [frame]
            raise WireError("sent what has no place in a session")
        ours = self.numbers.to_client.get(data.channel)
        if ours is None:
            return []  # on its user's or its message channel, of which the client knows nothing
        own = frame
        if ours != data.channel:
            own, data = mcs.redirect(frame, data.initiator, ours), data._replace(channel=ours)
        if ours != mcs.GLOBAL_CHANNEL:
            return self._channel(own, data, closed=closed)
        if not self.desk.licensed:
            return self._license(own, data)
        if self.desk.handover is Handover.WAITING:
            return self._handed_over(own, data)
        if share.paints(data.payload):
            return [own]
        return _edited(own, data, self._control, to_server=False)

    def _license(self, frame: bytes, data: Data) -> list[bytes]:
        """Pass a licensing message on, or answer it (rule 6): who needs no licence is content with a client without."""
        said = info.parse_license(data.payload)
        self.desk.licensed = said.granted
        self.licensing = True
        if self.desk.handover is Handover.DONE:
            return [frame]
        if said.kind in {License.REQUEST, License.PLATFORM_CHALLENGE}:
            none = info.build_license_error(LicenseError.ERR_NO_LICENSE)
            self.licenses.append(mcs.build_data(Data(USER, mcs.GLOBAL_CHANNEL, none), to_server=True))
        elif not said.granted:
            raise WireError("lets nobody in without a licence of its own")
        return []

    def _handed_over(self, frame: bytes, data: Data) -> list[bytes]:
        """Take our screen away for the target's, 2.2.3.1; what comes before it is for a client that sees nothing yet."""
        kinds = {control.kind for control in share.split(data.payload)}
        if ControlKind.DEMAND_ACTIVE not in kinds:
            return []
        self.desk.handover = Handover.CONFIRMING
        ended = share.deactivate_all(capabilities.OUR_SHARE, mcs.SERVER_USER)
        ours = mcs.build_data(Data(mcs.SERVER_USER, mcs.GLOBAL_CHANNEL, ended), to_server=False)
        return [ours, *_edited(frame, data, self._control, to_server=False)]

    def _control(self, control: Control) -> Control | None:
        match control.kind:
            case ControlKind.DEMAND_ACTIVE:
                return self._demand(control)
            case ControlKind.DEACTIVATE_ALL:
                self.desk.active = False
            case ControlKind.SERVER_REDIRECTION:
                raise WireError("asks that its users go to another server, which is not supported")
            case ControlKind.CONFIRM_ACTIVE:
                raise WireError("sent what only a client says")
            case ControlKind.DATA:
                return self._data(control)
        return control

    def _demand(self, control: Control) -> Control:
        active = capabilities.parse_demand_active(control)
        screen = capabilities.desktop(active)
        self.desk.share_id, self.desk.active = active.share_id, False
        self.desk.width, self.desk.height = screen.width, screen.height
        return capabilities.build_demand_active(capabilities.limited(active, self.desk.graphics))

    def _data(self, control: Control) -> Control | None:
        data = share.share_data(control)
        if data.kind == DataKind.FONT_MAP:
            self.desk.active = True
        if data.kind != DataKind.SAVE_SESSION_INFO or data.compressed:
            return control
        body = share.without_reconnect_cookie(data.body)
        if body is None:
            return None
        if body == data.body:
            return control
        return share.split(share.build_share_data(data._replace(body=body)))[0]

    def _channel(self, frame: bytes, data: Data, *, closed: bool) -> list[bytes]:
        name = self.numbers.names[data.channel]
        if name not in {SOUND, DYNAMIC}:
            return self.desk.static.from_target(frame, data, name, closed=closed)
        message = _whole(self._gathering.setdefault(data.channel, Reassembly()), data)
        if message is None:
            return []
        after = self._sound(message) if name == SOUND else self._dynamic(message, data)
        return [] if after is None else _passed(frame, data, message, [after], to_server=False)

    def _sound(self, message: bytes) -> bytes:
        if self._wave:
            self._wave = False
            return message
        self._wave = sound.sound_type(message) == sound.SoundType.WAVE
        return _only_pcm(message)

    def _dynamic(self, message: bytes, data: Data) -> bytes | None:
        match channels.parse_dynamic(message, from_server=True):
            case channels.Capabilities():
                return channels.limit_version(message)
            case channels.Create(channel, channels.GRAPHICS) if self.desk.graphics != "bitmap":
                self.desk.watch = Watch(channel, data.channel)
            case channels.Create(channel, name) if name not in DYNAMIC_ALLOWED:
                answer = channels.build_created(channels.Created(channel, NO_CHANNEL))
                ours = Data(USER, data.channel, b"")
                self.answers += [
                    mcs.build_data(ours._replace(payload=chunk), to_server=True)
                    for chunk in channels.build_chunks(answer)
                ]
                return None
            case DynamicData(channel, said, total):
                self._pictured(channel, said, total)
            case channels.Close(channel) if self.desk.watch is not None:
                if channel == self.desk.watch.channel:
                    self.desk.watch = None
            case channels.Other():
                raise WireError("sent on a dynamic channel what was not agreed on")
        return message

    def _pictured(self, channel: int, data: bytes, total: int | None) -> None:
        watch = self.desk.watch
        if watch is None or channel != watch.channel:
            return
        watch.feed(data, total)
        if watch.size is not None:
            self.desk.width, self.desk.height = watch.size
