"""The static virtual channels of a session: which there are, by policy, and who judges what passes on them.

Rule 1: a channel passes only when its policy is known: the clipboard's, the devices', sound's, that of dynamic channels,
        or the target's own list of further names. Of all others the target never hears.
Rule 2: the channel of devices stays where it was asked for, without any device when none is allowed: servers play sound
        only to clients that have it.
Rule 3: of a further channel nothing is read; it stops at a shut gate as all others do.

MS-RDPBCGR 1.3.3, 2.2.1.3.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.config import Clipboard as ClipboardRules
from proxyd.config import ClipboardWay
from proxyd.config import Devices as DeviceRules
from proxyd.digest import Deliver
from proxyd.protocols.rdp import clipboard, devices, mcs
from proxyd.protocols.rdp.drives import Drives
from proxyd.protocols.rdp.mcs import Data
from proxyd.protocols.rdp.measured import Ledger, Told
from proxyd.protocols.rdp.passing import Judge, Pass, Refuse, Verdict, Way
from proxyd.protocols.rdp.pasting import Clipboard

if TYPE_CHECKING:
    from proxyd.access import Permit

USER: Final = (
    1100  # the client's UserId: above the ids of all channels there can be, which peers confuse otherwise
)
SOUND: Final = "rdpsnd"  # MS-RDPEA 2.1
DYNAMIC: Final = "drdynvc"  # MS-RDPEDYC 2.1
NOTHING: Final = ClipboardWay(text="deny", files="deny", other="deny")


class Policy(NamedTuple):
    """What may cross beside screen, input and sound."""

    clipboard: ClipboardRules = ClipboardRules()
    devices: DeviceRules = DeviceRules()
    further: frozenset[str] = frozenset()

    def admits(self, names: Iterable[str]) -> list[bool]:
        """Say which of the channels a client asks for, in their order, the target is told of (rule 1)."""
        always = {SOUND, DYNAMIC, devices.CHANNEL} | self.further
        if any(way != NOTHING for way in (self.clipboard.to_target, self.clipboard.to_client)):
            always.add(clipboard.CHANNEL)
        seen: set[str] = set()
        found = []
        for name in map(str.lower, names):
            found.append(name in always and name not in seen)
            seen.add(name)
        return found


def policy(permit: Permit) -> Policy:
    """Give what a target lets pass, as far as the user's grants do."""
    rules = permit.target
    clip, drives = rules.clipboard, rules.devices
    if "clipboard" not in permit.channels:
        clip = ClipboardRules(to_target=NOTHING, to_client=NOTHING)
    elif "clipboard-files" not in permit.channels:
        clip = ClipboardRules(
            to_target=_without_files(clip.to_target), to_client=_without_files(clip.to_client)
        )
    if "devices" not in permit.channels:
        drives = DeviceRules()
    return Policy(clip, drives, frozenset(rules.static_channels))


def _without_files(way: ClipboardWay) -> ClipboardWay:
    return ClipboardWay(text=way.text, files="deny", other=way.other)


def _nobody(*_: object) -> None:
    """Be told nothing of what passes."""


class _Pair(NamedTuple):
    """Both directions of a channel."""

    up: Way
    down: Way


@dataclass
class StaticChannels:
    """The channels but sound's and that of the dynamic ones, both directions."""

    policy: Policy = field(default_factory=Policy)
    tell: Told = _nobody
    deliver: Deliver = _nobody
    to_target: list[bytes] = field(default_factory=list)  # frames of ours, emptied by who sends them
    to_client: list[bytes] = field(default_factory=list)
    _pairs: dict[int, _Pair] = field(default_factory=dict)
    _followed: list[Clipboard | Drives] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin to note what passes."""
        self._ledger = Ledger(self.tell, self.deliver)

    def from_client(
        self, frame: bytes, data: Data, name: str, *, closed: bool
    ) -> tuple[list[bytes], list[bytes]]:
        """Give what passes of a frame, and what of it met a shut gate; raises WireError."""
        way = self._pair(data.channel, name).up
        passed = way.take(frame, data, closed=closed)
        refused, way.refused = way.refused, []
        return passed, refused

    def from_target(self, frame: bytes, data: Data, name: str, *, closed: bool) -> list[bytes]:
        """Give what passes of a frame; raises WireError."""
        return self._pair(data.channel, name).down.take(frame, data, closed=closed)

    def close(self) -> None:
        """Tell what is unfinished: nothing passes any more."""
        for pair in self._pairs.values():
            pair.up.close()
            pair.down.close()
        for one in self._followed:
            one.close()

    @property
    def ledger(self) -> Ledger:
        """What is being measured."""
        return self._ledger

    def _pair(self, channel: int, name: str) -> _Pair:
        if channel in self._pairs:
            return self._pairs[channel]
        followed = self._follower(name)
        judges: tuple[Judge, Judge] = (
            (_unread, _unread_back) if followed is None else (followed.from_client, followed.from_target)
        )
        pair = _Pair(
            Way(USER, channel, to_server=True, judge=judges[0], said=self.to_target),
            Way(mcs.SERVER_USER, channel, to_server=False, judge=judges[1], said=self.to_client),
        )
        if followed is not None:
            followed.join(*pair)
            self._followed.append(followed)
        self._pairs[channel] = pair
        return pair

    def _follower(self, name: str) -> Clipboard | Drives | None:
        if name == clipboard.CHANNEL:
            return Clipboard(self.policy.clipboard.to_target, self.policy.clipboard.to_client, self._ledger)
        if name == devices.CHANNEL:
            return Drives(self.policy.devices, self._ledger)
        return None


def _unread(_head: bytes, _total: int, closed: bool) -> Verdict:  # noqa: FBT001 - Judge
    """Judge a client's message on a channel of which nothing is read (rule 3)."""
    return Refuse() if closed else Pass()


def _unread_back(_head: bytes, _total: int, _closed: bool) -> Verdict:  # noqa: FBT001 - Judge
    """Judge a target's: its output flows on."""
    return Pass()
