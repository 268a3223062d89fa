"""Both ends of RDP spoken byte by byte, to say what no real client or server would: a client's side and a target's.

They say what xfreerdp 2.11 and xrdp 0.9.21 said between themselves (`captured_rdp`) up to where a test begins to lie.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from proxyd.protocols.rdp import capabilities, info, mcs, share, wire
from proxyd.protocols.rdp.info import ClientInfo, InfoFlag, LicenseError
from proxyd.protocols.rdp.share import ControlAction, ControlKind, DataKind, ShareData
from proxyd.protocols.rdp.wire import Framer, Protocol
from tests.fuzz import captured_rdp as captured
from tests.peers.endpoint import HOST
from tests.peers.rdp.tls import Identity

TLS, CONFERENCE, LICENSE, ACTIVE = "tls", "conference", "license", "active"  # stages of a connection
SAYS_S = 20.0  # the longest one side waits for the other
CHANNELS = ("rdpdr", "rdpsnd", "cliprdr", "drdynvc")  # of CONNECT_INITIAL, from FIRST on
FIRST = mcs.GLOBAL_CHANNEL + 1
TARGET_USER = 1007
SHARE = 0x000103EA
WIDTH, HEIGHT = 640, 480
CONNECT_INITIAL, CONNECT_RESPONSE = captured.XFREERDP_CONNECT_INITIAL, captured.XRDP_CONNECT_RESPONSE
FLAGS = InfoFlag.UNICODE | InfoFlag.MOUSE | InfoFlag.DISABLECTRLALTDEL | InfoFlag.LOGONNOTIFY


class Side:
    """What either end has: frames in, bytes out."""

    def __init__(self, link: socket.socket) -> None:
        link.settimeout(SAYS_S)
        self.link = link
        self._framer = Framer()
        self._frames: list[bytes] = []

    def send(self, *frames: bytes) -> None:
        """Send these bytes as they are."""
        self.link.sendall(b"".join(frames))

    def offer(self, *frames: bytes) -> None:
        """Send, if the other side is still there."""
        with suppress(OSError):
            self.send(*frames)

    def frame(self) -> bytes:
        """Give the next frame; EOFError when there is none."""
        while not self._frames:
            data = self.link.recv(65536)
            if not data:
                raise EOFError
            self._frames += self._framer.feed(data)
        return self._frames.pop(0)

    def rest(self) -> list[bytes]:
        """Give the frames up to the end; TimeoutError when the other side keeps the connection."""
        found = []
        with suppress(EOFError, ConnectionError, ssl.SSLError):
            while True:
                found.append(self.frame())
        return found

    def say_no_more(self) -> None:
        """End this direction, as a TCP connection can, whatever TLS thinks of it."""
        with suppress(OSError):
            socket.socket.shutdown(self.link, socket.SHUT_WR)

    def close(self) -> None:
        """Close without a word."""
        self.link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def said(frames: list[bytes]) -> list[int]:
    """Give the codes of the Set Error Info messages among a client's frames."""
    return [
        share.parse_error_info(data.body) for data in shares(frames) if data.kind == DataKind.SET_ERROR_INFO
    ]


def shares(frames: list[bytes]) -> Iterator[ShareData]:
    """Yield the share data messages of the I/O channel."""
    for frame in frames:
        if wire.is_fast_path(frame):
            continue
        data = mcs.data_frame(frame)
        if data is None or data.channel != mcs.GLOBAL_CHANNEL or data.payload[2:3] != b"\x17":
            continue
        for control in share.split(data.payload):
            if control.kind == ControlKind.DATA:
                yield share.share_data(control)


# ---------------------------------------------------------------------------------------------- a client


class RawClient(Side):
    """A client that logs in with a password inside TLS, as far as it is told to."""

    def __init__(self, port: int, user: str = "", password: str = "") -> None:
        super().__init__(socket.create_connection((HOST, port), SAYS_S))
        self._info = ClientInfo(0x409, FLAGS, "", user, password, "", "", b"")
        self.user = 0

    def negotiate(self) -> Self:
        """Agree on TLS and begin it."""
        self.send(wire.build_connection_request(wire.ConnectionRequest(protocols=Protocol.SSL)))
        confirm = wire.parse_connection_confirm(self.link.recv(64))
        assert confirm.selected == Protocol.SSL
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who it is no test here asks
        self.link = context.wrap_socket(self.link)
        return self

    def confer(self) -> Self:
        """Begin the conference and join every channel."""
        self.send(CONNECT_INITIAL)
        mcs.parse_connect_response(self.frame())
        self.send(mcs.build_message(mcs.ErectDomainRequest()), mcs.build_message(mcs.AttachUserRequest()))
        attached = mcs.parse_message(self.frame())
        assert isinstance(attached, mcs.AttachUserConfirm)
        self.user = attached.user
        for channel in (self.user, mcs.GLOBAL_CHANNEL, *range(FIRST, FIRST + len(CHANNELS))):
            self.send(mcs.build_message(mcs.ChannelJoinRequest(self.user, channel)))
            assert isinstance(mcs.parse_message(self.frame()), mcs.ChannelJoinConfirm)
        return self

    def log_in(self) -> Self:
        """Say who it is."""
        self.send(self.on(mcs.GLOBAL_CHANNEL, info.build_client_info(self._info)))
        return self

    def on(self, channel: int, payload: bytes) -> bytes:
        """Give the frame of a payload on a channel."""
        return mcs.build_data(mcs.Data(self.user, channel, payload), to_server=True)

    def share(self, kind: DataKind, body: bytes) -> bytes:
        """Give the frame of a share data message."""
        return self.on(mcs.GLOBAL_CHANNEL, share.build_share_data(ShareData(SHARE, self.user, kind, body)))

    def activate(self) -> Self:
        """Go on to where the target has nothing more to ask: its Font Map."""
        while True:
            frame = self.frame()
            data = None if wire.is_fast_path(frame) else mcs.data_frame(frame)
            if data is not None and data.payload[2:3] == bytes((0x10 | ControlKind.DEMAND_ACTIVE,)):
                break
        self.send(
            self.on(mcs.GLOBAL_CHANNEL, captured.XFREERDP_CONFIRM_ACTIVE),
            self.share(DataKind.SYNCHRONIZE, share.synchronize(mcs.SERVER_USER)),
            self.share(DataKind.CONTROL, share.control_action(ControlAction(share.Action.COOPERATE))),
            self.share(DataKind.CONTROL, share.control_action(ControlAction(share.Action.REQUEST_CONTROL))),
            self.share(DataKind.FONT_LIST, share.FONT_LIST),
        )
        while not any(data.kind == DataKind.FONT_MAP for data in shares([self.frame()])):
            pass
        return self


