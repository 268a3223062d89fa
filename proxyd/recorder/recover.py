"""What a start does about recordings the last life of the daemon left open: cut what is torn, seal, and say so.

Rule 1: no data key is needed: what is in a frame stays as it is.
Rule 2: nothing is thrown away: a torn end is kept beside its segment, `.torn`, before it is cut off, and so is a
        manifest that is replaced although it was not this recording's and this node's.
Rule 3: done again after a crash in the middle, it ends the same.
Rule 4: one recording that can't be recovered does not keep the others from it; it is tried at the next start.
Rule 5: what is sealed here is vouched for. So every signature found is checked with the node's own key first; what does
        not verify is sealed as well, and manifest, ledger and catalog say that it may have been altered. A signing key
        that was changed while a session was open looks the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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
TAMPERED = "The recording may have been altered while the session proxy was down"
DOUBTS_TOLD = 8  # the manifest and a line of the ledger have room for them; `verify` finds them all
MS = 1_000_000  # ns


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one recording. `torn`: bytes cut off.

    `problem`: why it could not be recovered, or what in it does not verify, or nothing.
    """

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
    ledger.append("recovered", **ledger_fields(manifest, folder, root), **manifest.tampering)
    _tell(catalog, manifest, folder)
    store.unmark_open(root, session)
    records = sum(entry.records for entry in manifest.segments)
    return Recovered(session, folder, records, torn, manifest.problem)


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
    doubts = [] if manifest is None else _doubts_of(manifest, session, signer)
    if manifest is not None and manifest.state != "open" and not doubts:
        return manifest, 0  # the crash came between the manifest and the ledger
    if doubts:
        _keep(folder / manifests.NAME, (folder / manifests.NAME).read_bytes(), "wb")
    entries, found, torn = _mend(folder, signer)
    scans = list(found.values())
    if manifest is None:
        manifest = _from_segments(session, node, scans)
    for path, segment in found.items():
        doubts += _doubts_in(path, segment, session, signer)
    manifest = replace(
        manifest,
        session=session,
        state="recovered",
        segments=tuple(entries),
        end=_end(manifest, scans),
        problem=f"{TAMPERED}: {'; '.join(doubts[:DOUBTS_TOLD])}" if doubts else "",
    ).signed(signer)
    store.write_manifest(folder, manifest)
    return manifest, torn


def _doubts_of(manifest: Manifest, session: str, signer: Signer) -> list[str]:
    """Say why a manifest is not believed, if so."""
    if not manifest.verify(signer.public):
        return ["its manifest is not signed by this node"]
    return [] if manifest.session == session else ["its manifest is another recording's"]


def _doubts_in(path: Path, found: Scan, session: str, signer: Signer) -> list[str]:
    """Say why a segment is not believed, if so; what comes after its last signature nobody can vouch for."""
    header = found.header
    if header.session != session or path != store.segment_path(path.parent, header.number):
        return [f"{path.name} is another segment than its name says"]
    ours = all(signature.verify(signer.public) for signature in found.signatures)
    return [] if ours else [f"{path.name} holds a signature that is not this node's"]


def _keep(path: Path, data: bytes, mode: Literal["ab", "wb"]) -> None:
    """Put what will be gone from a file beside it, durably (rule 2)."""
    with path.with_name(path.name + store.TORN).open(mode) as kept:
        os.fchmod(kept.fileno(), store.FILE_MODE)
        kept.write(data)
        kept.flush()
        os.fsync(kept.fileno())


def _mend(folder: Path, signer: Signer) -> tuple[list[SegmentEntry], dict[Path, Scan], int]:
    """Cut torn ends off all segments, seal the last; give what they are then, and were before the sealing."""
    entries: list[SegmentEntry] = []
    scans: dict[Path, Scan] = {}
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
        scans[path] = found
    for path, found in scans.items():
        chain, size = found.chain, found.good_end
        last = path == next(reversed(scans))
        if last and not found.sealed:
            data, chain = seal_recovered(found, signer)
            _append(path, data)
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
            _keep(path, rest, "ab")
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
        error=manifest.problem or end.error,
        size=manifest.size,
        input_bytes=0,  # only the data key could tell
        output_bytes=0,
        chain=manifest.chain,
        state={"failed": "failed", "sealed": "ended"}.get(manifest.state, "recovered"),
    )
