"""The frames of a session from the target to the client: `crossing` has the rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from proxyd.protocols.rdp import capabilities, channels, info, mcs, share, sound, wire
from proxyd.protocols.rdp.channels import DynamicData, Reassembly
from proxyd.protocols.rdp.crossing import Desk, Handover, Numbers, edited, only_pcm, passed, whole
from proxyd.protocols.rdp.info import License, LicenseError
from proxyd.protocols.rdp.mcs import Data
from proxyd.protocols.rdp.pipeline import Watch
from proxyd.protocols.rdp.share import Control, ControlKind, DataKind
from proxyd.protocols.rdp.static import DYNAMIC, SOUND, USER
from proxyd.protocols.rdp.wire import WireError

DYNAMIC_ALLOWED: Final = frozenset(
    {channels.DISPLAY_CONTROL}
)  # rule 4; sound has a static channel everywhere
NO_CHANNEL: Final = -0x7FFFBFFB  # E_FAIL, as a client says that it has no listener of that name


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
        return edited(own, data, self._control, to_server=False)

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
        return [ours, *edited(frame, data, self._control, to_server=False)]

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
        message = whole(self._gathering.setdefault(data.channel, Reassembly()), data)
        if message is None:
            return []
        after = self._sound(message) if name == SOUND else self._dynamic(message, data)
        return [] if after is None else passed(frame, data, message, [after], to_server=False)

    def _sound(self, message: bytes) -> bytes:
        if self._wave:
            self._wave = False
            return message
        self._wave = sound.sound_type(message) == sound.SoundType.WAVE
        return only_pcm(message)

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
