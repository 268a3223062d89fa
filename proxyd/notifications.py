"""Notifications: told by whatever happens, handed over by tasks of their own.

Rule 1: `tell` never waits and never raises: no session, command or recording is later, or fails, for a notification.
Rule 2: each destination has its own queue and task: a dead mail server does not hold up a webhook. A queue is bounded; what
        comes when it is full is counted and dropped.
Rule 3: what can't be handed over is tried again, less and less often, for GIVE_UP_S; then it is counted as failed.
Rule 4: of one event of one session at most one notice goes out in QUIET_S.
Rule 5: what waits at a stop is lost, and counted: a notification is a call, the ledger and the catalog are the record.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio

from proxyd import log, metrics
from proxyd.config import Config, Mail, Notify, Webhook
from proxyd.control.permissions import acting_roles
from proxyd.delivery import Refused, Undelivered, mail, post
from proxyd.governance.notices import ALARMS, Event, Notice
from proxyd.governance.permissions import Permission, allowed
from proxyd.vault import VaultError, fetch

QUEUE: Final = 1000  # notices a destination may have waiting: a day's, at a busy place
QUIET_S: Final = 600.0
REMEMBERED: Final = 10_000  # events of sessions that were told lately
WAITS_S: Final = (5.0, 30.0, 120.0, 600.0)  # between tries; the last for all that follow
GIVE_UP_S: Final = 6 * 3600.0  # older, it is no news
SENDERS: Final = 2  # threads

_log = log.get("notify")


@dataclass(frozen=True, slots=True)
class _Way:
    """A destination: what it is called in the metrics, what it wants, and how it is reached."""

    name: str
    settings: Mail | Webhook
    queue: trio.MemorySendChannel[Notice]
    waiting: trio.MemoryReceiveChannel[Notice]


class Notifier:
    """Tells people and programs what happened."""

    def __init__(
        self, settings: Notify, config: Callable[[], Config], *, waits: tuple[float, ...] = WAITS_S
    ) -> None:
        """`config` gives the configuration in force: users' addresses and roles may change."""
        self._config = config
        self._link = settings.link
        self._waits = waits
        self._told: OrderedDict[tuple[Event, str, str], float] = OrderedDict()
        self._senders = trio.CapacityLimiter(SENDERS)
        wanted: list[Mail | Webhook] = [*([settings.mail] if settings.mail else []), *settings.webhooks]
        self._ways = [_way(one) for one in wanted]

    def tell(self, notice: Notice, *, again: str = "") -> None:
        """Have a notice handed over; `again` tells apart what may be told twice in a row, as two requests (rule 4)."""
        if not self._ways or self._lately(notice, again):
            return
        for way in self._ways:
            if isinstance(way.settings, Webhook) and notice.event not in (way.settings.events or list(Event)):
                continue
            try:
                way.queue.send_nowait(notice)
            except trio.WouldBlock:
                self._count(way, "dropped")

    def deciders(self, but: str) -> tuple[str, ...]:
        """Name the users who may decide on requests, without who asks."""
        config = self._config()
        return tuple(
            name
            for name in config.users
            if name != but and Permission.DECIDE in allowed(*acting_roles(config, name))
        )

    async def run(self) -> None:
        """Hand over what was told, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for way in self._ways:
                    nursery.start_soon(self._serve, way)
        finally:
            for way in self._ways:
                if lost := way.queue.statistics().current_buffer_used:
                    metrics.NOTIFICATIONS.labels(protocol=way.name, result="dropped").inc(lost)
                    _log.warning("notifications are lost with the daemon's end", way=way.name, count=lost)

    def _lately(self, notice: Notice, again: str) -> bool:
        key, now = (notice.event, notice.session, again), time.monotonic()
        if now - self._told.get(key, -math.inf) < QUIET_S:
            return True
        self._told[key] = now
        self._told.move_to_end(key)
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        return False

    async def _serve(self, way: _Way) -> None:
        async for notice in way.waiting:
            began, tries = time.monotonic(), 0
            while True:
                try:
                    if await self._hand_over(way, notice):
                        self._count(way, "sent")
                except (Refused, VaultError) as error:
                    self._failed(way, notice, getattr(error, "detail", str(error)))
                except Undelivered as error:
                    if time.monotonic() - began < GIVE_UP_S:
                        wait = self._waits[min(tries, len(self._waits) - 1)]
                        _log.info("a notification waits", way=way.name, why=str(error), seconds=wait)
                        tries += 1
                        await trio.sleep(wait)
                        continue
                    self._failed(way, notice, str(error))
                except Exception:  # noqa: BLE001 - one notice's bug must not end the others, nor the daemon
                    _log.exception("a bug while a notification was handed over", way=way.name)
                    self._count(way, "failed")
                break

    async def _hand_over(self, way: _Way, notice: Notice) -> bool:
        """Hand one notice over; False when it is for nobody. Raises Undelivered, Refused, VaultError."""
        settings, node, base = way.settings, self._config().node, self._link
        if isinstance(settings, Mail):
            if not (to := self._addresses(settings, notice)):
                return False
            password = (await fetch(settings.password)).text() if settings.password else ""
            work = functools.partial(mail, settings, password, to, notice.subject(), notice.text(node, base))
        else:
            secret = (await fetch(settings.secret)).text().encode()
            body = json.dumps(notice.document(node, base)).encode()
            work = functools.partial(post, settings.url, settings.ca, secret, int(time.time()), body)
        await trio.to_thread.run_sync(work, limiter=self._senders, abandon_on_cancel=True)
        return True

    def _addresses(self, settings: Mail, notice: Notice) -> list[str]:
        """Say to whom a notice is mailed: the users it is for, and of alarms who watches over all."""
        users = self._config().users
        named = (users[name].email for name in notice.people if name in users)
        return _unique([*named, *(settings.to if notice.event in ALARMS else ())])

    def _failed(self, way: _Way, notice: Notice, why: str) -> None:
        _log.warning(
            "a notification failed", way=way.name, notice=notice.event.value, session=notice.session, why=why
        )
        self._count(way, "failed")

    @staticmethod
    def _count(way: _Way, result: str) -> None:
        metrics.NOTIFICATIONS.labels(protocol=way.name, result=result).inc()


def _way(settings: Mail | Webhook) -> _Way:
    queue, waiting = trio.open_memory_channel[Notice](QUEUE)
    return _Way("smtp" if isinstance(settings, Mail) else "webhook", settings, queue, waiting)


def _unique(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]
