"""The composition root: everything the daemon is made of, started in order and ended in order.

Rule 1: recordings a crash left open are sealed before the first session begins.
Rule 2: `ready` is logged once every listener accepts, and names them all.
Rule 3: a stop accepts nothing new, lets sessions finish for `drain_seconds`, drops the rest with a word, and seals
        every tape; a second signal shortens the wait to nothing.
Rule 4: a reload replaces users, targets and grants for new logins; a broken file changes nothing and says why.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from proxyd import __version__, config, enrolled, host, log, memory, metrics
from proxyd.access import Access
from proxyd.admission import Admission
from proxyd.archive import Archive
from proxyd.config import Config, MysqlListen, PostgresListen, RdpListen
from proxyd.control.fetching import Tickets
from proxyd.control.owning import Pending
from proxyd.control.server import ControlServer
from proxyd.control.signins import Consoles
from proxyd.database_tls import front_context
from proxyd.decoders import PACKAGES, freerdp
from proxyd.engine import Caller, Converse, Core, Engine, MakeEngine
from proxyd.enrolled import Enrolled
from proxyd.errors import ConfigError
from proxyd.exports import Exports
from proxyd.fronts import SPOKEN, Front, read_fronts
from proxyd.governance.notices import Event, Notice
from proxyd.health import Watch
from proxyd.indexing.keyring import NAME as KEYS
from proxyd.indexing.keyring import Keyring
from proxyd.indexing.pool import Indexer
from proxyd.listener import Listener
from proxyd.notifications import Notifier
from proxyd.passkeys import Ceremonies
from proxyd.protocols.ssh.engine import SshEngine, front_options
from proxyd.recorder.catalog import Catalog
from proxyd.recorder.jobs import Jobs
from proxyd.recorder.keys import load_signer
from proxyd.recorder.ledger import Ledger
from proxyd.recorder.recorder import Gauges, Recorder
from proxyd.recorder.recover import Recovered, recover
from proxyd.recorder.reviews import Reviews
from proxyd.search.feed import Feed
from proxyd.search.opening import open_index, remove_index
from proxyd.search.words import SearchError
from proxyd.session import SHUTTING_DOWN, Registry
from proxyd.systemd_notify import notify
from proxyd.tokens import Tokens
from proxyd.vault import VaultError

if TYPE_CHECKING:
    from proxyd.uploads import Uploads

SHUTDOWN_BY = "proxyd"
"""Who a recording says dropped the sessions that a stop ended."""

CONTROL_CONNECTIONS = 256
"""Connections to the control socket at once: a room full of viewers, each holds one."""

SEAL_ALL_S = 15.0
"""Seconds all tapes together may take to seal at a stop; after that recovery does it at the next start."""

GARBAGE_THRESHOLDS = (10_000, 10, 10)
"""Objects made between two looks for cyclic garbage: the interpreter's 700 would look while somebody types."""

_log = log.get("daemon")


def serve(path: Path) -> None:
    """Run the daemon until SIGTERM or SIGINT; raises ConfigError when it can't start."""
    memory.settle()
    settings = config.load(path)
    log.setup(settings.log)
    host.run(functools.partial(Daemon(settings).run), stray=_stray)


def _calm_collector() -> None:
    """Take what the daemon is made of out of the search for garbage; it is there for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _stray(context: dict[str, Any]) -> None:
    """Log what nobody took on the host loop: one connection's bug must not end the daemon."""
    _log.error("a bug on the host loop", what=context.get("message"), exc_info=context.get("exception"))


