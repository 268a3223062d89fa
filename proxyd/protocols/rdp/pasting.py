"""The clipboard between a client and its target: what each may take from the other, and what the log says of it.

Rule 1: a side learns only of formats that it may ask for, and gets an answer only to what it has asked for.
Rule 2: what is refused is answered in the other side's place, in the protocol's own words: nobody waits for ever.
Rule 3: while the gate is shut the client offers, asks for and hands over nothing; what the target asks of it is refused.
Rule 4: content is measured as it passes; of text the beginning is kept, of files names, sizes and hashes.
Rule 5: what is no message of the clipboard that is known here does not pass.

MS-RDPECLIP 2.2, 3.1.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.characters import printable
from proxyd.digest import Body
from proxyd.events import TEXT_KEPT, Transfer
from proxyd.protocols.rdp import channels, clipboard
from proxyd.protocols.rdp.clipboard import (
    Clip,
    ClipCapability,
    ClipFlag,
    ClipType,
    FileDescriptor,
    FileRequest,
    Format,
    Holds,
)
from proxyd.protocols.rdp.measured import INCOMPLETE, Beginning, Block, Ledger, Portion
from proxyd.protocols.rdp.passing import Instead, Pass, Refuse, Verdict, Way
from proxyd.protocols.rdp.wire import WireError
from proxyd.recorder.record import Kind

if TYPE_CHECKING:
    from proxyd.config import ClipboardWay

MAX_ASKED: Final = 64  # requests a side may have open; clients have one, file managers a few
MAX_OPEN: Final = 64  # files that are measured at once in one direction
MAX_LOCKS: Final = 16  # lists of files that are kept though newer ones are there
TEXT_LOGGED: Final = 64 * 1024  # bytes of a text that the log has; all of it is in the recording
STREAM_ID: Final = 4  # bytes before the content of a File Contents Response
SIZE: Final = 8  # bytes of a size
FILE_CAPABILITIES: Final = (
    ClipCapability.STREAM_FILECLIP_ENABLED
    | ClipCapability.CAN_LOCK_CLIPDATA
    | ClipCapability.HUGE_FILE_SUPPORT_ENABLED
)
DENY, LOG = "deny", "log"


class Files(NamedTuple):
    """A list of files as it was handed over; `number` tells it from others."""

    number: int = 0
    entries: tuple[FileDescriptor, ...] = ()

    def entry(self, place: int) -> FileDescriptor:
        """Give what is known of a file."""
        if place < len(self.entries):
            return self.entries[place]
        return FileDescriptor(f"file {place}", None, directory=False)


@dataclass
class _Moving:
    """A file that is being copied."""

    entry: FileDescriptor
    size: int | None
    body: Body
    reached: int = 0  # how far it has been handed over


@dataclass
class Giver:
    """One side as the one whose clipboard is taken from: `up` leads away from it, `back` to it."""

    direction: str
    operation: str
    rules: ClipboardWay
    away: Way = field(init=False)
    back: Way = field(init=False)
    flags: ClipCapability | None = None
    offered: dict[int, Format] = field(default_factory=dict)
    asked: deque[Format] = field(default_factory=deque)
    wanted: dict[int, FileRequest] = field(default_factory=dict)
    files: Files = field(default_factory=Files)
    locked: dict[int, Files] = field(default_factory=dict)
    moving: dict[tuple[int, int], _Moving] = field(default_factory=dict)
    told: set[Holds] = field(default_factory=set)
    listed: str = ""  # the files the log has named last

    def rule(self, holds: Holds) -> str:
        """Give what becomes of formats that hold this."""
        rules: dict[Holds, str] = {
            Holds.TEXT: self.rules.text,
            Holds.FILES: self.rules.files,
            Holds.OTHER: self.rules.other,
        }
        return rules[holds]

    def format(self, number: int) -> Format | None:
        """Give the format of a number that may be asked for; the texts of the system always may."""
        if number in self.offered:
            return self.offered[number]
        return Format(number, "") if number in clipboard.TEXT_FORMATS else None


class Clipboard:
    """Both directions of the channel "cliprdr"."""

    def __init__(self, to_target: ClipboardWay, to_client: ClipboardWay, ledger: Ledger) -> None:
        self._client = Giver("to target", "put", to_target)
        self._target = Giver("to client", "get", to_client)
        self._ledger = ledger
        self._lists = 0

    def join(self, up: Way, down: Way) -> None:
        """Learn of the two directions once they are there."""
        self._client.away = self._target.back = up
        self._client.back = self._target.away = down

    def from_client(self, head: bytes, total: int, closed: bool) -> Verdict | int:  # noqa: FBT001 - Judge
        """Judge a message of the client's; raises WireError."""
        return self._judge(self._client, self._target, head, total, shut=closed)

    def from_target(self, head: bytes, total: int, closed: bool) -> Verdict | int:  # noqa: FBT001 - Judge
        """Judge a message of the target's; raises WireError."""
        clip = clipboard.parse_clip(head) if len(head) >= clipboard.HEADER else None
        asks = (ClipType.FORMAT_DATA_REQUEST, ClipType.FILECONTENTS_REQUEST)
        if closed and clip is not None and clip.kind in asks and len(head) == total:
            self._answer_instead(clip, self._client.away)
            return Refuse()
        return self._judge(self._target, self._client, head, total, shut=False)

    def close(self) -> None:
        """Tell what is unfinished."""
        for giver in (self._client, self._target):
            for key in list(giver.moving):
                self._moved(giver, key, INCOMPLETE)

    # ------------------------------------------------------------------ messages

    def _judge(self, own: Giver, other: Giver, head: bytes, total: int, *, shut: bool) -> Verdict | int:
        if len(head) < min(clipboard.HEADER, total):
            return clipboard.HEADER
        clip = clipboard.parse_clip(head)
        if clip.kind == ClipType.FORMAT_DATA_RESPONSE:
            return self._data(own, clip, shut=shut)
        if clip.kind == ClipType.FILECONTENTS_RESPONSE:
            if len(head) < min(clipboard.HEADER + STREAM_ID, total):
                return clipboard.HEADER + STREAM_ID
            return self._contents(own, clip, shut=shut)
        if len(head) < total:
            return total
        if shut and (clip.kind != ClipType.CLIP_CAPS or own.flags is not None):
            self._answer_instead(clip, own.back)
            return Refuse()
        return self._whole(own, other, clip)

    def _whole(self, own: Giver, other: Giver, clip: Clip) -> Verdict:
        match clip.kind:
            case ClipType.MONITOR_READY if own is self._target:
                return Pass()
            case ClipType.CLIP_CAPS if own.flags is None:
                return self._capabilities(own, clip)
            case ClipType.FORMAT_LIST:
                return self._offer(own, clip)
            case ClipType.FORMAT_LIST_RESPONSE:
                return Pass()
            case ClipType.FORMAT_DATA_REQUEST:
                return self._ask(other, clip)
            case ClipType.FILECONTENTS_REQUEST:
                return self._ask_for_file(other, clip)
            case ClipType.LOCK_CLIPDATA | ClipType.UNLOCK_CLIPDATA if other.rules.files != DENY:
                return self._lock(other, clip)
            case ClipType.TEMP_DIRECTORY if DENY not in (own.rules.files, other.rules.files):
                return Pass()
        return Refuse()

    @staticmethod
    def _answer_instead(clip: Clip, way: Way) -> None:
        """Answer in the place of the side that shall not see it (rule 2)."""
        answer = clipboard.refusal(clip)
        if answer is not None:
            way.say(answer)

    def _capabilities(self, own: Giver, clip: Clip) -> Verdict:
        flags = clipboard.parse_capabilities(clip)
        own.flags = flags
        if {self._client.rules.files, self._target.rules.files} == {DENY}:
            own.flags = flags & ~FILE_CAPABILITIES
        return Instead(clipboard.build_capabilities(own.flags))

    @property
    def _long_names(self) -> bool:
        both = (self._client.flags or 0) & (self._target.flags or 0)
        return bool(both & ClipCapability.USE_LONG_FORMAT_NAMES)

    # ------------------------------------------------------------------ what is offered, and asked for

    def _offer(self, own: Giver, clip: Clip) -> Verdict:
        """Let the other side know of what it may ask for (rule 1)."""
        formats = clipboard.parse_format_list(clip, long_names=self._long_names)
        kept: dict[int, Format] = {}
        for one in formats:
            if own.rule(one.holds) == DENY:
                self._denied(own, one.holds)
            else:
                kept.setdefault(one.number, one)
        own.offered = kept
        held = {files.number for files in own.locked.values()}
        for key in [key for key in own.moving if key[0] == own.files.number and key[0] not in held]:
            self._moved(own, key, INCOMPLETE)
        own.files, own.listed = Files(), ""
        if len(kept) == len(formats) < clipboard.MAX_FORMATS:
            return Pass()
        return Instead(clipboard.build_format_list(kept.values(), long_names=self._long_names))

    def _denied(self, own: Giver, holds: Holds) -> None:
        """Say once that a side has something which may not be taken from it."""
        if holds not in own.told:
            own.told.add(holds)
            self._ledger.tell(
                Kind.CLIPBOARD,
                {
                    "direction": own.direction,
                    "format": holds.value,
                    "size": 0,
                    "text": "",
                    "result": "denied",
                },
            )

    def _ask(self, giver: Giver, clip: Clip) -> Verdict:
        """Let a side ask for what it was offered; `giver`: the one who is asked."""
        wanted = giver.format(clipboard.parse_data_request(clip))
        if wanted is None or giver.rule(wanted.holds) == DENY or len(giver.asked) >= MAX_ASKED:
            if wanted is not None:
                self._denied(giver, wanted.holds)
            self._answer_instead(clip, giver.away)
            return Refuse()
        giver.asked.append(wanted)
        return Pass()

    def _ask_for_file(self, giver: Giver, clip: Clip) -> Verdict:
        request = clipboard.parse_file_request(clip)
        if giver.rules.files == DENY or len(giver.wanted) >= MAX_ASKED:
            self._answer_instead(clip, giver.away)
            return Refuse()
        giver.wanted[request.stream] = request
        return Pass()

    @staticmethod
    def _lock(giver: Giver, clip: Clip) -> Verdict:
        number = clipboard.parse_lock(clip)
        if clip.kind == ClipType.UNLOCK_CLIPDATA:
            giver.locked.pop(number, None)
        elif len(giver.locked) < MAX_LOCKS:
            giver.locked[number] = giver.files
        return Pass()

    # ------------------------------------------------------------------ what is handed over

    def _data(self, own: Giver, clip: Clip, *, shut: bool) -> Verdict:
        """Pass what was asked for, and nothing else (rule 1)."""
        if not own.asked:
            return Refuse()
        wanted = own.asked.popleft()
        if shut:
            own.away.say(clipboard.build_clip(ClipType.FORMAT_DATA_RESPONSE, ClipFlag.RESPONSE_FAIL))
            return Refuse()
        if clip.failed:
            return Pass()
        files = wanted.holds is Holds.FILES
        if not files and own.rule(wanted.holds) != LOG:
            return Pass()
        body = self._ledger.body()

        def over(kept: bytes, whole: bool) -> None:  # noqa: FBT001 - Beginning's signature
            if files and whole:
                self._listed(own, wanted, kept, body.size)
            if own.rule(wanted.holds) == LOG:
                self._pasted(own, wanted, kept, body, whole=whole)

        keep = channels.MAX_MESSAGE if files else TEXT_LOGGED
        return Pass(Beginning(body, keep, Portion(clipboard.HEADER, clip.size), over))

    def _listed(self, own: Giver, wanted: Format, kept: bytes, size: int) -> None:
        """Remember a list of files, whose contents may be asked for next."""
        if wanted.name.casefold().startswith(clipboard.FILE_LIST.casefold()[: clipboard.SHORT_CHARACTERS]):
            self._lists += 1
            with contextlib.suppress(WireError):  # then they have no names
                own.files = Files(
                    self._lists, tuple(clipboard.parse_file_list(kept, beginning=len(kept) < size))
                )

    def _pasted(self, own: Giver, wanted: Format, kept: bytes, body: Body, *, whole: bool) -> None:
        size = body.size
        text = self._readable(own, wanted, kept)
        cut = len(kept) < size and wanted.holds is Holds.TEXT
        if wanted.holds is Holds.FILES and text:
            if text == own.listed:
                return  # file managers ask again and again
            own.listed = text

        def hashed(sha256: str | None, _: str) -> None:
            told = {
                "direction": own.direction,
                "format": wanted.shown,
                "size": size,
                "text": text,
                "sha256": sha256,
            }
            self._ledger.tell(
                Kind.CLIPBOARD,
                told | ({"cut": True} if cut else {}) | ({} if whole else {"result": INCOMPLETE}),
            )

        self._ledger.finish(body, hashed)

    @staticmethod
    def _readable(own: Giver, wanted: Format, kept: bytes) -> str:
        if wanted.holds is Holds.TEXT:
            return clipboard.plain_text(wanted, kept)
        if wanted.holds is Holds.FILES:
            names = [printable(entry.name) for entry in own.files.entries]
            return "\n".join(names)[:TEXT_KEPT]
        return ""

    # ------------------------------------------------------------------ files

    def _contents(self, own: Giver, clip: Clip, *, shut: bool) -> Verdict:
        stream = int.from_bytes(clip.body[:STREAM_ID], "little")
        request = own.wanted.pop(stream, None)
        if request is None:
            return Refuse()
        if shut:
            failed = clipboard.build_clip(
                ClipType.FILECONTENTS_RESPONSE, ClipFlag.RESPONSE_FAIL, clip.body[:STREAM_ID]
            )
            own.away.say(failed)
            return Refuse()
        size = clip.size - STREAM_ID
        if clip.failed or size < 0 or own.rules.files != LOG:
            return Pass()
        key, moving = self._moving(own, request)
        portion = Portion(clipboard.HEADER + STREAM_ID, size)
        if request.wants_size:

            def sized(kept: bytes, whole: bool) -> None:  # noqa: FBT001 - Beginning's signature
                if whole and len(kept) == SIZE:
                    moving.size = int.from_bytes(kept, "little")
                    if not moving.size:
                        self._moved(own, key, "ok")  # of which nothing more will be asked

            return Pass(Beginning(self._ledger.body(), SIZE, portion, sized))

        def over(whole: bool) -> None:  # noqa: FBT001 - Block's signature
            moving.reached = max(moving.reached, request.position + size)
            if not whole:
                self._moved(own, key, INCOMPLETE)
            elif size < request.requested or moving.reached == moving.size:
                self._moved(own, key, "ok")

        return Pass(Block(moving.body, request.position, portion, over))

    def _moving(self, own: Giver, request: FileRequest) -> tuple[tuple[int, int], _Moving]:
        """Find the file that is asked for, or begin to follow it."""
        files = own.locked.get(request.lock, own.files) if request.lock is not None else own.files
        key = (files.number, request.place)
        if key not in own.moving:
            if len(own.moving) >= MAX_OPEN:
                self._moved(own, next(iter(own.moving)), INCOMPLETE)
            entry = files.entry(request.place)
            own.moving[key] = _Moving(entry, entry.size, self._ledger.body())
        return key, own.moving[key]

    def _moved(self, own: Giver, key: tuple[int, int], result: str) -> None:
        moving = own.moving.pop(key, None)
        if moving is None or (result == INCOMPLETE and not moving.body.size):
            return
        path = printable(moving.entry.name)
        self._ledger.moved(
            Transfer("clipboard", own.operation, path, result=result, expected=moving.size), moving.body
        )
