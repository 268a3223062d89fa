"""The client's devices as the target uses them: which it learns of, what it asks of them, and what the log says.

Rule 1: a device that is not to be used is taken out of the list in which it is announced; the client is told that the
        target denies it. A request to a device that was not announced is answered here, in the client's place.
Rule 2: an answer passes only when it was asked for, and what is asked is counted: nothing grows without bound.
Rule 3: while the gate is shut the client answers nothing: every request that is open, or comes, is denied in its place.
Rule 4: of files that are read and written the log has path, size and SHA-256, in the direction in which their bytes went.
Rule 5: what is no message that is known here does not pass.

MS-RDPEFS 2.2, 3.2, 3.3; MS-RDPEPC 2.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from proxyd.characters import printable
from proxyd.digest import Body
from proxyd.events import TEXT_KEPT, Transfer
from proxyd.protocols.rdp import devices
from proxyd.protocols.rdp.devices import (
    Component,
    Device,
    DeviceType,
    Information,
    Major,
    Packet,
    Request,
    Status,
)
from proxyd.protocols.rdp.measured import INCOMPLETE, Block, Ledger, Portion
from proxyd.protocols.rdp.passing import Instead, Pass, Refuse, Verdict, Way
from proxyd.recorder.record import Kind

if TYPE_CHECKING:
    from proxyd.config import Devices

MAX_PENDING: Final = (
    1024  # requests without an answer; one that waits for a folder to change may wait for ever
)
MAX_FILES: Final = 1024  # files open at once on all devices
DENY, LOG = "deny", "log"
SHOWN_TYPES: Final = {
    DeviceType.SERIAL: "serial port",
    DeviceType.PARALLEL: "parallel port",
    DeviceType.PRINT: "printer",
    DeviceType.FILESYSTEM: "drive",
    DeviceType.SMARTCARD: "smart card reader",
}
_HANDSHAKE_DOWN: Final = frozenset(
    {
        Packet.SERVER_ANNOUNCE,
        Packet.SERVER_CAPABILITY,
        Packet.CLIENTID_CONFIRM,
        Packet.USER_LOGGEDON,
        Packet.DEVICE_REPLY,
    }
)
_HANDSHAKE_UP: Final = frozenset({Packet.CLIENTID_CONFIRM, Packet.CLIENT_NAME, Packet.CLIENT_CAPABILITY})


@dataclass
class _Open:
    """A file the target has open on a device: what passed of it each way."""

    device: Device
    path: str
    removed: bool = False
    failed: int = 0  # the status of a write that did not succeed
    put: Body | None = None  # from the client's device to the target
    got: Body | None = None  # from the target to the client's device
    bodies: list[tuple[str, Body]] = field(default_factory=list)


class _Pending(NamedTuple):
    """A request the client has not answered."""

    request: Request
    path: str = ""  # of a create, or the new one of a renaming
    options: int = 0
    offset: int = 0
    kind: int = 0  # of what is changed


class Drives:
    """Both directions of the channel "rdpdr"."""

    def __init__(self, rules: Devices, ledger: Ledger) -> None:
        self._rules = rules
        self._ledger = ledger
        self._devices: dict[int, Device] = {}
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._files: dict[tuple[int, int], _Open] = {}
        self._up: Way
        self._down: Way

    def join(self, up: Way, down: Way) -> None:
        """Learn of the two directions once they are there."""
        self._up, self._down = up, down

    def close(self) -> None:
        """Tell what is unfinished."""
        for key in list(self._files):
            self._closed(key, INCOMPLETE)

    def _rule(self, kind: int) -> str:
        rules: dict[int, str] = {
            DeviceType.SERIAL: self._rules.ports,
            DeviceType.PARALLEL: self._rules.ports,
            DeviceType.PRINT: self._rules.printers,
            DeviceType.FILESYSTEM: self._rules.drives,
            DeviceType.SMARTCARD: self._rules.smartcards,
        }
        return rules.get(kind, DENY)

    # ------------------------------------------------------------------ from the client

    def from_client(self, head: bytes, total: int, closed: bool) -> Verdict | int:  # noqa: FBT001 - Judge
        """Judge a message of the client's; raises WireError."""
        if len(head) < min(devices.HEADER, total):
            return devices.HEADER
        component, packet = devices.parse_header(head)
        if component == Component.CORE and packet == Packet.DEVICE_IOCOMPLETION:
            return self._answer(head, total, closed=closed)
        if closed and packet != Packet.DEVICELIST_ANNOUNCE:
            return Refuse()
        if component == Component.PRINTER:
            return Pass() if self._rules.printers != DENY else Refuse()
        if component != Component.CORE:
            return Refuse()
        if packet in _HANDSHAKE_UP:
            return Pass()
        if packet not in (Packet.DEVICELIST_ANNOUNCE, Packet.DEVICELIST_REMOVE):
            return Refuse()
        if len(head) < total:
            return total
        return (
            self._announced(head, closed=closed)
            if packet == Packet.DEVICELIST_ANNOUNCE
            else self._removed(head)
        )

    def _announced(self, message: bytes, *, closed: bool) -> Verdict:
        """Let the target learn of the devices it may use (rule 1)."""
        found = devices.parse_announce(message)
        kept: list[Device] = []
        for one in found:
            rule = DENY if closed else self._rule(one.kind)
            if rule != DENY and len(self._devices) < devices.MAX_DEVICES:
                self._devices[one.number] = one
                kept.append(one)
            else:
                self._down.say(devices.build_reply(one.number, Status.ACCESS_DENIED))
            if rule != "allow":
                self._shown(one, "refused" if rule == DENY else "open")
        return Pass() if len(kept) == len(found) else Instead(devices.build_announce(kept))

    def _shown(self, device: Device, event: str) -> None:
        kind = (
            SHOWN_TYPES.get(DeviceType(device.kind), "device") if device.kind in set(DeviceType) else "device"
        )
        told = {"event": event, "type": kind, "path": printable(device.name)[:TEXT_KEPT]}
        self._ledger.tell(Kind.CHANNEL, told)

    def _removed(self, message: bytes) -> Verdict:
        for number in devices.parse_remove(message):
            device = self._devices.pop(number, None)
            if device is not None and self._rule(device.kind) == LOG:
                self._shown(device, "close")
            for key in [key for key in self._files if key[0] == number]:
                self._closed(key, INCOMPLETE)
        return Pass()

    def _answer(self, head: bytes, total: int, *, closed: bool) -> Verdict | int:
        """Pass what was asked for, and nothing else (rule 2)."""
        if len(head) < min(devices.COMPLETION, total):
            return devices.COMPLETION
        answer = devices.parse_completion(head)
        key = (answer.device, answer.completion)
        pending = self._pending.get(key)
        if pending is None:
            return Refuse()
        needed = {Major.CREATE: total, Major.READ: devices.COMPLETION_CONTENT}.get(
            Major(pending.request.major) if pending.request.major in set(Major) else Major.CLOSE, 0
        )
        if not closed and len(head) < min(needed, total):
            return needed
        del self._pending[key]
        if closed:
            self._up.say(devices.build_failure(pending.request, Status.ACCESS_DENIED))
            return Refuse()
        if answer.status == Status.SUCCESS:
            return self._done(pending, head)
        file = self._files.get((pending.request.device, pending.request.file))
        if pending.request.major == Major.WRITE and file is not None:
            file.failed = answer.status
        return Pass()

    def _done(self, pending: _Pending, head: bytes) -> Verdict:
        """Note what a request that succeeded has done."""
        request = pending.request
        key = (request.device, request.file)
        device = self._devices.get(request.device)
        file = self._files.get(key)
        if request.major == Major.CREATE and device is not None:
            self._opened(pending, device, *devices.parse_created(head))
        elif request.major == Major.CLOSE:
            self._closed(key, "ok")
        elif file is None or self._rule(file.device.kind) != LOG:
            return Pass()
        elif request.major == Major.READ:
            if file.put is None:
                file.put = self._ledger.body()
                file.bodies.append(("put", file.put))
            portion = Portion(devices.COMPLETION_CONTENT, devices.parse_read(head))
            return Pass(Block(file.put, pending.offset, portion, _passed))
        elif request.major == Major.SET_INFORMATION:
            self._changed(file, pending)
        return Pass()

    def _opened(self, pending: _Pending, device: Device, number: int, information: int) -> None:
        name, path = printable(device.name), _shown_path(device, pending.path)
        if device.kind != DeviceType.FILESYSTEM:
            path = name or SHOWN_TYPES[DeviceType(device.kind)]
        removed = bool(pending.options & devices.DELETE_ON_CLOSE)
        self._files[device.number, number] = _Open(device, path, removed=removed)
        made = information == devices.FILE_CREATED and pending.options & devices.DIRECTORY_FILE
        if made and self._rule(device.kind) == LOG:
            self._told("mkdir", path)

    def _changed(self, file: _Open, pending: _Pending) -> None:
        if pending.kind == Information.DISPOSITION:
            file.removed = True
        elif pending.kind == Information.RENAME:
            to = _shown_path(file.device, pending.path)
            self._told("rename", file.path, to)
            file.path = to

    def _told(self, operation: str, path: str, to: str = "") -> None:
        self._ledger.tell(Kind.TRANSFER, Transfer("drive", operation, path, to=to).as_map())

    def _closed(self, key: tuple[int, int], result: str) -> None:
        file = self._files.pop(key, None)
        if file is None:
            return
        if file.failed:
            result = f"status {file.failed:#x}"
        for operation, body in file.bodies:
            self._ledger.moved(Transfer("drive", operation, file.path, result=result), body)
        if file.removed and result == "ok" and self._rule(file.device.kind) == LOG:
            self._told("remove", file.path)

    # ------------------------------------------------------------------ from the target

    def from_target(self, head: bytes, total: int, closed: bool) -> Verdict | int:  # noqa: FBT001 - Judge
        """Judge a message of the target's; raises WireError."""
        if len(head) < min(devices.HEADER, total):
            return devices.HEADER
        component, packet = devices.parse_header(head)
        if component == Component.PRINTER:
            return Pass() if self._rules.printers != DENY else Refuse()
        if component != Component.CORE:
            return Refuse()
        if packet != Packet.DEVICE_IOREQUEST:
            return Pass() if packet in _HANDSHAKE_DOWN else Refuse()
        return self._request(head, total, closed=closed)

    def _request(self, head: bytes, total: int, *, closed: bool) -> Verdict | int:
        if len(head) < min(devices.REQUEST, total):
            return devices.REQUEST
        request = devices.parse_request(head)
        refusal = self._refusal(request, closed=closed)
        if refusal is not None:
            self._up.say(devices.build_failure(request, refusal))
            return Refuse()
        needed = {
            Major.CREATE: total,
            Major.SET_INFORMATION: total,
            Major.READ: devices.REQUEST + 12,
            Major.WRITE: devices.WRITE_CONTENT,
        }.get(Major(request.major) if request.major in set(Major) else Major.CLOSE, 0)
        if len(head) < min(needed, total):
            return needed
        return self._asked(request, head)

    def _refusal(self, request: Request, *, closed: bool) -> Status | None:
        """Say why a request is answered here, in the client's place (rules 1 to 3)."""
        if request.device not in self._devices:
            return Status.NO_SUCH_DEVICE
        if closed:
            return Status.ACCESS_DENIED
        full = request.major == Major.CREATE and len(self._files) >= MAX_FILES
        repeated = (request.device, request.completion) in self._pending
        return Status.TOO_MANY_OPENED_FILES if full or repeated or len(self._pending) >= MAX_PENDING else None

    def _asked(self, request: Request, head: bytes) -> Verdict:
        verdict, pending = Pass(), _Pending(request)
        match request.major:
            case Major.CREATE:
                create = devices.parse_create(head)
                pending = _Pending(request, create.path, create.options)
            case Major.READ:
                pending = _Pending(request, offset=devices.parse_reach(head).offset)
            case Major.SET_INFORMATION:
                kind, path = devices.parse_information(head)
                pending = _Pending(request, path, kind=kind)
            case Major.WRITE:
                verdict = self._written(request, head)
        self._pending[request.device, request.completion] = pending
        return verdict

    def _written(self, request: Request, head: bytes) -> Pass:
        file = self._files.get((request.device, request.file))
        if file is None or self._rule(file.device.kind) != LOG:
            return Pass()
        reach = devices.parse_reach(head)
        if file.got is None:
            file.got = self._ledger.body()
            file.bodies.append(("get", file.got))
        return Pass(Block(file.got, reach.offset, Portion(devices.WRITE_CONTENT, reach.length), _passed))


def _shown_path(device: Device, path: str) -> str:
    """Give a path on a client's drive as users of Windows know it."""
    inside = printable(path).replace("/", "\\").lstrip("\\")
    return rf"\\tsclient\{printable(device.name)}\{inside}"[:TEXT_KEPT]


def _passed(_: bool) -> None:  # noqa: FBT001 - Block's signature
    """Nothing is due when a block of a file ends: the file's own end is its close."""
