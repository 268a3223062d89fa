"""RDP clients and targets that break, flood, stall or lie: each ends by itself and is told why in the protocol's words.

Beside each of them a real client works on a real target, and notices nothing; memory and sockets come back.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from proxyd.access import hash_password
from proxyd.memory import HEAPS, KEPT_BYTES
from proxyd.protocols.rdp import channels, fastpath, gcc, info, mcs, share, updates, wire
from proxyd.protocols.rdp.channels import ChannelFlag
from proxyd.protocols.rdp.events import Scancode
from proxyd.protocols.rdp.fastpath import Update, UpdateCode
from proxyd.protocols.rdp.share import Control, ControlKind, DataKind, ErrorInfo
from proxyd.protocols.rdp.updates import Bitmap, BitmapFlag
from proxyd.protocols.rdp.wire import Protocol
from proxyd.recorder.record import Kind
from tests.fuzz import seeds_rdp
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import eventually, free_port, open_sockets, rss_bytes
from tests.peers.rdp import freerdp, raw, xrdp
from tests.peers.rdp.freerdp import FreeRdp
from tests.peers.rdp.raw import (
    CHANNELS,
    CONFERENCE,
    FIRST,
    LICENSE,
    TLS,
    RawClient,
    RawTarget,
    TargetSide,
    said,
)
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import IN_TERMINAL, same
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.mission("M10", "M16"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (xrdp.INSTALLED and freerdp.INSTALLED), reason="xrdp or xfreerdp is not installed"
    ),
]

PASSWORD = "Alice's pass"
MIB = 1 << 20
KEPT = HEAPS * KEPT_BYTES  # what the C library may keep of what was freed, however much went by
MEMORY = KEPT + 32 * MIB  # what any of these may cost while it lasts
LEFT = KEPT + 16 * MIB  # what may stay: caches, too
LOGIN_S = 2
SETTLES_S = 30.0
DROPPED_S = 1.0 + 0.3  # the promise of a drop, and what this process adds to it
DENIED, ENDED = [ErrorInfo.SERVER_DENIED_CONNECTION], [ErrorInfo.RPC_INITIATED_DISCONNECT]
RDPSND, CLIPRDR, DRDYNVC = (FIRST + CHANNELS.index(name) for name in ("rdpsnd", "cliprdr", "drdynvc"))
KEY = fastpath.build_input([Scancode(0x1E)])
FLOOD = 200 * MIB  # what would pass if nothing held it back


@dataclass
class Stage:
    """A proxyd, a target that lies when it is told to, and a real session that has nothing to do with either."""

    proxyd: Proxyd
    port: int
    target: RawTarget
    bystander: FreeRdp
    desktop: Xrdp
    others: set[str]

    def client(self, password: str = PASSWORD) -> RawClient:
        """A client that wants to go to the lying target."""
        return RawClient(self.port, "alice%liar", password)

    def bodies(self, session: str, kind: Kind) -> list[Any]:
        """What a sealed recording holds of a kind."""
        return [record.body for record in self.proxyd.recording(session).records() if record.kind is kind]

    def end(self, before: set[str]) -> dict[str, Any]:
        """How the one session ended that was not there before."""
        session = self.proxyd.newest(before)["id"]
        (end,) = self.bodies(session, Kind.END)
        return {"id": session, **end}


@pytest.fixture(scope="module")
def standing(shared: Path) -> Iterator[Stage]:
    """The peers of all tests of this file."""
    directory = shared / "hostile"
    front, back = Identity(directory / "front"), Identity(directory / "back")
    front.key.chmod(0o600)
    with Xrdp(directory / "x") as desktop, RawTarget(back) as target:
        proxyd, port = Proxyd(directory / "p"), free_port()
        proxyd.settings["listen"]["rdp"] = {
            "address": f"{HOST}:{port}", "certificate": str(front.certificate), "key": str(front.key)
        }  # fmt: skip
        secret = directory / "password"
        secret.write_text(desktop.password)
        secret.chmod(0o600)
        for name, address, ca, user in (
            ("desk", desktop.address, desktop.identity.ca, desktop.user),
            ("liar", target.address, back.ca, "svc"),
        ):
            proxyd.settings.setdefault("targets", {})[name] = {
                "protocol": "rdp", "address": address, "tls": "verify-full", "tls_ca": str(ca), "login_seconds": LOGIN_S,
                "accounts": {user: {"password": f"file:{secret}"}},
            }  # fmt: skip
        proxyd.settings["targets"]["desk"]["login_seconds"] = 30
        proxyd.user("alice", password=hash_password(PASSWORD))
        proxyd.grant(users=["alice"])
        with (
            proxyd,
            FreeRdp(
                directory / "c", port, "alice%desk", PASSWORD, fingerprint=front.fingerprint
            ) as bystander,
        ):
            same(bystander.screen, desktop.screen)
            others = {proxyd.the_live_session()["id"]}
            stage = Stage(proxyd, port, target, bystander, desktop, others)
            with suppress(OSError), stage.client("wrong") as warm:  # what ordinary use costs is there before
                warm.negotiate().confer().log_in().rest()
            yield stage
            typed = desktop.home / "typed"
            bystander.screen.click(*IN_TERMINAL)
            bystander.screen.enter("echo undisturbed > typed")
            eventually("the bystander works", lambda: typed.exists() and typed.read_text() == "undisturbed\n")
            same(bystander.screen, desktop.screen)


@pytest.fixture
def stage(standing: Stage) -> Iterator[Stage]:
    """The stage; the bystander, sockets, memory and the log are looked at after."""
    pid = standing.proxyd.pid
    sockets, rss = open_sockets(pid), rss_bytes(pid)
    yield standing
    alone = lambda: {row["id"] for row in standing.proxyd.live()} == standing.others  # noqa: E731
    eventually("only the bystander is live", alone, within_s=SETTLES_S)
    eventually("sockets are back", lambda: open_sockets(pid) <= sockets, within_s=SETTLES_S)
    grown = rss_bytes(pid) - rss
    assert grown < LEFT, f"{grown >> 20} MiB stay"
    assert standing.bystander.connected
    for word in ("Traceback", "a bug", "in trouble"):
        assert word not in standing.proxyd.log()


# ---------------------------------------------------------------------------------------------- clients, before their login


def playbook(user: str, password: str) -> list[bytes]:
    """What a client says inside TLS until it has said who it is: it need not wait for answers."""
    client = object.__new__(RawClient)
    client.user = 1100  # as proxyd counts
    told = info.ClientInfo(0x409, raw.FLAGS, "", user, password, "", "", b"")
    joins = [
        mcs.ChannelJoinRequest(client.user, one)
        for one in (client.user, *range(FIRST - 1, FIRST + len(CHANNELS)))
    ]
    return [
        raw.CONNECT_INITIAL,
        mcs.build_message(mcs.ErectDomainRequest()),
        mcs.build_message(mcs.AttachUserRequest()),
        *map(mcs.build_message, joins),
        client.on(mcs.GLOBAL_CHANNEL, info.build_client_info(told)),
    ]


def resized(frame: bytes, size: int) -> bytes:
    """Give a frame cut or filled up to a size, and its TPKT says so."""
    body = frame[:size].ljust(size, b"\0")
    return body[:2] + wire.u16_big(size) + body[4:]


def variants(told: list[bytes], draw: Random) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the playbook with one message cut, resized, repeated, out of order, or of random bytes."""
    for at, frame in enumerate(told):
        before, after = told[:at], told[at + 1 :]
        yield f"{at} cut", [*before, frame[: draw.randrange(len(frame))]]
        yield f"{at} shorter", [*before, resized(frame, draw.randrange(7, len(frame))), *after]
        yield f"{at} longer", [*before, resized(frame, len(frame) + draw.randrange(1, 900)), *after]
        yield f"{at} repeated", [*before, frame, frame, *after]
        yield (
            f"{at} random",
            [*before, resized(draw.randbytes(len(frame)), len(frame)).replace(frame[:1], b"\3", 1), *after],
        )
        yield f"{at} flipped", [*before, flipped(frame, draw), *after]
        yield f"{at} left out", [*before, *after]
        yield f"{at} too late", [*before, *after[:1], frame, *after[1:]]


