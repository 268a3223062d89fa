"""What becomes of each frame of a session: which pass, which are edited, which are kept back; bytes in, bytes out.

Here is what both directions have in common; `fromclient` and `fromtarget` are the directions.

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
from proxyd.protocols.rdp import capabilities, channels, mcs, share, sound, wire
from proxyd.protocols.rdp.channels import ChannelFlag, Reassembly
from proxyd.protocols.rdp.mcs import Data
from proxyd.protocols.rdp.passing import CHUNK_HEADER
from proxyd.protocols.rdp.pipeline import Watch
from proxyd.protocols.rdp.share import Control, ControlKind
from proxyd.protocols.rdp.static import StaticChannels
from proxyd.protocols.rdp.wire import WireError

FIRST_CHANNEL: Final = mcs.GLOBAL_CHANNEL + 1  # the client's channels count up from here


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


def edited(
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


def whole(gathering: Reassembly, data: Data) -> bytes | None:
    """Take a chunk; gives the message it ends, None when it ends none. Raises WireError."""
    message = gathering.feed(data.payload)
    if message is None:
        return None
    if not message.whole:
        raise WireError("a channel's message is too long")
    return message.data


def passed(frame: bytes, data: Data, before: bytes, after: list[bytes], *, to_server: bool) -> list[bytes]:
    """Give a message of a channel as frames again; the frame it came in stays as it is where nothing was changed."""
    if after == [before] and len(data.payload) == CHUNK_HEADER + len(before):
        return [frame]
    return [one for message in after for one in _rebuilt(data, message, to_server=to_server)]


def only_pcm(message: bytes) -> bytes:
    """Give a message of the sound channel that offers nothing but PCM (rule 2)."""
    return sound.pcm_only(message) if sound.sound_type(message) == sound.SoundType.FORMATS else message
