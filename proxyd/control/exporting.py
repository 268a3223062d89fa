"""What may be asked about exports: a job for one, how far it is, its manifest, its end; the list of them, and their files.

Rule 1: it takes a permission of its own, and what else a replay takes: the ledger has the view before the work begins, and
        each time it begins. Whoever makes an unattended job does it for the person it is for, who must be let see it then.
Rule 2: a file is signed for while its job is at work, once, and never of a recording that was purged meanwhile; the entry of
        the ledger that the signing makes is the file's manifest.
Rule 3: `export-fetch` is a view: it is in the ledger before it is said where the file is. Every piece is asked for.
Rule 4: a file is for the person it was made for, and for nobody else: others ask for one of their own. Who tries is in the
        ledger. Of what others export those who may have the list alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import trio

from proxyd.control import fetching
from proxyd.control.client import Code, ControlError
from proxyd.control.noting import note
from proxyd.control.permissions import Permission, acting_roles
from proxyd.control.reading import read
from proxyd.control.seeing import Read, admit, refuse_unreadable
from proxyd.errors import FormatError, ProxydError
from proxyd.exports import FULL, Job
from proxyd.governance.permissions import allowed
from proxyd.governance.rules import Sight
from proxyd.recorder.forms import EVERY, Settings, settle
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
FILE: Final = "file"  # what a ticket calls the file of an export

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An export of a session in a form, to a file, made by who asks."""

    session: _Id
    form: str
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_LIMIT)]
    settings: Settings = Settings()


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An export of a session in a form ("": the usual one), to be made for who asks."""

    session: _Id
    form: str = ""
    settings: Settings = Settings()


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job that has no maker; `afresh`: it is begun, not gone on with."""

    job: _Id
    afresh: bool = False


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a job is."""

    job: _Id
    percent: Annotated[int, msgspec.Meta(ge=0, le=100)]


class Sign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file a job has made; `keys`: what the user typed is in it."""

    job: _Id
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: _Bytes
    duration_us: _Bytes
    keys: bool = False


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job that is over; without `error` its file is in its place. `again`: who made it leaves it to the next."""

    job: _Id
    error: Annotated[str, msgspec.Meta(max_length=ERROR_LIMIT)] = ""
    again: bool = False


class One(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An export, by its id or the beginning of it."""

    job: _Id


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of an export, from byte `first` to before `end`; none: to its end."""

    job: _Id
    first: _Bytes = 0
    end: _Bytes | None = None


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which exports: of a session, by its whole id, none: of all; or the one that `job` names."""

    session: Annotated[str, msgspec.Meta(max_length=128)] = ""
    job: Annotated[str, msgspec.Meta(max_length=128)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIST_MAXIMUM)] = LIST_LIMIT


# ---------------------------------------------------------------------------- for who makes one


async def begin(services: Services, caller: Caller, wanted: Begin, send: Send) -> None:
    """Begin a job of the caller's own; see `_work`."""
    if wanted.form not in EVERY:
        raise ControlError(Code.USAGE, f"no form {wanted.form!r}: there are {', '.join(EVERY)}")
    found = await trio.to_thread.run_sync(services.catalog.session, wanted.session)
    asked = {
        "session": found.id,
        "form": wanted.form,
        "path": wanted.path,
        "settings": _packed(wanted.settings),
    }
    async with services.exports.begun(caller.user, **asked, **_whose(caller)) as job:
        await _work(services, caller, job, send)


async def resume(services: Services, caller: Caller, wanted: Resume, send: Send) -> None:
    """Make a job that has no maker, or go on with one after the daemon's end; see `_work`."""
    async with services.exports.resumed(wanted.job, caller.signed, caller.user, afresh=wanted.afresh) as job:
        await _work(services, caller, job, send)


async def _work(services: Services, caller: Caller, job: Job, send: Send) -> None:
    """Send {job, before, export}, {go} with what `read` says once it is the job's turn, and {cancelled} if it is.

    Runs for as long as the maker holds on.
    """
    exports, scope = services.exports, job.scope
    assert scope is not None  # noqa: S101 - it is held
    with scope:
        await send({"job": job.row.id, "before": exports.before(job), "export": _shown(services, job.row)})
        async with exports.place(job):
            try:
                await _refuse_crowded(services, job)
                opened = await read(services, caller, Read(job.row.session, Sight.EXPORT, views=True))
            except ProxydError as error:
                await exports.end(job, str(error))
                raise
            await exports.started(job)
            await send({"go": opened})
            await trio.sleep_forever()
    if job.row.state == State.CANCELLED:
        await send({"cancelled": job.row.error})


