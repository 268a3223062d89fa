import hashlib

import pytest
from unit.rdp.beside import Channel, policy

from proxyd.config import Devices
from proxyd.protocols.rdp import devices, drives
from proxyd.protocols.rdp.devices import Completion, Device, DeviceType, Information, Major, Request, Status
from proxyd.protocols.rdp.wire import WireError, u16, u32
from proxyd.recorder.record import Kind

pytestmark = pytest.mark.mission("M3", "M16")

SPEC_CREATE = bytes.fromhex(  # MS-RDPEFS 4.12, Server Create Drive Request
    "72445249 03000000 00000000 01000000 00000000 00000000 80000000 0000000000000000 00000000 07000000 01000000"
    "01000000 00000000"
)
SPEC_CREATED = bytes.fromhex("72444349 02000000 00000000 00000000 01000000 00")  # MS-RDPESP 4.3
DRIVE = Device(DeviceType.FILESYSTEM, 3, b"HOME\0\0\0\0", b"")
PRINTER = Device(DeviceType.PRINT, 4, b"PRN1\0\0\0\0", b"\0" * 24)
PORT = Device(DeviceType.SERIAL, 5, b"COM1\0\0\0\0", b"")
CARD = Device(DeviceType.SMARTCARD, 6, b"SCARD\0\0\0", b"")
STRANGE = Device(0x40, 7, b"WHAT\0\0\0\0", b"")
EVERY = [DRIVE, PRINTER, PORT, CARD, STRANGE]
LOGGED = Devices(drives="log", printers="log", smartcards="log", ports="log")
HOME = "\\\\tsclient\\HOME\\"


def opened(rules=LOGGED, found=(DRIVE,), **more):
    """The channel with some devices announced."""
    channel = Channel(devices.CHANNEL, policy(devices=rules), **more)
    channel.up(devices.build_announce(found))
    channel.told.clear()
    channel.to_client()
    return channel


def request(major, completion=1, file=0, body=b"", device=3):
    head = u16(devices.Component.CORE) + u16(devices.Packet.DEVICE_IOREQUEST)
    return head + b"".join(map(u32, (device, file, completion, major, 0))) + body


def answer(completion=1, body=b"", status=0, device=3):
    head = u16(devices.Component.CORE) + u16(devices.Packet.DEVICE_IOCOMPLETION)
    return head + u32(device) + u32(completion) + u32(status) + body


def create(path, completion=1, options=0, device=3):
    name = (path + "\0").encode("utf-16-le") if path else b""
    return request(
        Major.CREATE, completion, body=bytes(24) + u32(options) + u32(len(name)) + name, device=device
    )


def opens(channel, path="\\a.txt", file=9, device=3, options=0, information=1):
    message = create(path, 1, options, device)
    assert channel.down(message) == message
    done = answer(1, u32(file) + bytes((information,)), device=device)
    assert channel.up(done) == done


def reads(channel, offset, data, asked=None, file=9, completion=2):
    wanted = (
        u32(len(data) if asked is None else asked) + u32(offset & 0xFFFFFFFF) + u32(offset >> 32) + bytes(20)
    )
    message = request(Major.READ, completion, file, wanted)
    assert channel.down(message) == message
    done = answer(completion, u32(len(data)) + data)
    assert channel.up(done) == done


def writes(channel, offset, data, file=9, completion=3, device=3, status=0):
    head = u32(len(data)) + u32(offset & 0xFFFFFFFF) + u32(offset >> 32) + bytes(20)
    message = request(Major.WRITE, completion, file, head + data, device=device)
    assert channel.down(message) == message
    channel.up(answer(completion, u32(len(data)) + b"\0", status=status, device=device))


def closes(channel, file=9, device=3):
    channel.down(request(Major.CLOSE, 4, file, bytes(32), device=device))
    channel.up(answer(4, bytes(5), device=device))


def hashed(content):
    return hashlib.sha256(content).hexdigest()


def test_messages_of_the_specification():
    assert devices.parse_request(SPEC_CREATE) == Request(3, 0, 1, Major.CREATE, 0)
    assert devices.parse_create(SPEC_CREATE) == devices.Create(1, "")
    assert devices.parse_completion(SPEC_CREATED) == Completion(2, 0, 0)
    assert devices.parse_created(SPEC_CREATED) == (1, 0)
    assert devices.build_failure(Request(2, 0, 0, Major.CREATE, 0), Status.SUCCESS) == SPEC_CREATED[
        :16
    ] + bytes(5)
    assert devices.parse_announce(devices.build_announce(EVERY)) == EVERY


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (DRIVE, "HOME"),
        (DRIVE._replace(data=b"a long name\0"), "a long name"),
        (DRIVE._replace(data="Größe\0".encode("utf-16-le")), "Größe"),
        (DRIVE._replace(data=b"\0"), "HOME"),
        (PRINTER, "PRN1"),
    ],
)
def test_names_of_devices(device, name):
    assert device.name == name