class Daemon:
    """The parts, and how they are put together; also what the control socket is given."""

    def __init__(self, settings: Config) -> None:
        self.started_at = time.time()
        self._settings = settings
        self._configured = settings  # as the file says it: without what users set up themselves
        self._listeners: list[Listener] = []
        self.core: Core
        self.archive: Archive
        self.exports: Exports
        self.health: Watch
        self.reviews: Reviews
        self.notifier = Notifier(settings.notify, lambda: self.core.config)
        self.indexer = Indexer(settings.index, settings.recording)
        self.tickets = Tickets()
        self.enrolled: Enrolled
        self.pending = Pending()
        self.ceremonies = Ceremonies()
        self.consoles = Consoles()
        self.fronts: dict[str, Front] = {}
        self._search: Feed | None = None

    # what the control socket needs, under the names it knows ---------------------------------

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.core.config

    @property
    def registry(self) -> Registry:
        """The live sessions."""
        return self.core.registry

    @property
    def recorder(self) -> Recorder:
        """The recorder."""
        return self.core.recorder

    @property
    def catalog(self) -> Catalog:
        """The catalog of sessions."""
        return self.core.catalog

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self.core.ledger

    @property
    def search(self) -> Feed | None:
        """What keeps the search index; None: there is none."""
        return self._search

    @property
    def access(self) -> Access:
        """Who may reach what."""
        return self.core.access

    @property
    def tokens(self) -> Tokens:
        """The session tokens."""
        return self.core.tokens

    # ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start everything, serve, end everything; raises ConfigError when something can't start."""
        async with self._core() as self.core, trio.open_nursery() as nursery:
            with host.signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as arriving:
                await nursery.start(self.core.recorder.run)
                self.indexer.search = self._search = await self._open_search(nursery)
                await self._start_indexer(nursery)
                self.archive = Archive(self.core, await self._uploads(), self._search)
                self.reviews = Reviews(self.core.catalog)
                nursery.start_soon(self.notifier.run)
                nursery.start_soon(self.enrolled.run)
                nursery.start_soon(self.archive.run)
                jobs = Jobs(self.catalog, self.config.node)
                self.exports = Exports(jobs, self.config.export, self.notifier.tell)
                await self.exports.take_up()
                nursery.start_soon(self.exports.run)
                self.health = Watch(self.core, self.archive, self.indexer)
                nursery.start_soon(self.health.run)
                names = await self._open(nursery)
                for listener in self._listeners:
                    nursery.start_soon(listener.run)
                _calm_collector()
                notify("READY=1")
                _log.info(
                    "ready",
                    version=__version__,
                    node=self.config.node,
                    ledger_head=self.ledger.head.hash,
                    **names,
                )
                await trio.to_thread.run_sync(
                    functools.partial(self.ledger.append, "start", version=__version__)
                )
                await self._until_stopped(arriving)
                notify("STOPPING=1")
                await self._drain(arriving)
                await self.indexer.settle()
                self.exports.close()
            nursery.cancel_scope.cancel()

    async def _start_indexer(self, nursery: trio.Nursery) -> None:
        if self.indexer.missing and self.config.listen.rdp is not None:
            _log.warning("desktops are recorded and not indexed", why=self.indexer.missing)
        self.recorder.follower = self.indexer
        keys = self.config.control.socket.parent / KEYS
        self.indexer.keyring = await trio.to_thread.run_sync(Keyring.open, keys)
        await trio.to_thread.run_sync(self.indexer.find_left)
        nursery.start_soon(self.indexer.run)
        nursery.start_soon(self.indexer.catch_up, self.config.recording.directory)

    async def _open_search(self, nursery: trio.Nursery) -> Feed | None:
        """Open the search index, where there is one; what is not wanted any more is removed. Raises ConfigError."""
        search = self._settings.search
        if not search.enabled:
            if await trio.to_thread.run_sync(remove_index, search.index):
                _log.warning("the search index was removed: search.enabled is false", index=str(search.index))
            return None
        try:
            index = await open_index(search)
        except (SearchError, VaultError) as error:
            raise ConfigError(getattr(error, "detail", str(error)), self.config.path) from None
        feed = Feed(index, search.sources)
        nursery.start_soon(feed.run)
        return feed

    @asynccontextmanager
    async def _core(self) -> AsyncIterator[Core]:
        """Open keys, catalog and ledger; seal what a crash left; close them at the end."""
        settings = self._settings
        recording = settings.recording
        await trio.to_thread.run_sync(_make_directories, settings)
        signer = await trio.to_thread.run_sync(load_signer, recording.signing_key)
        catalog = await trio.to_thread.run_sync(Catalog, recording.catalog)
        ledger = await trio.to_thread.run_sync(lambda: Ledger(recording.ledger, signer, settings.node))
        try:
            recovered = await trio.to_thread.run_sync(
                lambda: recover(
                    recording.directory, signer, node=settings.node, catalog=catalog, ledger=ledger
                )
            )
            tell_recovered(recovered)
            recorder = Recorder(
                recording,
                settings.node,
                catalog=catalog,
                ledger=ledger,
                gauges=_Gauges(self.notifier),
                signer=signer,
            )
            self.enrolled = await trio.to_thread.run_sync(Enrolled, settings.state / enrolled.NAME)
            await self._forget_strangers(settings)
            access = Access(settings, enrolled=self.enrolled)
            yield Core(
                msgspec.structs.replace(settings, users=access.users),
                access,
                Admission(settings.admission),
                catalog,
                ledger,
                recorder,
                Registry(),
                tell=self.notifier.tell,
            )
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(functools.partial(ledger.append, "stop"))
                # The head, told outside the node's own disk, is what entries cut from the ledger's end show against.
                _log.info("stopped", ledger_entries=ledger.head.n, ledger_head=ledger.head.hash)
                ledger.close()
                catalog.close()
                if self._search is not None:
                    self._search.index.close()

    async def _uploads(self) -> Uploads | None:
        """Make the store elsewhere ready, where there is one; raises ConfigError."""
        if self.config.store is None:
            return None
        if importlib.util.find_spec("obstore") is None:
            raise ConfigError("the store needs obstore: pip install 'proxyd[store]'", self.config.path)
        from proxyd.recorder.remote import StoreError  # noqa: PLC0415 - only where it is used
        from proxyd.uploads import Uploads, open_store  # noqa: PLC0415

        try:
            stored = await open_store(self.config.store, self.config.recording.directory, self.catalog)
        except (StoreError, VaultError) as error:
            raise ConfigError(str(error), self.config.path) from None
        return Uploads(stored, self.ledger, self.config.store.keep_local_days)

    async def _open(self, nursery: trio.Nursery) -> dict[str, str]:
        """Open every listener; give their names and addresses."""
        names: dict[str, str] = {}
        settings = self.config
        if settings.listen.ssh is not None:
            options = await front_options(settings.listen.ssh)

            def make(caller: Caller, converse: Converse) -> Engine:
                return SshEngine(self.core, options, caller, converse)

            names["ssh"] = self._listen("ssh", settings.listen.ssh.address, make)
        if settings.listen.postgres is not None:
            names["postgres"] = await self._open_postgres(settings.listen.postgres)
        if settings.listen.mysql is not None:
            names["mysql"] = await self._open_mysql(settings.listen.mysql)
        if settings.listen.rdp is not None:
            names["rdp"] = await self._open_rdp(settings.listen.rdp)
        if settings.listen.metrics is not None:
            names["metrics"] = await nursery.start(
                metrics.serve, settings.listen.metrics.address, lambda: self.health.now
            )
        open_at: dict[str, str] = {name: names[name] for name in SPOKEN if name in names}
        self.fronts = await trio.to_thread.run_sync(read_fronts, settings.listen, open_at)
        names["control"] = str(
            await nursery.start(ControlServer(self, connections=CONTROL_CONNECTIONS).serve)
        )
        return names

    def _listen(self, protocol: str, address: str, make: MakeEngine) -> str:
        listener = Listener(self.core, protocol, address, make)
        self._listeners.append(listener)
        return listener.address

    async def _open_postgres(self, listen: PostgresListen) -> str:
        from proxyd.protocols.postgres.engine import Cancels, PostgresEngine  # noqa: PLC0415 - only where it is used

        tls = await trio.to_thread.run_sync(front_context, listen)
        cancels = Cancels()
        return self._listen(
            "postgres",
            listen.address,
            lambda caller, _: PostgresEngine(self.core, listen, tls, caller, cancels),
        )

    async def _open_mysql(self, listen: MysqlListen) -> str:
        from proxyd.protocols.mysql.engine import Greetings, MysqlEngine  # noqa: PLC0415 - only where it is used

        tls = await trio.to_thread.run_sync(front_context, listen)
        greetings = Greetings()
        return self._listen(
            "mysql",
            listen.address,
            lambda caller, _: MysqlEngine(self.core, listen, tls, caller, greetings),
        )

    async def _open_rdp(self, listen: RdpListen) -> str:
        from proxyd.protocols.rdp.engine import RdpEngine  # noqa: PLC0415 - only where it is used
        from proxyd.protocols.rdp.front import front_key  # noqa: PLC0415

        tls = await trio.to_thread.run_sync(front_context, listen)
        key = await trio.to_thread.run_sync(front_key, listen)
        wanting = [name for name, target in self.config.targets.items() if target.graphics != "bitmap"]
        if wanting and freerdp() is None:
            _log.warning(
                "graphics are bitmaps only: FreeRDP's library is not installed",
                install=PACKAGES,
                targets=wanting,
            )
        return self._listen(
            "rdp", listen.address, lambda caller, _: RdpEngine(self.core, listen, tls, key, caller)
        )

    async def _until_stopped(self, arriving: AsyncIterator[int]) -> None:
        async for number in arriving:
            if number != signal.SIGHUP:
                _log.info("stopping", signal=signal.Signals(number).name, sessions=len(self.registry))
                return
            notify("RELOADING=1")
            with contextlib.suppress(ConfigError):  # logged there; what was in force still is
                await self.reload()
                await trio.to_thread.run_sync(functools.partial(self.ledger.append, "reload", who="SIGHUP"))
            notify("READY=1")

    async def reload(self) -> str:
        """Read the configuration again; raises ConfigError, and has changed nothing then (rule 4)."""
        try:
            settings = await trio.to_thread.run_sync(config.load, self._settings.path)
        except ConfigError as error:
            _log.error("reload refused", why=str(error))
            raise
        core = self.core
        core.access = core.access.renewed(settings)
        core.admission.reconfigure(settings.admission)
        before = core.config  # what was opened at the start stays as it was opened
        core.config = msgspec.structs.replace(
            settings,
            users=core.access.users,
            node=before.node,
            state=before.state,
            recording=before.recording,
            store=before.store,
            notify=before.notify,
            listen=before.listen,
            index=before.index,
            export=msgspec.structs.replace(settings.export, directory=before.export.directory),
            search=before.search,
            control=msgspec.structs.replace(settings.control, socket=before.control.socket),
        )
        self._configured = settings
        try:
            await self._forget_strangers(settings)
        except ConfigError as error:  # nobody logs in by it: the next reload tries again
            _log.error("what strangers had set up is still there", why=str(error))
        self.exports.reconfigure(self.core.config.export)
        log.setup(settings.log)
        text = f"{len(settings.users)} users, {len(settings.targets)} targets, {len(settings.grants)} grants in force"
        _log.info(
            "reloaded", users=len(settings.users), targets=len(settings.targets), grants=len(settings.grants)
        )
        return text

    def settle(self) -> None:
        """Have what users set up themselves count from now on."""
        core = self.core
        core.access = core.access.renewed(self._configured)
        core.config = msgspec.structs.replace(core.config, users=core.access.users)

    async def _forget_strangers(self, settings: Config) -> None:
        """Forget what was set up by somebody who is no user any more; raises ConfigError."""
        for name in await trio.to_thread.run_sync(self.enrolled.keep, settings.users):
            _log.warning("what somebody had set up is gone: they are no user any more", user=name)

    async def _drain(self, arriving: AsyncIterator[int]) -> None:
        """End the sessions (rule 3)."""
        for listener in self._listeners:
            listener.close()
        self.registry.close()
        with trio.move_on_after(self.config.drain_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_signal, arriving, nursery.cancel_scope)
                for session in self.registry.list():
                    await session.ended.wait()
                nursery.cancel_scope.cancel()
        with trio.move_on_after(SEAL_ALL_S):
            async with trio.open_nursery() as nursery:
                for session in self.registry.list():
                    nursery.start_soon(
                        functools.partial(
                            session.drop, SHUTDOWN_BY, "stop", text=SHUTTING_DOWN, kind="shutdown"
                        )
                    )
            for session in self.registry.list():
                await session.ended.wait()

    @staticmethod
    async def _until_signal(arriving: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in arriving:
            if number != signal.SIGHUP:
                scope.cancel()
                return


def tell_recovered(found: Sequence[Recovered]) -> None:
    """Log what a crash left, and each recording that someone must look at."""
    if found:
        _log.warning("recordings recovered after a crash", count=len(found))
    for one in found:
        if one.problem:
            _log.warning("a recovered recording has a problem", session=one.session, problem=one.problem)


class _Gauges(Gauges):
    """Puts what the recorder says about itself into the metrics and the log, and has people told of what goes wrong."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    def lag(self, seconds: float) -> None:
        metrics.RECORDER_LAG.set(seconds)

    def queue(self, size: int) -> None:
        metrics.RECORDER_QUEUE.set(size)

    def unsealed(self, count: int) -> None:
        metrics.UNSEALED_SEGMENTS.set(count)

    def synced(self, seconds: float) -> None:
        metrics.FSYNC_SECONDS.observe(seconds)

    def written(self, size: int) -> None:
        metrics.RECORDED_BYTES.inc(size)

    def viewers(self, count: int) -> None:
        metrics.VIEWERS.set(count)

    def failed(self, policy: str) -> None:
        metrics.RECORDINGS_FAILED.labels(policy=policy).inc()

    def trouble(self, what: str, session: str, error: str) -> None:
        _log.error("recording in trouble", what=what, session=session, error=error)
        failed = Notice(Event.RECORDING_FAILED, time.time(), session, what, details={"error": error})
        self._notifier.tell(failed)


def _make_directories(settings: Config) -> None:
    """Make what the configuration names and is not there yet, for us alone; raises ConfigError."""
    for directory in (settings.state, settings.recording.directory, settings.control.socket.parent):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"can't make the directory {directory}: {error.strerror}") from None