async def waiting(services: Services, _caller: Caller, _: msgspec.Struct) -> dict[str, Any]:
    """List what is to be made for people by who keeps the identity for them, oldest first.

    Of who is no user any more, or may export nothing, the jobs end here: nobody can make them.
    """
    config, told = services.config, ("id", "form", "person", "address")
    for row in services.exports.waiting():
        if row.person not in config.users or Permission.EXPORT not in allowed(
            *acting_roles(config, row.person)
        ):
            await services.exports.refuse(row, f"{row.person} may export nothing any more")
    return {"exports": [{name: getattr(row, name) for name in told} for row in services.exports.waiting()]}


async def told(services: Services, caller: Caller, progress: Told) -> dict[str, Any]:
    """Take in how far a job is."""
    services.exports.told(progress.job, caller.signed, progress.percent)
    job = services.exports.mine(progress.job, caller.signed)
    try:
        await _refuse_crowded(services, job)
    except ControlError as error:
        await services.exports.end(job, str(error))
        raise
    return {}


async def _refuse_crowded(services: Services, job: Job) -> None:
    """Return when there is room for the file of a job. Raises ControlError."""
    if await services.exports.lacks_room(job, services.config.recording.reserve_bytes):
        raise ControlError(Code.REFUSED, FULL)


async def sign(services: Services, caller: Caller, file: Sign) -> dict[str, Any]:
    """Sign for the file of a job; gives its manifest (rule 2)."""
    job = services.exports.mine(file.job, caller.signed)
    found = await trio.to_thread.run_sync(services.catalog.session, job.row.session)
    if found.purged_at is not None:
        raise ControlError(Code.REFUSED, f"the recording of session {found.id} was purged meanwhile")
    if job.row.sha256:
        raise ControlError(Code.REFUSED, f"export {job.row.id} has its manifest already")
    made: dict[str, Any] = {"sha256": file.sha256, "size": file.size, "duration_us": file.duration_us}
    changed = {name: value for name, value in msgspec.json.decode(job.row.settings).items() if name != "keys"}
    entry = await note(
        services, caller, EXPORTED, session=found.id, export=job.row.id, form=job.row.form, **made, **changed,
        keys=file.keys, chain=found.chain, user=found.user, target=found.target, started_at=found.started_at,
    )  # fmt: skip
    await services.exports.made(job, **made)
    return {"manifest": encoded(entry)}


async def end(services: Services, caller: Caller, ended: End) -> dict[str, Any]:
    """Take in that a job is over."""
    job = services.exports.mine(ended.job, caller.signed)
    row = job.row
    if ended.again:
        await services.exports.end(job, ended.error, again=True)
        return {}
    if not ended.error and not row.sha256:
        raise ControlError(Code.REFUSED, f"export {row.id} has no manifest: nothing was made")
    made: dict[str, Any] = {"size": row.size, "duration_us": row.duration_us}
    await services.exports.end(job, ended.error, sha256="" if ended.error else row.sha256, **made)
    return {}


# ---------------------------------------------------------------------------- for who wants one


async def ask(services: Services, caller: Caller, wanted: Wanted) -> dict[str, Any]:
    """Have an export made for the caller; `mail`: whether they are told by mail when it is ready."""
    if not caller.user:
        text = f"exports are made for users of the proxy, and {caller.name} is none: make your own with proxyctl export"
        raise ControlError(Code.REFUSED, text)
    found = await trio.to_thread.run_sync(services.catalog.session, wanted.session)
    await admit(services, caller, found.id, Sight.EXPORT)
    refuse_unreadable(caller, found, Sight.EXPORT)
    try:
        form = settle(wanted.form, found.protocol, wanted.settings)
    except FormatError as error:
        raise ControlError(Code.USAGE, str(error)) from None
    await note(services, caller, "export-asked", session=found.id, form=form, keys=wanted.settings.keys)
    row = await services.exports.ask(
        session=found.id,
        form=form,
        address=caller.address,
        settings=_packed(wanted.settings),
        **_whose(caller),
    )
    config = services.config
    user = config.users.get(caller.user)
    mail = config.notify.mail is not None and user is not None and bool(user.email)
    return {"export": _shown(services, row), "mail": mail}


