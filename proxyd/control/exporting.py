"""What may be asked about exports: a job for one, how far it is, its manifest, its end; and the list of them.

Rule 1: it takes a permission of its own, and what else a replay takes: the ledger has the view before the work begins.
Rule 2: a file is signed for while its job is at work, once, and never of a recording that was purged meanwhile; the entry of
        the ledger that the signing makes is the file's manifest.
Rule 3: `fetch` is a view: it is in the ledger before it is said where the file is.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import trio

from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note
from proxyd.errors import ProxydError
from proxyd.governance.notices import Event, Notice
from proxyd.recorder.forms import EVERY
from proxyd.recorder.jobs import JobRow, State
from proxyd.recorder.ledger import EXPORTED, encoded

if TYPE_CHECKING:
    from proxyd.control.commands import Services
    from proxyd.control.permissions import Caller
    from proxyd.control.watching import Send

LIST_LIMIT: Final = 50  # exports a list shows unasked: a screenful
LIST_MAXIMUM: Final = 1000
PATH_LIMIT: Final = 4096  # PATH_MAX of Linux
ERROR_LIMIT: Final = 1000

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An export of a session in a form, to a file."""

    session: _Id
    form: str
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_LIMIT)]


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a job is."""

    job: _Id
    percent: Annotated[int, msgspec.Meta(ge=0, le=100)]


class Sign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file a job has made; `keys`: what the user typed is in it."""

    job: _Id
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(ge=0)]
    duration_us: Annotated[int, msgspec.Meta(ge=0)]
    keys: bool = False


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job that is over; without `error` its file is in its place."""

    job: _Id
    error: Annotated[str, msgspec.Meta(max_length=ERROR_LIMIT)] = ""


class One(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An export, by its id or the beginning of it."""

    job: _Id


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which exports: of a session, by its whole id; none: of all."""

    session: Annotated[str, msgspec.Meta(max_length=128)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIST_MAXIMUM)] = LIST_LIMIT


Opens = Callable[[], Awaitable[dict[str, Any]]]


async def work(services: Services, caller: Caller, wanted: Begin, send: Send, opens: Opens) -> None:
    """Send {job, before}, {go} with what `opens` says once it is the job's turn, and {cancelled} if it is; runs as long."""
    if wanted.form not in EVERY:
        raise ControlError(Code.USAGE, f"no form {wanted.form!r}: there are {', '.join(EVERY)}")
    found = await trio.to_thread.run_sync(services.catalog.session, wanted.session)
    exports = services.exports
    asked = {"session": found.id, "who": caller.signed, "form": wanted.form, "path": wanted.path}
    async with exports.begun(**asked) as job:
        with job.scope:
            await send({"job": job.row.id, "before": exports.before(job)})
            async with exports.place(job):
                try:
                    opened = await opens()
                except ProxydError as error:
                    await exports.end(job, str(error))
                    raise
                await exports.started(job)
                await send({"go": opened})
                await trio.sleep_forever()
        if job.row.state == State.CANCELLED:
            await send({"cancelled": job.row.error})


async def told(services: Services, caller: Caller, progress: Told) -> dict[str, Any]:
    """Take in how far a job is."""
    services.exports.told(progress.job, caller.signed, progress.percent)
    return {}


async def sign(services: Services, caller: Caller, file: Sign) -> dict[str, Any]:
    """Sign for the file of a job; gives its manifest (rule 2)."""
    job = services.exports.mine(file.job, caller.signed)
    found = await trio.to_thread.run_sync(services.catalog.session, job.row.session)
    if found.purged_at is not None:
        raise ControlError(Code.REFUSED, f"the recording of session {found.id} was purged meanwhile")
    if job.row.sha256:
        raise ControlError(Code.REFUSED, f"export {job.row.id} has its manifest already")
    job.row = dataclasses.replace(job.row, sha256=file.sha256, size=file.size, duration_us=file.duration_us)
    entry = await note(
        services, caller, EXPORTED, session=found.id, export=job.row.id, form=job.row.form, sha256=file.sha256,
        size=file.size, duration_us=file.duration_us, keys=file.keys, chain=found.chain, user=found.user,
        target=found.target, started_at=found.started_at,
    )  # fmt: skip
    return {"manifest": encoded(entry)}


async def end(services: Services, caller: Caller, ended: End) -> dict[str, Any]:
    """Take in that a job is over."""
    job = services.exports.mine(ended.job, caller.signed)
    row = job.row
    if not ended.error and not row.sha256:
        raise ControlError(Code.REFUSED, f"export {row.id} has no manifest: nothing was made")
    made = {"size": row.size, "duration_us": row.duration_us}
    await services.exports.end(job, ended.error, sha256="" if ended.error else row.sha256, **made)
    if not ended.error and caller.user:
        details = {
            "format": row.form,
            "size": f"{row.size} B",
            "fetch": f"proxyctl exports fetch {row.id} -o FILE",
        }
        title = f"the {row.form} of session {row.session[:8]} is ready"
        notice = Notice(Event.VIDEO_READY, time.time(), row.session, title, (caller.user,), details)
        services.notifier.tell(notice, again=row.id)
    return {}


async def exports(services: Services, _caller: Caller, wanted: Filter) -> dict[str, Any]:
    """List exports, the newest first."""
    found = await services.exports.newest(wanted.limit, wanted.session)
    return {"exports": [_shown(row) | {"percent": percent} for row, percent in found]}


async def cancel(services: Services, caller: Caller, one: One) -> dict[str, Any]:
    """End an export that waits or works."""
    row = await services.exports.cancel(one.job, caller.signed)
    await note(services, caller, "export-cancelled", session=row.session, export=row.id)
    return _shown(row)


async def fetch(services: Services, one: One, opens: Callable[[str], Awaitable[object]]) -> dict[str, Any]:
    """Say where the file of an export is, once the ledger has it (rule 3)."""
    row = await services.exports.find(one.job)
    if row.state != State.DONE:
        raise ControlError(
            Code.REFUSED, f"export {row.id} is {row.state}{f': {row.error}' if row.error else ''}"
        )
    if row.node != services.config.node:
        raise ControlError(Code.NOT_FOUND, f"the file of export {row.id} is on node {row.node}")
    await opens(row.session)
    return _shown(row)


def _shown(row: JobRow) -> dict[str, Any]:
    return dataclasses.asdict(row)