# ---------------------------------------------------------------------------------------------- a target


@dataclass
class Seen:
    """What a target has seen of one connection."""

    began: threading.Event = field(default_factory=threading.Event)  # its session
    ended: threading.Event = field(default_factory=threading.Event)  # the script has


Script = Callable[["TargetSide"], None]


class TargetSide(Side):
    """One connection to a target."""

    def on(self, channel: int, payload: bytes) -> bytes:
        """Give the frame of a payload on a channel."""
        return mcs.build_data(mcs.Data(mcs.SERVER_USER, channel, payload), to_server=False)

    def share(self, kind: DataKind, body: bytes) -> bytes:
        """Give the frame of a share data message."""
        return self.on(
            mcs.GLOBAL_CHANNEL, share.build_share_data(ShareData(SHARE, mcs.SERVER_USER, kind, body))
        )

    def accept(self, context: ssl.SSLContext) -> None:
        """Be the server of a connection up to TLS."""
        wire.parse_connection_request(self.link.recv(512))
        self.send(wire.build_connection_confirm(wire.ConnectionConfirm(Protocol.SSL, wire.ResponseFlag(0))))
        self.link = context.wrap_socket(self.link, server_side=True)

    def confer(self) -> None:
        """Be the server of its conference, up to Client Info."""
        mcs.parse_connect_initial(self.frame())
        self.send(CONNECT_RESPONSE)
        while True:
            match mcs.parse_message(self.frame()):
                case mcs.AttachUserRequest():
                    self.send(mcs.build_message(mcs.AttachUserConfirm(0, TARGET_USER)))
                case mcs.ChannelJoinRequest(user, channel):
                    self.send(mcs.build_message(mcs.ChannelJoinConfirm(0, user, channel, channel)))
                case mcs.Data():
                    return

    def license(self) -> None:
        """Ask for no licence."""
        self.send(self.on(mcs.GLOBAL_CHANNEL, info.build_license_error(LicenseError.STATUS_VALID_CLIENT)))

    def activate(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        """Begin a desktop and let the client finish."""
        active = capabilities.build_demand_active(capabilities.our_demand_active(width, height))
        self.send(self.on(mcs.GLOBAL_CHANNEL, share.build_control(active)))
        while not any(data.kind == DataKind.FONT_LIST for data in shares([self.frame()])):
            pass
        self.send(self.share(DataKind.FONT_MAP, share.FONT_MAP))


class RawTarget:
    """A server whose sessions go by a script: `with RawTarget(identity) as target: target.plays(script)`.

    The script is given each connection from where `begins` says: TLS, CONFERENCE, LICENSE (Client Info has come), or ACTIVE
    (the desktop stands). It ends when it likes, or when the other side has gone.
    """

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._script: Script = lambda side: side.rest() and None
        self._begins = ACTIVE
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.certificate, identity.key)
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.sessions: list[Seen] = []
        self.broken: list[BaseException] = []  # what a script asserted in vain
        self._links: list[socket.socket] = []

    @property
    def address(self) -> str:
        """host:port, as proxyd's configuration has it."""
        return f"{HOST}:{self.port}"

    def plays(self, script: Script, *, begins: str = ACTIVE) -> None:
        """Let the connections that come from now on go by this script."""
        self._script, self._begins = script, begins
        self.sessions.clear()

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()
        assert not self.broken, self.broken

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        seen = Seen()
        self.sessions.append(seen)
        side = TargetSide(link)
        with self._excused(), suppress(OSError, EOFError):
            stages = {
                TLS: lambda: side.accept(self._context),
                CONFERENCE: side.confer,
                LICENSE: side.license,
                ACTIVE: side.activate,
            }
            script, begins = self._script, self._begins
            for name, stage in stages.items():
                if name == begins != ACTIVE:
                    break
                stage()
            self._links.append(side.link)
            seen.began.set()
            script(side)
        seen.ended.set()
        side.close()

    @contextmanager
    def _excused(self) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            self.broken.append(error)
