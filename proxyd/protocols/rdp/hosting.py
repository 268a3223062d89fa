"""The proxy as a server of its own, towards a client whose conference stands: from licensing until there is a target.

Rule 1: no socket, clock, loop or log; frames in, input events and frames out.
Rule 2: what a client does before it is active is nobody's input; what it sends on channels, which nobody opened, is
        thrown away.
Rule 3: updates go by the slow path, which every client reads.

MS-RDPBCGR 1.3.1.1 (connection sequence), 2.2.1.12 to 2.2.1.22, 2.2.2 (disconnection), 2.2.8.1, 2.2.11.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, NamedTuple

from proxyd.protocols.rdp import capabilities, events, fastpath, info, mcs, painting, share, wire
from proxyd.protocols.rdp.events import Event
from proxyd.protocols.rdp.info import LicenseError
from proxyd.protocols.rdp.share import Action, Control, ControlAction, ControlKind, DataKind, ShareData
from proxyd.protocols.rdp.updates import SYSTEM_DEFAULT, Bitmap, PointerType
from proxyd.protocols.rdp.wire import WireError, u16, u32

LEAST, MOST = 200, 8192  # of width and height, MS-RDPEDISP 2.2.2.2.1; a client may say anything up to 65535


class Stage(enum.Enum):
    """How far the client is."""

    CONNECTING = enum.auto()  # it has our Demand Active
    FINISHING = enum.auto()  # it has confirmed
    ACTIVE = enum.auto()  # it has the Font Map: input counts, updates are shown
    LEFT = enum.auto()


class Did(NamedTuple):
    """What a frame was: the user's input, and whether the whole screen is to be painted again."""

    events: tuple[Event, ...] = ()
    repaint: bool = False


_NOTHING: Final = Did()


class Host:
    """Our side of one client's connection. `out`: frames to send, emptied by who sends them."""

    def __init__(self, width: int, height: int, depth: int) -> None:
        self.width, self.height = (max(LEAST, min(size, MOST)) for size in (width, height))
        self.depth = depth
        self.stage = Stage.CONNECTING
        self.out: list[bytes] = []

    def begin(self) -> None:
        """End licensing, 2.2.1.12, and say what there is to see, 2.2.1.13.1."""
        self._say(info.build_license_error(LicenseError.STATUS_VALID_CLIENT))
        demand = capabilities.our_demand_active(self.width, self.height, self.depth)
        self._say(share.build_control(capabilities.build_demand_active(demand)))

    def paint(self, bitmaps: Iterable[Bitmap]) -> None:
        """Show bitmaps."""
        for update in painting.updates(bitmaps):
            self._data(DataKind.UPDATE, update)

    def _say(self, payload: bytes) -> None:
        self.out.append(
            mcs.build_data(mcs.Data(mcs.SERVER_USER, mcs.GLOBAL_CHANNEL, payload), to_server=False)
        )

    def _data(self, kind: DataKind, body: bytes) -> None:
        self._say(share.build_share_data(ShareData(capabilities.OUR_SHARE, mcs.SERVER_USER, kind, body)))

    # ------------------------------------------------------------------ what the client sends

    def take(self, frame: bytes) -> Did:
        """Take a frame; raises WireError."""
        if wire.is_fast_path(frame):
            return self._input(fastpath.parse_input(frame))
        data = mcs.data_frame(frame)
        if data is None:
            if not isinstance(mcs.parse_message(frame), mcs.Disconnect):
                raise WireError("sent what has no place in a login")
            self.stage = Stage.LEFT
            return _NOTHING
        if data.channel != mcs.GLOBAL_CHANNEL:
            return _NOTHING
        did = [self._control(control) for control in share.split(data.payload)]
        return Did(tuple(event for one in did for event in one.events), any(one.repaint for one in did))

    def _input(self, did: list[Event]) -> Did:
        return Did(tuple(did)) if self.stage is Stage.ACTIVE else _NOTHING

    def _control(self, control: Control) -> Did:
        match control.kind:
            case ControlKind.FLOW:
                return _NOTHING
            case ControlKind.CONFIRM_ACTIVE:
                capabilities.parse_confirm_active(control)
                if self.stage is Stage.CONNECTING:
                    self.stage = Stage.FINISHING
                    self._data(DataKind.SYNCHRONIZE, share.synchronize(mcs.SERVER_USER))
                    self._data(DataKind.CONTROL, share.control_action(ControlAction(Action.COOPERATE)))
                return _NOTHING
            case ControlKind.DATA:
                return self._said(share.share_data(control))
        raise WireError("sent what only a server says")

    def _said(self, data: ShareData) -> Did:
        if data.compressed:
            raise WireError("sent compressed data, which was not agreed on")
        match data.kind:
            case DataKind.INPUT:
                return self._input(events.parse_input(data.body))
            case DataKind.CONTROL if share.parse_control_action(data.body).action == Action.REQUEST_CONTROL:
                granted = ControlAction(Action.GRANTED_CONTROL, data.source, mcs.SERVER_USER)
                self._data(DataKind.CONTROL, share.control_action(granted))
            case DataKind.FONT_LIST if self.stage is Stage.FINISHING:
                self.stage = Stage.ACTIVE
                self._data(DataKind.FONT_MAP, share.FONT_MAP)
                default = u16(PointerType.SYSTEM) + u16(0) + u32(SYSTEM_DEFAULT)
                self._data(DataKind.POINTER, default)
                return Did(repaint=True)
            case DataKind.REFRESH_RECT:
                return Did(repaint=True)
            case DataKind.SUPPRESS_OUTPUT:
                return Did(repaint=share.parse_suppress_output(data.body) is not None)
            case DataKind.SHUTDOWN_REQUEST:  # the user closes the window
                self.stage = Stage.LEFT
        return _NOTHING