# ---------------------------------------------------------------------------------------------- which devices there are


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (Devices(), []),
        (LOGGED, EVERY[:4]),
        (Devices(drives="log"), [DRIVE]),
        (Devices(printers="allow"), [PRINTER]),
        (Devices(ports="log"), [PORT]),
        (Devices(smartcards="allow"), [CARD]),
    ],
)
def test_a_device_that_is_denied_is_not_announced(rules, left):
    channel = Channel(devices.CHANNEL, policy(devices=rules))
    assert channel.up(devices.build_announce(EVERY)) == devices.build_announce(left)
    refused = [one for one in EVERY if one not in left]
    assert channel.to_client() == b"".join(
        devices.build_reply(one.number, Status.ACCESS_DENIED) for one in refused
    )
    events = [(body["event"], body["path"]) for body in channel.settled(Kind.CHANNEL)]
    assert [path for event, path in events if event == "refused"] == [one.name for one in refused]
    shown = [] if "allow" in (rules.printers, rules.smartcards) else [one.name for one in left]
    assert [path for event, path in events if event == "open"] == shown


def test_a_device_that_was_not_announced_is_not_asked():
    channel = opened(Devices(drives="log"), [DRIVE, PRINTER])
    assert channel.down(create("", device=4)) == b""
    assert devices.parse_completion(channel.to_target()) == Completion(4, 1, Status.NO_SUCH_DEVICE)


def test_a_device_that_is_removed_is_gone():
    channel = opened()
    opens(channel)
    writes(channel, 0, b"half")
    message = u16(devices.Component.CORE) + u16(devices.Packet.DEVICELIST_REMOVE) + u32(1) + u32(3)
    assert channel.up(message) == message
    assert channel.settled(Kind.CHANNEL) == [{"event": "close", "type": "drive", "path": "HOME"}]
    assert channel.transfers() == [("get", f"{HOME}a.txt", 4, hashed(b"half"), "incomplete")]
    assert channel.down(create("\\b")) == b""


@pytest.mark.parametrize("rules", [Devices(), Devices(drives="log"), LOGGED])
def test_the_handshake_passes_and_nothing_that_is_unknown(rules):
    channel = Channel(devices.CHANNEL, policy(devices=rules))
    for message in (b"DrIn", b"PRCP"):
        assert channel.down(message) == channel.up(message) == b""
    core = u16(devices.Component.CORE)
    for packet in (
        devices.Packet.SERVER_ANNOUNCE,
        devices.Packet.SERVER_CAPABILITY,
        devices.Packet.CLIENTID_CONFIRM,
        devices.Packet.USER_LOGGEDON,
    ):
        assert channel.down(core + u16(packet) + b"body") == core + u16(packet) + b"body"
    for packet in (devices.Packet.CLIENT_NAME, devices.Packet.CLIENT_CAPABILITY):
        assert channel.up(core + u16(packet) + b"body") == core + u16(packet) + b"body"
        assert channel.down(core + u16(packet) + b"body") == b""
    assert channel.up(core + u16(0x1234)) == b""
    printing = u16(devices.Component.PRINTER) + b"CPbody"
    assert channel.up(printing) == channel.down(printing) == (printing if rules == LOGGED else b"")


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("size", [1, 57, 1600])
def test_files_are_read_and_written_and_in_the_log(size):
    channel = opened(size=size)
    opens(channel, "\\dir\\a.txt")
    given, taken = b"given " * 500, b"taken " * 400
    reads(channel, 0, given[:1000])
    reads(channel, 1000, given[1000:], asked=9999)
    writes(channel, 0, taken[:600])
    writes(channel, 600, taken[600:])
    closes(channel)
    path = f"{HOME}dir\\a.txt"
    assert channel.transfers() == [
        ("put", path, len(given), hashed(given), "ok"),
        ("get", path, len(taken), hashed(taken), "ok"),
    ]


def test_a_file_beyond_four_gigabytes_keeps_its_place():
    channel = opened()
    opens(channel)
    reads(channel, 5 << 32, b"far")
    closes(channel)
    ((_, _, size, sha256, _),) = channel.transfers()
    assert (size, sha256) == (3, None)


def test_what_is_allowed_passes_and_is_not_in_the_log():
    channel = opened(Devices(drives="allow"))
    opens(channel)
    reads(channel, 0, b"given")
    writes(channel, 0, b"taken")
    closes(channel)
    assert channel.settled() == []


def test_what_is_printed_is_in_the_log():
    channel = opened(LOGGED, [PRINTER])
    opens(channel, "", device=4)
    writes(channel, 0, b"%!PS-Adobe", device=4)
    closes(channel, device=4)
    assert channel.transfers() == [("get", "PRN1", 10, hashed(b"%!PS-Adobe"), "ok")]


