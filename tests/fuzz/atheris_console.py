"""The console's HTTP, fuzzed: anycorn and the real application, with a signed-in browser's token, and no daemon behind.

Rule 1: nothing comes out of a connection, whatever was sent in whatever pieces, and nothing is logged as a fault: the wall
        around connections (server.Door) is there for what is not found here.
Rule 2: what is answered is HTTP/1.1, never a 500; who shows no token gets no page of the signed-in.
Rule 3: a connection ends by itself once its client has ended.

What the daemon would be asked fails as it does when the daemon is away. Times are trio's for tests: no wait takes any.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any, Final

import anyio
import anyio.abc
import trio
import trio.testing

from proxyd import config, log, metrics
from proxyd.access import Access
from proxyd.admission import Admission
from proxyd.console import server
from proxyd.console.app import Site, guarded
from proxyd.console.assets import Assets
from proxyd.console.daemon import Daemon
from proxyd.console.makers import Makers
from proxyd.console.pages import Pages
from proxyd.console.provider import Provider
from proxyd.console.recordings import Recordings
from proxyd.console.signin import SignIn, SignIns
from proxyd.console.videos import Videos
from tests.fuzz.program import Input

HOST: Final = "console.example"
TOKEN: Final = "T" * 43
MOST: Final = 256  # pieces of one input
DONE_SECONDS: Final = 600.0  # of the clock that jumps: longer than anything here waits
SIGNED_IN: Final = b'action="/sign-out"'


class Wire(anyio.abc.ByteStream):
    """A connection in memory: what the client says piece by piece, then its end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.sent = bytearray()
        self._closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self._closed:
            raise anyio.ClosedResourceError
        for piece in self._pieces:
            if piece:
                return piece[:max_bytes]
        await trio.sleep(1)  # what was asked is answered first: a browser waits
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self._closed:
            raise anyio.ClosedResourceError
        self.sent += item

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._closed = True
        await anyio.lowlevel.checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        place = SimpleNamespace(
            family=socket.AF_INET,
            getpeername=lambda: ("192.0.2.1", 40_000),
            getsockname=lambda: ("192.0.2.2", 443),
        )
        return {anyio.abc.SocketAttribute.raw_socket: lambda: place}


class Faults:
    """Where anycorn says what it caught; as a logger."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def exception(self, message: str, *_: Any) -> None:
        self.told.append(message)

    error = critical = exception

    def info(self, *_: Any) -> None:
        pass

    debug = warning = log = info


class Place:
    """One application, made once; `settings` are those of its server."""

    def __init__(self) -> None:
        console = config.Console(certificate=Path("none"), key=Path("none"), second_factor=False)
        oidc = config.Oidc(issuer="https://127.0.0.1:1", client_id="proxyd")  # nobody listens there
        settings = SimpleNamespace(
            users={"ann": config.User(name="ann")}, targets={}, grants=[], listen=SimpleNamespace(ssh=None)
        )
        directory = Path(mkdtemp(prefix="fuzz-console-"))
        daemon, assets = Daemon(directory / "none"), Assets()
        signins = SignIns(console, trio.current_time)
        self.site = Site(
            settings=console,
            review=config.Review(),
            access=Access(settings),  # type: ignore[arg-type]
            admission=Admission(config.Admission(exempt=["192.0.2.0/24"])),
            daemon=daemon,
            signins=signins,
            assets=assets,
            pages=Pages(assets),
            recordings=Recordings(None),
            videos=Videos(Makers(directory / "none.toml", daemon, 1), directory),
            provider=Provider(oidc, f"https://{HOST}"),
        )
        self.app = guarded(self.site, [f"{HOST}:443"])
        self.served = server.Settings(console)
        self.served.certfile = None
        self.faults = Faults()
        self.served.log.error_logger = self.faults  # type: ignore[assignment]

    def signed_in(self) -> None:
        """Sign in the one browser there is, anew: an input may have signed it out."""
        now = trio.current_time()
        one = SignIn("ann", "192.0.2.1", now, now, form_token=TOKEN[:21], asked=now)
        self.site.signins._known = {hashlib.sha256(TOKEN.encode()).digest(): one}


_PLACE: list[Place] = []


def play(data: bytes) -> None:
    """Run one input; AssertionError, or whatever else comes out, is a finding."""
    if not _PLACE:
        _PLACE.append(Place())
    place = _PLACE[0]
    before = metrics.CONSOLE.get_sample_value("proxyd_console_faults_total") or 0.0
    wire = trio.run(_played, place, data, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not place.faults.told, place.faults.told
    assert metrics.CONSOLE.get_sample_value("proxyd_console_faults_total") == before
    check(bytes(wire.sent), data)


async def _played(place: Place, data: bytes) -> Wire:
    place.signed_in()
    source = Input(data)
    wire = Wire(source.counted() for _ in range(MOST) if source.left > 0)
    serve, _ = server.handler(place.app, place.served)
    with trio.fail_after(DONE_SECONDS):
        await serve(wire)
    return wire


def check(sent: bytes, data: bytes) -> None:
    """Look at what was answered (rule 2)."""
    if not sent:
        return
    assert re.match(rb"HTTP/1\.1 [1-5]\d\d ", sent), sent[:80]
    if b" 101 " not in sent[:16]:
        assert not re.search(rb"^HTTP/1\.1 500 ", sent, re.MULTILINE), sent[:200]
    if TOKEN.encode() not in bytes(data):
        assert SIGNED_IN not in sent or len(data) > len(TOKEN)


def quiet() -> None:
    """Log nothing."""
    log.setup(config.Log(format="json", level="error"))