async def exports(services: Services, caller: Caller, wanted: Filter) -> dict[str, Any]:
    """List exports, the newest first: one's own, and for who may everybody's (rule 4).

    `ask`: whether the caller may have recordings exported; `others`: whether they are shown what others export.
    """
    others = Permission.EXPORTS in caller.permissions
    if wanted.job:
        row = await services.exports.find(wanted.job)
        if not others:
            await _refuse_others(services, caller, row)
        rows = [row]
    else:
        person = "" if others else caller.person
        rows = await services.exports.newest(wanted.limit, wanted.session, person)
    may = Permission.EXPORT in caller.permissions and services.config.review.download
    about = await services.exports.about(rows)
    shown = [
        _shown(services, row) | {"mine": row.person == caller.person, "about": about.get(row.session, "")}
        for row in rows
    ]
    return {"exports": shown, "ask": may, "others": others}


async def cancel(services: Services, caller: Caller, one: One) -> dict[str, Any]:
    """End an export that waits or works."""
    row = await services.exports.find(one.job)
    if row.person != caller.person:
        caller.require(Permission.EXPORTS)
    row = await services.exports.cancel(row, caller.name)
    await note(services, caller, "export-cancelled", session=row.session, export=row.id)
    return _shown(services, row)


async def fetch(services: Services, caller: Caller, wanted: Piece) -> dict[str, Any]:
    """Say where the file of an export is, once the ledger has who takes which bytes of it (rule 3).

    `ticket`: what its pieces are asked for with.
    """
    row = await services.exports.find(wanted.job)
    await _refuse_others(services, caller, row)
    if row.state != State.DONE:
        raise ControlError(
            Code.REFUSED, f"export {row.id} is {row.state}{f': {row.error}' if row.error else ''}"
        )
    if row.removed_at is not None:
        raise ControlError(Code.NOT_FOUND, f"the file of export {row.id} was removed: ask for another")
    if row.node != services.config.node:
        raise ControlError(Code.NOT_FOUND, f"the file of export {row.id} is on node {row.node}")
    found = await trio.to_thread.run_sync(services.catalog.session, row.session)
    leave = await admit(services, caller, found.id, Sight.DOWNLOAD)
    refuse_unreadable(caller, found, Sight.DOWNLOAD)
    span = {"first_byte": wanted.first, "end_byte": row.size if wanted.end is None else wanted.end}
    await note(
        services,
        caller,
        "view",
        session=found.id,
        kind=Sight.DOWNLOAD.value,
        export=row.id,
        **span,
        **leave.by,
    )
    ticket = services.tickets.give(found, caller, Permission.EXPORT, {FILE: row.size}, leave)["ticket"]
    return _shown(services, row) | {"ticket": ticket}


async def piece(services: Services, caller: Caller, wanted: fetching.Range) -> dict[str, Any]:
    """Let a caller take a piece of the file that `fetch` told of, if they still may."""
    row = await services.tickets.check(caller, wanted)
    now = await trio.to_thread.run_sync(services.catalog.session, row.id)
    if now.purged_at is not None:
        raise ControlError(Code.NOT_FOUND, f"the recording of session {row.id} has been purged")
    return {}


async def _refuse_others(services: Services, caller: Caller, row: JobRow) -> None:
    """Return for the person an export is for. Raises ControlError for others, once the ledger has it (rule 4)."""
    if row.person == caller.person:
        return
    await note(services, caller, "export-refused", session=row.session, export=row.id, person=row.person)
    raise ControlError(Code.DENIED, "this export was made for somebody else: ask for one of your own")


def _whose(caller: Caller) -> dict[str, str]:
    return {"who": caller.signed, "person": caller.person}


def _packed(settings: Settings) -> str:
    return msgspec.json.encode(settings).decode()


def _shown(services: Services, row: JobRow) -> dict[str, Any]:
    """Give a job as the control socket says it.

    `goes_at`: when its file is removed by itself, or None; `here`: it is this node's.
    """
    here = row.node == services.config.node
    told = dataclasses.asdict(row) | {"settings": msgspec.json.decode(row.settings), "here": here}
    exports = services.exports
    return told | {"percent": exports.percent(row), "goes_at": exports.goes_at(row)}