def test_files_are_renamed_removed_and_folders_made():
    channel = opened()
    opens(channel, "\\new", options=devices.DIRECTORY_FILE, information=devices.FILE_CREATED)
    closes(channel)
    opens(channel, "/old.txt")
    name = "\\neu.txt\0".encode("utf-16-le")
    buffer = b"\0\0" + u32(len(name)) + name
    for kind, content in ((Information.RENAME, buffer), (Information.DISPOSITION, b"")):
        body = u32(kind) + u32(len(content)) + bytes(24) + content
        channel.down(request(Major.SET_INFORMATION, 7, 9, body))
        channel.up(answer(7, u32(len(content))))
    closes(channel)
    opens(channel, "\\tmp", options=devices.DELETE_ON_CLOSE)
    closes(channel)
    assert [(one["operation"], one["path"], one.get("to")) for one in channel.settled(Kind.TRANSFER)] == [
        ("mkdir", f"{HOME}new", None),
        ("rename", f"{HOME}old.txt", f"{HOME}neu.txt"),
        ("remove", f"{HOME}neu.txt", None),
        ("remove", f"{HOME}tmp", None),
    ]


def test_what_fails_does_not_count_as_done():
    channel = opened()
    channel.down(create("\\secret"))
    denied = answer(1, bytes(5), status=Status.ACCESS_DENIED)
    assert channel.up(denied) == denied
    closes(channel, file=0)
    opens(channel)
    writes(channel, 0, b"full", status=0xC000007F)
    closes(channel)
    assert [one[4] for one in channel.transfers()] == ["status 0xc000007f"]


def test_what_is_open_at_the_end_is_told():
    channel = opened()
    opens(channel)
    reads(channel, 0, b"part")
    channel.static.close()
    assert channel.transfers() == [("put", f"{HOME}a.txt", 4, hashed(b"part"), "incomplete")]


# ---------------------------------------------------------------------------------------------- the gate


def test_a_shut_gate_denies_what_the_target_asks():
    channel = opened()
    opens(channel)
    for major in (Major.CREATE, Major.READ, Major.WRITE, Major.DIRECTORY_CONTROL, Major.DEVICE_CONTROL, 0x77):
        assert channel.down(request(major, 8, 9, bytes(40)), closed=True) == b""
        assert devices.parse_completion(channel.to_target()) == Completion(3, 8, Status.ACCESS_DENIED)
    reads(channel, 0, b"and then it may again")


def test_an_answer_that_meets_a_shut_gate_is_a_denial_for_the_target():
    channel = opened()
    opens(channel)
    channel.down(request(Major.READ, 2, 9, u32(6) + bytes(28)))
    assert channel.up(answer(2, u32(6) + b"secret"), closed=True) == b""
    said = channel.to_target()
    assert devices.parse_completion(said) == Completion(3, 2, Status.ACCESS_DENIED)
    assert b"secret" not in said
    assert len(channel.refused) == 1
    assert channel.up(answer(2, u32(6) + b"secret")) == b""  # it has been answered


def test_devices_that_come_while_the_gate_is_shut_are_refused():
    channel = Channel(devices.CHANNEL, policy(devices=LOGGED))
    assert channel.up(devices.build_announce([DRIVE]), closed=True) == devices.build_announce([])
    assert channel.down(create("\\a")) == b""


# ---------------------------------------------------------------------------------------------- bad peers


def test_an_answer_nobody_asked_for_does_not_pass():
    channel = opened()
    assert channel.up(answer(1, u32(4) + b"data")) == b""
    opens(channel)
    assert channel.up(answer(1, u32(10) + b"\1")) == b""  # a second time


def test_no_more_is_open_than_is_remembered():
    channel = opened()
    for number in range(drives.MAX_PENDING):
        assert channel.down(request(Major.DEVICE_CONTROL, number, 0, bytes(32)))
    assert channel.down(request(Major.DEVICE_CONTROL, 9999, 0, bytes(32))) == b""
    assert devices.parse_completion(channel.to_target()).status == Status.TOO_MANY_OPENED_FILES
    assert channel.down(request(Major.DEVICE_CONTROL, 5, 0, bytes(32))) == b""  # its number is taken


def test_no_more_files_are_open_than_are_remembered():
    channel = opened()
    for number in range(drives.MAX_FILES):
        opens(channel, "\\x", file=number)
    assert channel.down(create("\\one more", 5)) == b""
    assert devices.parse_completion(channel.to_target()).status == Status.TOO_MANY_OPENED_FILES


@pytest.mark.parametrize(
    "message",
    [
        devices.build_announce([DRIVE])[:-1],
        devices.build_announce([])[:4] + u32(devices.MAX_DEVICES + 1),
        devices.build_announce([DRIVE])[:-4] + u32(1 << 31),
        b"rDM",
        b"rDMD" + u32(1 << 20),
        answer(1)[:9],
    ],
)
def test_a_client_that_breaks_the_protocol(message):
    with pytest.raises(WireError):
        Channel(devices.CHANNEL, policy(devices=LOGGED)).up(message)


@pytest.mark.parametrize(
    "message",
    [
        request(Major.CREATE)[:20],
        request(Major.CREATE, body=bytes(28) + u32(devices.MAX_PATH + 2)),
        request(Major.CREATE, body=bytes(28) + u32(10) + b"x"),
        request(Major.READ, body=b"123"),
        request(Major.SET_INFORMATION, body=u32(Information.RENAME)),
    ],
)
def test_a_target_that_breaks_the_protocol(message):
    with pytest.raises(WireError):
        opened().down(message)
