"""What a start does about recordings the last life of the daemon left open: cut what is torn, seal, and say so.

Rule 1: no data key is needed, and none exists any more: what is in a frame stays as it is.
Rule 2: nothing is thrown away: a torn end is kept beside its segment, `.torn`, before it is cut off.
Rule 3: done again after a crash in the middle, it ends the same.
Rule 4: one recording that can't be recovered does not keep the others from it; it is tried at the next start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from proxyd.errors import FormatError, ProxydError
from proxyd.recorder import manifest as manifests
from proxyd.recorder import store
from proxyd.recorder.keys import Signer
from proxyd.recorder.manifest import End, Manifest, SegmentEntry
from proxyd.recorder.partners import Catalog, Ledger
from proxyd.recorder.recorder import ledger_fields
from proxyd.recorder.segment import Scan, mend_trailer, scan, seal_recovered

REASON = "recovered"
ERROR = "The session proxy stopped while this session was live"
MS = 1_000_000  # ns


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one recording. `torn`: bytes cut off; `problem`: why it could not be recovered, or nothing."""

    session: str
    path: Path | None
    records: int = 0
    torn: int = 0
    problem: str = ""


def recover(
    directory: Path, signer: Signer, *, node: str, catalog: Catalog, ledger: Ledger
) -> list[Recovered]:
    """Seal, as recovered, every recording left open; call it before Recorder.run, in a thread.

    Raises RecordingFailed when another process records to `directory`, or it can't be used.
    """
    found: list[Recovered] = []
    with store.claim(directory):
        for session in store.marked_open(directory):
            try:
                found.append(_recover(directory, session, signer, node=node, catalog=catalog, ledger=ledger))
            except (OSError, ProxydError) as error:
                found.append(Recovered(session, store.find(directory, session), problem=str(error)))
    return found


def _recover(
    root: Path, session: str, signer: Signer, *, node: str, catalog: Catalog, ledger: Ledger
) -> Recovered:
    folder = store.find(root, session)
    if folder is None or not (store.segments(folder) or (folder / manifests.NAME).exists()):
        return _nothing_left(root, session, folder, catalog, ledger)
    manifest, torn = _complete(folder, session, signer, node)
    ledger.append("recovered", **ledger_fields(manifest, folder, root))
    _tell(catalog, manifest, folder)
    store.unmark_open(root, session)
    return Recovered(session, folder, sum(entry.records for entry in manifest.segments), torn)


def _nothing_left(
    root: Path, session: str, folder: Path | None, catalog: Catalog, ledger: Ledger
) -> Recovered:
    """Note a recording of which there is no file: its session never began, or somebody took them away."""
    ledger.append("empty", session=session)
    with suppress(ProxydError):  # the catalog does not know a session that never began
        catalog.ended(
            session,
            ended_at=time.time(),
            reason=REASON,
            by="",
            error="Nothing is left of the recording",
            size=0,
            input_bytes=0,
            output_bytes=0,
            chain=b"",
            state="failed",
        )
    store.unmark_open(root, session)
    return Recovered(session, folder)


def _complete(folder: Path, session: str, signer: Signer, node: str) -> tuple[Manifest, int]:
    """Give the recording's final manifest, writing it when there is none, and the bytes that were torn."""
    try:
        manifest: Manifest | None = store.read_manifest(folder)
    except FormatError:
        manifest = None  # torn, or gone: the segments say most of it
    if manifest is not None and manifest.state != "open":
        return manifest, 0  # the crash came between the manifest and the ledger
    entries, scans, torn = _mend(folder, signer)
    if manifest is None:
        manifest = _from_segments(session, node, scans)
    manifest = replace(manifest, state="recovered", segments=tuple(entries), end=_end(manifest, scans))
    manifest = manifest.signed(signer)
    store.write_manifest(folder, manifest)
    return manifest, torn


def _mend(folder: Path, signer: Signer) -> tuple[list[SegmentEntry], list[Scan], int]:
    """Cut torn ends off all segments, seal the last; give what they are then."""
    entries: list[SegmentEntry] = []
    scans: list[Scan] = []
    torn = 0
    for path in store.segments(folder):
        try:
            found = scan(path.read_bytes())
        except FormatError:
            torn += path.stat().st_size
            path.rename(path.with_name(path.name + store.TORN))  # not even a header
            continue
        if found.problem is not None:
            torn += _cut(path, found)
            found = scan(path.read_bytes())
        scans.append(found)
    for found in scans:
        chain, size = found.chain, found.good_end
        last = found is scans[-1]
        if last and not found.sealed:
            data, chain = seal_recovered(found, signer)
            _append(store.segment_path(folder, found.header.number), data)
            size += len(data)
        entries.append(
            SegmentEntry(
                number=found.header.number,
                size=size,
                first_seq=found.header.first_seq,
                records=found.records,
                start_ms=found.header.start_ms,
                end_ms=found.t1_ms,
                chain=chain,
                sealed=last or found.sealed,
            )
        )
    store.sync_directory(folder)
    return entries, scans, torn


def _cut(path: Path, found: Scan) -> int:
    """Cut what can't be believed off a segment's end, keeping it beside; give how much."""
    with path.open("r+b") as file:
        file.seek(found.good_end)
        rest = file.read()
        if rest:
            with path.with_name(path.name + store.TORN).open("ab") as kept:
                os.fchmod(kept.fileno(), store.FILE_MODE)
                kept.write(rest)
                kept.flush()
                os.fsync(kept.fileno())
        file.truncate(found.good_end)
        os.fsync(file.fileno())
    if found.sealed and not found.trailed:
        _append(path, mend_trailer(found))
    return len(rest)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _from_segments(session: str, node: str, scans: Sequence[Scan]) -> Manifest:
    """Make up the manifest of a recording that has lost its own."""
    if not scans:
        raise FormatError("the recording has neither a manifest nor a segment")
    first = scans[0].header
    return Manifest(
        session=session,
        node=node,
        started_ns=first.wall_ns - first.start_ms * MS,
        state="open",
        strict=True,
        meta={},
        keys=first.keys,
    )


def _end(manifest: Manifest, scans: Sequence[Scan]) -> End:
    """Say when the last record was."""
    if not scans:
        return End(manifest.started_ns, REASON, error=ERROR)
    header = scans[-1].header
    return End(header.wall_ns + (scans[-1].t1_ms - header.start_ms) * MS, REASON, error=ERROR)


def _tell(catalog: Catalog, manifest: Manifest, folder: Path) -> None:
    """Put the recording into the catalog as it is now, whether it was there or not."""
    end = manifest.end or End(manifest.started_ns, REASON)
    row = {**manifest.meta, "id": manifest.session, "node": manifest.node, "path": str(folder)}
    row.setdefault("started_at", manifest.started_ns / 1e9)
    catalog.started(row)
    catalog.ended(
        manifest.session,
        ended_at=end.at_ns / 1e9,
        reason=end.reason,
        by=end.by,
        error=end.error,
        size=manifest.size,
        input_bytes=0,  # only the data key could tell
        output_bytes=0,
        chain=manifest.chain,
        state={"failed": "failed", "sealed": "ended"}.get(manifest.state, "recovered"),
    )
