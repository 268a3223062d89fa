"""`proxyd index`: makes what is derived of recordings anew, from the recordings, with the identity that opens them.

Rule 1: the recording is read, never written; a sidecar gets its name when it is whole, and replaces what was there.
Rule 2: a sidecar that is whole, of this session and of this version stays, unless --force says otherwise.
Rule 3: where there is a search index, the texts of what is whole are in it afterwards; with --search they are put in anew.
Rule 4: a recording that can't be read is told, and the others are still done; the status then says that not all is well.
Rule 5: what the store alone has is done too (cli_places); of such an index only the end is read to see whether it is whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from proxyd.cli_app import Command, Run, take_config
from proxyd.cli_output import FAILED, Column, size
from proxyd.cli_recordings import take_identity
from proxyd.errors import ConfigError, FormatError, ProxydError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from proxyd.cli_places import Place
    from proxyd.recorder.replay import Recording
    from proxyd.search.filling import Filling


class Done(NamedTuple):
    """What became of one recording's index; `result` is made, whole, skipped or failed."""

    session: str
    result: str
    text: str = ""
    bytes: int = 0
    faults: int = 0
    texts: int | None = None  # put into the search index; None: it had them, or there is none


@click.command(cls=Command, short_help="Make the index of recordings anew.")
@click.argument("what", required=False, metavar="[SESSION|PATH]")
@click.option(
    "--all", "everything", is_flag=True, help="Every ended recording that has none, or a damaged one."
)
@click.option("--force", is_flag=True, help="Also where it is whole.")
@click.option(
    "--search", "anew", is_flag=True, help="Put the texts into the search index anew, also where they are."
)
@take_identity
@take_config
@click.pass_obj
def index(
    run: Run, what: str | None, *, everything: bool, force: bool, anew: bool, identity: Path | None
) -> None:
    """Make what is derived of recordings anew: pictures to seek by, keystrokes, heat map, spans of sound, what search finds.

    The daemon makes it while a session lives; this is for what was deleted, damaged, or not finished. It needs the
    identity that opens recordings, as replaying does, and no daemon. What the store alone has is read there, and its index
    goes there.
    """
    from proxyd.cli_places import places

    if (what is None) is not everything:
        raise click.UsageError("name one SESSION or PATH, or say --all")
    recording = run.config().recording
    key = identity or recording.identity
    if key is None:
        raise ConfigError(
            "a recording opens only with its identity file: name it with --identity", run.find_config()
        )
    with places(run, what) as found, _search(run, anew=anew) as search:
        done = list(_each(run, found, key, search, force=force))
    _report(run, done)
    if any(one.result == "failed" for one in done):
        sys.exit(FAILED)


@contextmanager
def _search(run: Run, *, anew: bool) -> Iterator[Filling | None]:
    """Open the search index, where there is one. Raises ConfigError, SearchError."""
    from proxyd.search.filling import filling
    from proxyd.vault import VaultError

    settings = run.config().search
    if not settings.enabled:
        if anew:
            raise ConfigError("search.enabled is false: there is no search index", run.find_config())
        yield None
        return
    try:
        with filling(settings, settings.sources, anew=anew) as search:
            yield search
    except VaultError as error:
        raise ConfigError(f"search.key: {error.detail}", run.find_config()) from None


def _each(
    run: Run, found: Iterable[Place], key: Path, search: Filling | None, *, force: bool
) -> Iterator[Done]:
    """Do one after the other, and show how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    shown = Console(stderr=True)
    quiet = run.output.json or not shown.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=shown, disable=quiet, transient=True) as progress:
        for place in found:
            task = progress.add_task(place.name, total=1.0)
            try:
                yield _one(place, key, search, progress, task, force=force)
            except (ProxydError, OSError) as error:
                yield Done(place.name, "failed", str(error))
            progress.remove_task(task)


def _one(
    place: Place, key: Path, search: Filling | None, progress: Progress, task: TaskID, *, force: bool
) -> Done:
    from proxyd.indexing.pool import PROTOCOLS
    from proxyd.recorder import sidecar

    recording = place.open(key)
    protocol = str(recording.meta.get("protocol", ""))
    if protocol not in PROTOCOLS:
        return Done(place.name, "skipped", f"nothing is derived of {protocol or 'such'} sessions")
    if recording.manifest is not None and recording.manifest.state == "open":
        return Done(
            place.name,
            "skipped",
            "the session is live, or its recording not yet recovered: the daemon does it",
        )
    why = "it was asked for"
    if not force:
        try:
            place.check(recording)
            texts = search.fill(recording) if search else None
            return Done(place.name, "whole", "", recording.files[sidecar.NAME], texts=texts)
        except FormatError as error:
            why = str(error) if sidecar.NAME in recording.files else "there was none"
    with place.making() as folder:
        done = _made(recording, folder, progress, task, why)
    return done._replace(texts=search.fill(place.open(key), anew=True)) if search else done


def _made(recording: Recording, folder: Path, progress: Progress, task: TaskID, why: str) -> Done:
    """Read the recording to a decoder, and write what comes back."""
    from proxyd.cli_derive import Decoder
    from proxyd.recorder.sidecar import Writer

    session = recording.path.name
    with Decoder(str(recording.meta["protocol"])) as decoder:
        writer = Writer(folder, session, recording.dek)
        try:
            for items in decoder.fed(recording.records()):
                writer.add(items)
                progress.update(task, completed=decoder.at_us / max(recording.duration_us, 1))
            writer.add(decoder.finish())
            writer.finish()
        finally:
            writer.abandon()
        return Done(session, "made", why, writer.size, decoder.faults)


def _report(run: Run, done: list[Done]) -> None:
    if run.output.json:
        run.output.document({"indexes": [one._asdict() for one in done]})
        return
    columns = [
        Column("RESULT", lambda row: row["result"]),
        Column("SESSION", lambda row: row["session"]),
        Column("SIZE", lambda row: size(row["bytes"]) if row["bytes"] else "", keep=5, right=True),
        Column("TEXTS", lambda row: "" if row["texts"] is None else row["texts"], keep=3, right=True),
        Column("UNREAD", lambda row: row["faults"] or "", keep=3, right=True),
        Column("WHY", lambda row: row["text"], keep=4),
    ]
    run.output.table(columns, [one._asdict() for one in done], "No recordings.")
