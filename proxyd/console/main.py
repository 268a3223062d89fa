"""`proxyd console`: the web console's process.

Rule 1: it is a client of the control socket and nothing more: whatever happens to it, no session notices.
Rule 2: what a browser may ask of this machine is bounded (server, forms, signin), and sessions beside it come first.
Rule 3: SIGHUP reads the configuration again: users, their factors, admission. SIGTERM ends it.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Final

import trio

from proxyd import config as configuration
from proxyd import log, metrics
from proxyd.access import Access
from proxyd.admission import Admission
from proxyd.config import Config, Console
from proxyd.console.app import Site, guarded
from proxyd.console.assets import Assets
from proxyd.console.daemon import Daemon
from proxyd.console.guard import HTTPS_PORT
from proxyd.console.makers import Makers
from proxyd.console.pages import Pages
from proxyd.console.provider import Provider
from proxyd.console.recordings import Recordings
from proxyd.console.server import GRACE_SECONDS, Door, listen
from proxyd.console.signin import SignIns
from proxyd.console.telling import Teller
from proxyd.console.videos import Videos
from proxyd.errors import ConfigError
from proxyd.health import Health
from proxyd.systemd_notify import notify

NICE: Final = 5  # sessions beside it come first, also when it is flooded; without a unit nothing else says so
ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  what such an address means is said here, not bound

_log = log.get("console")


def run(path: Path) -> None:
    """Serve the console until SIGTERM or Ctrl-C. Raises ConfigError."""
    config = configuration.load(path)
    if config.console is None:
        raise ConfigError("there is no [console] in it: add one, with its certificate and key", path)
    log.setup(config.log)
    os.nice(NICE)
    try:
        trio.run(_run, config, config.console)
    except ExceptionGroup as group:  # a nursery wraps what ended it
        wrong, others = group.split(ConfigError)
        if wrong is None or others is not None:
            raise
        raise ConfigError(str(wrong.exceptions[0])) from None


async def _run(config: Config, settings: Console) -> None:
    listening = listen(settings.address)
    host, port = listening.getsockname()[:2]
    hosts = _hosts(settings, host, port)
    url = f"https://{hosts[0].removesuffix(f':{HTTPS_PORT}')}"
    site = _site(config, settings, url)
    site.door = Door(guarded(site, hosts), settings, config.admission)
    async with trio.open_nursery() as beside:
        if settings.metrics is not None:
            await beside.start(_measured, settings.metrics, site)
        await _serve(config, site, listening, f"{url}/")
        beside.cancel_scope.cancel()


async def _serve(config: Config, site: Site, listening: socket.socket, url: str) -> None:
    """Serve until a signal; what runs then has its grace."""
    assert site.door is not None  # noqa: S101  who calls has made it
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_signals, config.path, site, ended)
        host, port = listening.getsockname()[:2]
        await nursery.start(site.door.run, listening, ended)
        nursery.start_soon(site.videos.makers.run)
        nursery.start_soon(Teller(site.daemon, site.signins).run)
        _log.info("ready", address=f"{host}:{port}", url=url)
        notify("READY=1")
        await ended.wait()
        notify("STOPPING=1")
        site.videos.makers.stop()
        nursery.cancel_scope.deadline = trio.current_time() + 2 * GRACE_SECONDS
    site.emulators.end()


async def _measured(
    address: str, site: Site, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Show Prometheus what the console counts. Raises ConfigError where it can't listen."""
    metrics.CONSOLE_SIGN_INS.set_function(lambda: len(site.signins))
    try:
        await metrics.serve(address, Health, registry=metrics.CONSOLE, task_status=task_status)
    except OSError as error:
        raise ConfigError(
            f"the console's metrics can't listen at {address}: {error.strerror or error}"
        ) from None


def _site(config: Config, settings: Console, url: str) -> Site:
    assets, daemon = Assets(), Daemon(config.control.socket)
    return Site(
        settings=settings,
        review=config.review,
        access=Access(config),
        admission=Admission(config.admission),
        daemon=daemon,
        signins=SignIns(settings),
        assets=assets,
        pages=Pages(assets),
        recordings=Recordings(config.recording.identity),
        videos=Videos(Makers(config.path, daemon, config.export.jobs), config.recording.ledger),
        provider=Provider(settings.oidc, url) if settings.oidc is not None else None,
    )


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
    if site.door is not None:
        site.door.reconfigure(config.admission)
    site.signins.keep(config.users.__contains__)
    site.videos.makers.allow(config.export.jobs)
    _log.info("reloaded", users=len(config.users))