def flipped(frame: bytes, draw: Random) -> bytes:
    """Give a frame with a few bits turned behind its TPKT."""
    data = bytearray(frame)
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(4, len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_message_of_a_login_cut_resized_repeated_out_of_order_or_random(
    every: int, stage: Stage
) -> None:
    draw, codes = Random(4), []
    before = stage.proxyd.ids()
    for name, told in list(variants(playbook("nobody%liar", "wrong"), draw))[::every]:
        with stage.client() as client:
            client.negotiate()
            client.offer(*told)
            client.say_no_more()  # what waits for more gives up
            found = said(client.rest())
            assert found in ([], DENIED), name
            codes.append(found)
    assert DENIED in codes  # those that came as far as a name are told
    assert stage.proxyd.ids() == before


def test_connection_requests_of_every_length_and_random(stage: Stage) -> None:
    draw = Random(5)
    whole = wire.build_connection_request(wire.ConnectionRequest(wire.cookie("alice"), Protocol.SSL))
    bad = [whole[:size] for size in range(len(whole))]
    bad += [resized(whole, size) for size in (7, 10, 11, 18, 513, 0x7FFF)]
    bad += [b"\3\0" + draw.randbytes(draw.randrange(2, 60)) for _ in range(20)]
    bad += [flipped(whole, draw) for _ in range(20)]
    for data in bad:
        with socket.create_connection((HOST, stage.port), 20) as link:
            with suppress(OSError):
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
            got = b""
            with suppress(ConnectionError):
                while part := link.recv(4096):
                    got += part
        assert got == b"" or wire.parse_connection_confirm(got)


def test_client_information_that_is_none_is_told_so(stage: Stage) -> None:
    for payload in (b"", b"\x40\0\0\0", b"\x40\0\0\0" + b"\xff" * 40, bytes(64), Random(6).randbytes(400)):
        with stage.client() as client:
            client.negotiate().confer().send(client.on(mcs.GLOBAL_CHANNEL, payload))
            assert said(client.rest()) == DENIED


# ---------------------------------------------------------------------------------------------- clients, in their session


def chunk(total: int, flags: int, data: bytes) -> bytes:
    return struct.pack("<II", total, flags) + data


LIES_OF_CLIENTS: dict[str, Callable[[RawClient], bytes]] = {
    "a frame of no kind": lambda _: b"\x01\x02\x03\x04",
    "a frame of no length": lambda _: b"\x03\0\0\x04",
    "a fast path of no length": lambda _: b"\x04\x80\x00",
    "fewer events than it says": lambda _: bytes((0x0C, 4, 0, 0x1E)),
    "events of no kind": lambda _: bytes((0x04, 4, 0xFF, 0)),
    "an encrypted event": lambda _: bytes((0x84, 4, 0, 0x1E)),
    "a channel it has not joined": lambda one: one.on(FIRST + 20, bytes(8)),
    "another's user channel": lambda one: one.on(1002, bytes(8)),
    "a message of no conference": lambda _: wire.build_data_tpdu(b"\xfc" + bytes(20)),
    "half a data message": lambda one: mcs.build_data(mcs.Data(one.user, 1003, bytes(9)), to_server=True).replace(b"\x70", b"\x40", 1),
    "a share control that is too long": lambda one: one.on(1003, struct.pack("<HHH", 500, 0x17, 1100)),
    "a Demand Active": lambda one: one.on(1003, seeds_rdp.DEMAND_ACTIVE),
    "a redirection": lambda one: one.on(1003, share.build_control(Control(ControlKind.SERVER_REDIRECTION, 1, bytes(40)))),
    "a Confirm Active without sets": lambda one: one.on(1003, seeds_rdp.CONFIRM_ACTIVE[:30]),
    "events cut short, slowly": lambda one: one.share(DataKind.INPUT, struct.pack("<HH", 900, 0)),
    "deflated data": lambda one: bytes(one.share(DataKind.INPUT, bytes(20))[:-14]) + b"\x21" + bytes(13),
    "a dynamic channel of version 3": lambda one: one.on(DRDYNVC, chunk(4, 3, b"\x60\1\0\0")),
    "soft sync": lambda one: one.on(DRDYNVC, chunk(4, 3, b"\x90\0\0\0")),
    "a message inside another": lambda one: one.on(DRDYNVC, chunk(90, 1, b"x")) * 2,
    "more than it said": lambda one: one.on(RDPSND, chunk(2, 1, b"xxxx")),
    "less than it said": lambda one: one.on(RDPSND, chunk(9, 3, b"xxxx")),
    "a chunk that is deflated": lambda one: one.on(RDPSND, chunk(4, 3 | ChannelFlag.PACKET_COMPRESSED, b"xxxx")),
    "half a chunk": lambda one: one.on(RDPSND, b"\1\0\0\0"),
    "sound formats that are not there": lambda one: one.on(RDPSND, chunk(24, 3, b"\7\0\x14\0" + bytes(14) + b"\xff\xff" + bytes(4))),
}  # fmt: skip


def silent(side: TargetSide) -> None:
    side.rest()


@pytest.mark.parametrize("lie", LIES_OF_CLIENTS)
def test_a_client_that_lies_in_its_session_is_denied_and_its_target_let_go(lie: str, stage: Stage) -> None:
    before = stage.proxyd.ids()
    stage.target.plays(silent)
    with stage.client() as client:
        client.negotiate().confer().log_in().activate()
        client.send(LIES_OF_CLIENTS[lie](client))
        assert said(client.rest()) == DENIED
    end = stage.end(before)
    assert end["reason"] == "client error"
    assert end["error"].startswith("The client ")
    assert stage.target.sessions[0].ended.wait(10)


def test_input_before_the_licence_is_refused(stage: Stage) -> None:
    before = stage.proxyd.ids()
    stage.target.plays(silent, begins=LICENSE)
    with stage.client() as client:
        client.negotiate().confer().log_in()
        assert stage_began(stage)
        client.send(b"\x04\x04\x00\x1e")
        assert said(client.rest()) == DENIED
    assert stage.end(before)["reason"] == "client error"


def stage_began(stage: Stage) -> bool:
    """Wait until the target has a session."""
    eventually("the target has a session", lambda: stage.target.sessions)
    return stage.target.sessions[0].began.wait(10)


@pytest.mark.parametrize("sessions", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_random_frames_in_a_session(sessions: int, stage: Stage) -> None:
    """Whatever becomes of each: the session goes on, or ends by the client's fault, and says so."""
    draw = Random(7)
    stage.target.plays(silent)
    for _ in range(sessions):
        before = stage.proxyd.ids()
        with stage.client() as client:
            client.negotiate().confer().log_in().activate()
            for _ in range(20):
                body = draw.randbytes(draw.randrange(1, 200))
                channel = draw.choice((mcs.GLOBAL_CHANNEL, RDPSND, CLIPRDR, DRDYNVC))
                client.offer(draw.choice((
                    client.on(channel, body), client.on(channel, chunk(len(body), 3, body)),
                    bytes((4 * draw.randrange(16), len(body) + 2 & 0x7F or 3)) + body[: (len(body) + 2 & 0x7F or 3) - 2],
                )))  # fmt: skip
            client.say_no_more()
            assert said(client.rest()) in ([], DENIED)
        assert stage.end(before)["reason"] in ("client error", "closed")


# ---------------------------------------------------------------------------------------------- targets


def noise(side: TargetSide) -> None:
    while True:
        side.send(Random(8).randbytes(4096))


def hangs_up(side: TargetSide) -> None:
    side.close()


def no_confirm(side: TargetSide) -> None:
    side.link.recv(512)
    side.send(b"\3\0\0\x0b\x06\xd0\0\0\0\0\0")
    side.rest()


def answers(*frames: bytes) -> Callable[[TargetSide], None]:
    def script(side: TargetSide) -> None:
        for frame in frames:
            side.frame()
            side.send(frame)
        side.rest()

    return script


def _response(*blocks: gcc.Block) -> bytes:
    settings = gcc.build_create_response(blocks)
    return mcs.build_connect_response(mcs.ConnectResponse(0, mcs.OUR_PARAMETERS, settings))


def _blocks(count: int) -> gcc.Blocks:
    return gcc.server_blocks(Protocol.SSL, range(FIRST, FIRST + count))


BAD_BEGINNINGS: dict[str, tuple[str, Callable[[TargetSide], None]]] = {
    "silent at once": (TLS, silent),
    "noise at once": (TLS, noise),
    "gone at once": (TLS, hangs_up),
    "a confirm that is none": (TLS, no_confirm),
    "silent inside TLS": (CONFERENCE, silent),
    "noise inside TLS": (CONFERENCE, noise),
    "gone inside TLS": (CONFERENCE, hangs_up),
    "a response cut short": (CONFERENCE, answers(resized(raw.CONNECT_RESPONSE, 40))),
    "fewer channels": (CONFERENCE, answers(_response(*_blocks(2)))),
    "many more channels": (CONFERENCE, answers(_response(*_blocks(200)))),
    "security of its own": (CONFERENCE, answers(_response(*_blocks(4)[:-1], gcc.Block(gcc.Kind.SC_SECURITY, struct.pack("<II", 2, 3))))),
    "no user": (CONFERENCE, answers(raw.CONNECT_RESPONSE, b"", mcs.build_message(mcs.AttachUserConfirm(14, 1007)))),
    "another channel": (CONFERENCE, answers(
        raw.CONNECT_RESPONSE, b"", mcs.build_message(mcs.AttachUserConfirm(0, 1007)), mcs.build_message(mcs.ChannelJoinConfirm(0, 1007, 1007, 1003)))),
    "the fast path in a login": (CONFERENCE, answers(b"\0\x05\1\0\0")),
}  # fmt: skip


@pytest.mark.parametrize("beginning", BAD_BEGINNINGS)
def test_a_target_that_breaks_its_login_is_no_target(beginning: str, stage: Stage) -> None:
    before = stage.proxyd.ids()
    begins, script = BAD_BEGINNINGS[beginning]
    stage.target.plays(script, begins=begins)
    began = time.monotonic()
    with stage.client() as client:
        client.negotiate().confer().log_in()
        assert said(client.rest()) == DENIED
    assert time.monotonic() - began < 2 * LOGIN_S + 3
    end = stage.end(before)
    assert end["reason"] == "target error"
    assert end["error"].startswith(("liar ", "the target "))


LIES_OF_TARGETS: dict[str, Callable[[TargetSide], bytes]] = {
    "a frame of no kind": lambda _: b"\x01\x02\x03\x04",
    "a frame of no length": lambda _: b"\x03\0\0\x04",
    "noise": lambda _: b"\xff" * 70_000,
    "a message of no conference": lambda _: wire.build_data_tpdu(b"\xfc" + bytes(20)),
    "a share control that is too long": lambda one: one.on(1003, struct.pack("<HHH", 500, 0x17, 1002)),
    "a share control of nothing": lambda one: one.on(1003, bytes(8)),
    "a redirection": lambda one: one.on(1003, share.build_control(Control(ControlKind.SERVER_REDIRECTION, 1, bytes(40)))),
    "a Confirm Active": lambda one: one.on(1003, seeds_rdp.CONFIRM_ACTIVE),
    "a Demand Active without sets": lambda one: one.on(1003, share.build_control(Control(ControlKind.DEMAND_ACTIVE, 1002, bytes(9)))),
    "a dynamic channel whose name does not end": lambda one: one.on(DRDYNVC, chunk(9, 3, b"\x10\1abcdefg")),
    "soft sync": lambda one: one.on(DRDYNVC, chunk(8, 3, b"\x80\0" + bytes(6))),
    "data of version 3": lambda one: one.on(DRDYNVC, chunk(4, 3, b"\x70\1\0\0")),
    "a message inside another": lambda one: one.on(DRDYNVC, chunk(90, 1, b"x")) * 2,
    "more than it said": lambda one: one.on(RDPSND, chunk(2, 1, b"xxxx")),
    "a chunk that is deflated": lambda one: one.on(RDPSND, chunk(4, 3 | ChannelFlag.PACKET_COMPRESSED, b"xxxx")),
    "half a chunk": lambda one: one.on(DRDYNVC, b"\1\0\0\0"),
    "sound formats that are not there": lambda one: one.on(RDPSND, chunk(24, 3, b"\7\0\x14\0" + bytes(14) + b"\xff\xff" + bytes(4))),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES_OF_TARGETS)
def test_a_target_that_lies_in_a_session_ends_it(lie: str, stage: Stage) -> None:
    before = stage.proxyd.ids()

    def script(side: TargetSide) -> None:
        side.frame()  # the client has seen all that came before
        side.send(LIES_OF_TARGETS[lie](side))
        side.rest()

    stage.target.plays(script)
    with stage.client() as client:
        client.negotiate().confer().log_in().activate().send(KEY)
        assert said(client.rest()) == ENDED
    end = stage.end(before)
    assert end["reason"] == "target error"
    assert end["error"].startswith("liar ")
    assert stage.target.sessions[0].ended.wait(10)


def test_a_channel_message_that_never_ends_is_bounded(stage: Stage) -> None:
    """512 MiB announced, 64 MiB sent, on two channels at once; its end is one typed error."""
    pid, before = stage.proxyd.pid, stage.proxyd.ids()
    piece = bytes(channels.CHUNK)

    def script(side: TargetSide) -> None:
        first = [side.on(one, chunk(512 * MIB, ChannelFlag.FIRST, piece)) for one in (RDPSND, DRDYNVC)]
        more = b"".join(side.on(one, chunk(512 * MIB, 0, piece)) for one in (RDPSND, DRDYNVC))
        side.send(*first)
        for _ in range(64 * MIB // len(more) // 50):
            side.send(more * 50)
        side.send(side.on(RDPSND, chunk(512 * MIB, ChannelFlag.LAST, b"")))
        side.rest()

    rss, most = rss_bytes(pid), 0
    stage.target.plays(script)
    with stage.client() as client:
        client.negotiate().confer().log_in().activate()
        client.link.settimeout(0.2)
        frames: list[bytes] = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            most = max(most, rss_bytes(pid) - rss)
            try:
                frames.append(client.frame())
            except TimeoutError:
                continue
            except (EOFError, OSError):
                break
    assert said(frames) == ENDED
    assert most < MEMORY, f"{most >> 20} MiB"
    assert stage.end(before)["reason"] == "target error"


def test_licensing_without_end_costs_no_memory_and_no_record(stage: Stage) -> None:
    pid, before = stage.proxyd.pid, stage.proxyd.ids()

    def script(side: TargetSide) -> None:
        ask = side.on(mcs.GLOBAL_CHANNEL, b"\x80\0\0\0\1\3\x08\0" + bytes(4000))
        for _ in range(16 * MIB // len(ask)):
            side.send(ask)
        side.close()

    rss = rss_bytes(pid)
    stage.target.plays(script, begins=LICENSE)
    with stage.client() as client:
        client.negotiate().confer().log_in()
        assert len(client.rest()) > 1000
    assert rss_bytes(pid) - rss < MEMORY
    end = stage.end(before)
    (omitted,) = stage.bodies(end["id"], Kind.OMITTED)
    assert omitted["output"] > 15 * MIB
    assert not stage.bodies(end["id"], Kind.PDU)


# ---------------------------------------------------------------------------------------------- pictures


def tile(width: int, height: int, data: bytes, *, packed: bool = True, left: int = 0) -> Bitmap:
    flags = BitmapFlag.COMPRESSION | BitmapFlag.NO_COMPRESSION_HDR if packed else 0
    return Bitmap(left, 0, (left + width - 1) & 0xFFFF, height - 1, width, height, 32, flags, data)


def painted(*tiles: Bitmap) -> bytes:
    return fastpath.build_output([Update(UpdateCode.BITMAP, 0, 0, updates.build_bitmaps(tiles))])


LONGEST_RUNS = b"\x10" + b"\x0f\x00\xf2" * 600
BOMBS = {
    "larger than any desktop": painted(tile(0xFFFF, 0xFFFF, LONGEST_RUNS)),
    "runs beyond the last row": painted(tile(64, 1, LONGEST_RUNS)),
    "a thousand desktops in one update": painted(*[tile(640, 480, b"\x10\xf2")] * 1000),
    "nothing in it": painted(*[tile(64, 64, b"")] * 1000),
    "beside the desktop": painted(tile(64, 64, bytes(64 * 64 * 4), packed=False, left=0xFFF0)),
    "a count that lies": fastpath.build_output([Update(UpdateCode.BITMAP, 0, 0, b"\1\0\xff\xff" + bytes(40))]),
    "orders that were not agreed on": fastpath.build_output([Update(UpdateCode.ORDERS, 0, 0, b"\xff\xff" + bytes(200))]),
    "a pointer of 65535 pixels": fastpath.build_output([Update(UpdateCode.POINTER, 0, 0, b"\x20\0" + b"\xff" * 60)]),
    "fragments without a beginning": fastpath.build_output([Update(UpdateCode.BITMAP, 1, 0, bytes(60))]),
    "deflated noise": fastpath.build_output([Update(UpdateCode.BITMAP, 0, 0x21, Random(9).randbytes(400))]),
}  # fmt: skip


def test_hostile_pictures_pass_are_recorded_and_hurt_only_the_decoder(stage: Stage) -> None:
    before = stage.proxyd.ids()
    green = bytes((0, 200, 0, 0)) * (64 * 48)

    def script(side: TargetSide) -> None:
        side.send(*BOMBS.values(), painted(tile(64, 48, green, packed=False)))
        side.rest()

    stage.target.plays(script)
    with stage.client() as client:
        client.negotiate().confer().log_in().activate()
        for bomb in BOMBS.values():
            assert client.frame() == bomb
        client.frame()
        (session,) = {row["id"] for row in stage.proxyd.live()} - stage.others
        for state in ("live", "ended"):
            picture = stage.proxyd.directory / f"{state}.png"
            began = time.monotonic()
            shown = stage.proxyd.run_ctl("screenshot", session, "-o", str(picture))
            assert shown.code == 0, shown.err
            assert time.monotonic() - began < 20
            assert picture.read_bytes().startswith(b"\x89PNG")
            assert corner(picture) == (0, 200, 0)
            client.close()
            stage.proxyd.ended(session)
    assert stage.end(before)["reason"] == "closed"


def corner(picture: Path) -> tuple[int, ...]:
    with Image.open(picture) as shown:
        pixel = shown.convert("RGB").getpixel((5, 5))
        assert isinstance(pixel, tuple)
        return pixel


# ---------------------------------------------------------------------------------------------- who does not read


def test_a_client_that_stops_reading_holds_its_target_and_can_be_dropped(stage: Stage) -> None:
    pid, before = stage.proxyd.pid, stage.proxyd.ids()
    sent = [0]
    frame = painted(*[tile(64, 30, bytes(64 * 30 * 4), packed=False)] * 4)

    def script(side: TargetSide) -> None:
        side.link.settimeout(60)
        while sent[0] < FLOOD:
            side.send(frame * 8)
            sent[0] += len(frame) * 8

    rss, most = rss_bytes(pid), 0
    stage.target.plays(script)
    with stage.client() as client:
        client.negotiate().confer().log_in().activate()
        seen = -1
        while seen != sent[0]:  # until the target gets no more rid of
            seen = sent[0]
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                most = max(most, rss_bytes(pid) - rss)
        assert 0 < sent[0] < FLOOD / 2
        (session,) = {row["id"] for row in stage.proxyd.live()} - stage.others
        began = time.monotonic()
        stage.proxyd.call("drop", session=session)
        eventually("it has ended", lambda: {row["id"] for row in stage.proxyd.live()} == stage.others)
        assert time.monotonic() - began < DROPPED_S
    assert most < MEMORY, f"{most >> 20} MiB"
    assert stage.end(before)["reason"] == "dropped"


def test_a_target_that_stops_reading_holds_its_client(stage: Stage) -> None:
    pid, before = stage.proxyd.pid, stage.proxyd.ids()

    def script(side: TargetSide) -> None:
        stage.target.sessions[0].ended.wait(60)  # which comes with the end of this test's connection

    rss, most, sent = rss_bytes(pid), 0, 0
    stage.target.plays(script)
    with stage.client() as client:
        client.negotiate().confer().log_in().activate()
        client.link.settimeout(3)
        keys = fastpath.build_input([Scancode(0x1E, released=bool(one % 2)) for one in range(14)]) * 500
        with suppress(TimeoutError):
            while sent < FLOOD:
                client.send(keys)
                sent += len(keys)
                most = max(most, rss_bytes(pid) - rss)
    stage.target.sessions[0].ended.set()
    assert 0 < sent < FLOOD / 2
    assert most < MEMORY, f"{most >> 20} MiB"
    stage.end(before)


def test_clients_that_vanish_in_the_middle(stage: Stage) -> None:
    stage.target.plays(silent)
    for number in range(10):
        client = stage.client().negotiate().confer().log_in().activate()
        if number % 2:
            client.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        client.close()
