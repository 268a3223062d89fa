"""`proxyd console`: the web console's process.

Rule 1: it is a client of the control socket and nothing more: whatever happens to it, no session notices.
Rule 2: TLS 1.2 or 1.3 only, HTTP/1.1 only; what a browser sends is bounded before anything reads it.
Rule 3: a connection's fault is its own: nothing a browser does, or a library makes of it, ends the process.
Rule 4: SIGHUP reads the configuration again: users, their factors, admission. SIGTERM ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any, Final

import trio
from anycorn import Config as ServerConfig
from anycorn import run as server_run
from anycorn import serve
from anycorn.tcp_server import tcp_server_handler

from proxyd import config as configuration
from proxyd import log
from proxyd.access import Access
from proxyd.admission import Admission
from proxyd.config import Config, Console
from proxyd.console.app import Site, application
from proxyd.console.assets import Assets
from proxyd.console.daemon import Daemon
from proxyd.console.pages import Pages
from proxyd.console.recordings import Recordings
from proxyd.console.signin import SignIns
from proxyd.database_tls import front_context
from proxyd.errors import ConfigError
from proxyd.systemd_notify import notify

BACKLOG: Final = 100
HEADER_BYTES: Final = 16 << 10  # of a request, whole
SOCKET_MESSAGE_BYTES: Final = 4096  # browsers have next to nothing to say on a socket
PING_SECONDS: Final = 20.0  # a viewer that is gone is noticed, and a proxy between keeps the socket open
KEEP_ALIVE_SECONDS: Final = 30.0
READ_SECONDS: Final = 120  # without a byte, on any connection; a live view answers pings
STALL_MS: Final = 60_000  # as long as the daemon waits for a viewer who takes nothing
HANDSHAKE_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 3.0
NICE: Final = 5  # sessions beside it come first, also when it is flooded; without a unit nothing else says so
ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  what such an address means is said here, not bound

_log = log.get("console")


class _Server(ServerConfig):
    """anycorn's settings, with the TLS every front of proxyd has."""

    def __init__(self, settings: Console, listening: socket.socket) -> None:
        super().__init__()
        self._settings = settings
        self.bind = [f"fd://{listening.fileno()}"]
        self.certfile, self.keyfile = str(settings.certificate), str(settings.key)
        self.alpn_protocols = ["http/1.1"]  # WebSockets need it, and it is the least there is to attack
        self.errorlog = log.standard("anycorn.error")
        self.h11_max_incomplete_size = HEADER_BYTES
        self.websocket_max_message_size = SOCKET_MESSAGE_BYTES
        self.websocket_ping_interval = PING_SECONDS
        self.websocket_permessage_deflate = (
            False  # what is worth it is compressed already; and memory for each socket
        )
        self.keep_alive_timeout = KEEP_ALIVE_SECONDS
        self.read_timeout = READ_SECONDS
        self.ssl_handshake_timeout = HANDSHAKE_SECONDS
        self.graceful_timeout = GRACE_SECONDS
        self.backlog = BACKLOG
        self.include_server_header = False

    def create_ssl_context(self) -> ssl.SSLContext:
        """Give the context of a front. Raises ConfigError."""
        context = front_context(self._settings)
        context.set_alpn_protocols(self.alpn_protocols)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(self.ciphers)
        return context


def _walled(*of_server: Any) -> Any:
    """Make anycorn's handler of connections, with a firewall around each.

    Without it one ends them all: 0.20.1 closes an idle connection whose browser has gone, and lets ClosedResourceError out.
    """
    handler = tcp_server_handler(*of_server)

    async def connection(stream: Any) -> None:
        try:
            await handler(stream)
        except Exception as error:  # noqa: BLE001  one browser's trouble is nobody else's
            _log.info("a connection broke", error=type(error).__name__)

    return connection


def run(path: Path) -> None:
    """Serve the console until SIGTERM or Ctrl-C. Raises ConfigError."""
    config = configuration.load(path)
    if config.console is None:
        raise ConfigError("there is no [console] in it: add one, with its certificate and key", path)
    log.setup(config.log)
    os.nice(NICE)
    trio.run(_run, config, config.console)


async def _run(config: Config, settings: Console) -> None:
    listening = _listen(settings.address)
    with listening:
        host, port = listening.getsockname()[:2]
        server = _Server(settings, listening)
        server.create_ssl_context()  # a broken certificate is an error now, not at the first browser
        listening.detach()  # anycorn's from here on
        site = _site(config, settings)
        app: Any = application(site, hosts := _hosts(settings, host, port))
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            server_run.tcp_server_handler = _walled  # type: ignore[attr-defined,assignment]  # it has no other place
            await nursery.start(_signals, config.path, site, ended)
            await nursery.start(
                lambda task_status: serve(app, server, shutdown_trigger=ended.wait, task_status=task_status)
            )
            _log.info("ready", address=f"{host}:{port}", url=f"https://{hosts[0]}/")
            notify("READY=1")
            await ended.wait()
            notify("STOPPING=1")
            nursery.cancel_scope.deadline = trio.current_time() + 2 * GRACE_SECONDS


def _site(config: Config, settings: Console) -> Site:
    assets = Assets()
    return Site(
        settings=settings,
        review=config.review,
        access=Access(config),
        admission=Admission(config.admission),
        daemon=Daemon(config.control.socket),
        signins=SignIns(settings),
        assets=assets,
        pages=Pages(assets),
        recordings=Recordings(config.recording.identity),
    )


def _listen(address: str) -> socket.socket:
    host, port = configuration.split_address(address)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is accepted inherits both: keys of a live view at once, and an end for browsers that take nothing.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALL_MS)
        listening.bind(place)
        listening.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"the console can't listen at {address}: {error.strerror or error}") from None
    return listening


def _hosts(settings: Console, host: str, port: int) -> list[str]:
    """Give each "host:port" browsers may call the console by; the first is shown."""
    if settings.public:
        return [settings.public]
    if host in ANYWHERE:
        return [f"{socket.gethostname()}:{port}", f"{socket.getfqdn()}:{port}"]
    named = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return [named, f"localhost:{port}"] if host in ("127.0.0.1", "::1") else [named]


async def _signals(
    path: Path,
    site: Site,
    ended: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            if number != signal.SIGHUP:
                ended.set()
                return
            await _reload(path, site)


async def _reload(path: Path, site: Site) -> None:
    """Read the configuration again; a broken file changes nothing."""
    try:
        config = await trio.to_thread.run_sync(configuration.load, path)
        site.access = site.access.renewed(config)
    except ConfigError as error:
        _log.error("not reloaded", why=str(error))
        return
    site.review = config.review
    site.admission.reconfigure(config.admission)
    site.signins.keep(config.users.__contains__)
    _log.info("reloaded", users=len(config.users))
