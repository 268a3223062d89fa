"""Verify: a recording is what was written, all of it, and every recording is still there; or the report says not.

Rule 1: no key that opens a recording is needed; the node's public keys are, from a place an intruder can't write.
Rule 2: every byte of every file of a sealed recording counts: manifest, segments, their order, their number.
Rule 3: a live recording is checked as far as it goes; what comes after its last signature is only chained, and said so.
Rule 4: what looks wrong in a recording being written is looked at again; it is reported when it stays wrong.
Rule 5: a recording that is gone shows in the ledger that names it, unless that has its tombstone; one the ledger does not
        name shows as well.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxyd.errors import FormatError
from proxyd.recorder import manifest as manifests
from proxyd.recorder import store
from proxyd.recorder.keys import key_id
from proxyd.recorder.layout import NO_CHAIN
from proxyd.recorder.ledger import PURGED, STORED, Entry, LedgerReader
from proxyd.recorder.manifest import Manifest, SegmentEntry
from proxyd.recorder.segment import Scan, scan
from proxyd.recorder.source import Folder, Source

SEALED_KINDS = ("sealed", "recovered")  # the ledger's words for a recording that has its last byte
SETTLE_SECONDS = (
    2.0  # a recording begins, writes a frame and is sealed in milliseconds, unless storage is slow
)
LOOK_AGAIN_SECONDS = 0.02

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `code` for programs, `text` for people, `file` and `offset` where known."""

    code: str
    text: str
    file: str = ""
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What verifying one recording, or the ledger (`state` "ledger"), found.

    `state`: "live", "sealed", "recovered", "failed", "stored" elsewhere alone, "missing", or "unknown" without a manifest.
    `unsigned`: records of a live recording after its last signature. `about`: what an exported file is (`exported.py`).
    """

    session: str
    path: Path
    state: str
    problems: tuple[Problem, ...]
    segments: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    unsigned: int = 0
    about: str = ""

    @property
    def ok(self) -> bool:
        """Say whether nothing is wrong."""
        return not self.problems

    @property
    def text(self) -> str:
        """Say it in one sentence."""
        name = "the ledger" if self.state == "ledger" else f"recording {self.session}"
        if self.about or (not self.session and self.state == "unknown"):
            name = f"the file {self.path.name}"
        if self.problems:
            more = len(self.problems) - 1
            others = f" (and {more} more)" if more else ""
            where = f"{self.problems[0].file}: " if self.problems[0].file else ""
            return f"{name} is not whole: {where}{self.problems[0].text}{others}"
        if self.about:
            return f"{name} is as it was exported: {self.about}"
        if self.state == "ledger":
            return f"{name} is whole: {self.records} entries"
        if self.state == "stored":
            return (
                f"{name} is not here: the store has it, whole when it took it; proxyctl verify {self.session}"
            )
        unsigned = f", the last {self.unsigned} not signed yet" if self.unsigned else ""
        return (
            f"{name} is whole: {self.state}, {self.segments} segments, {self.records} records{unsigned},"
            f" {self.bytes} bytes"
        )


def verify(
    path: Path | Source,
    public_keys: Collection[Ed25519PublicKey],
    *,
    ledger: LedgerReader | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify the recording in directory `path`, or elsewhere; with a ledger, also against what that says of it.

    `progress` is called with bytes done and bytes in all. Never raises for what is on disk: the report says it.
    Raises what fetching from elsewhere raises.
    """
    source = Folder(path) if isinstance(path, Path) else path
    path = source.path
    sealing = None if ledger is None else _sealings(ledger, path.name).get(path.name)
    look = functools.partial(_look, source, public_keys, ledger, sealing, progress=progress)
    above = path.absolute().parents
    return _settled(look, above[store.FOLDERS - 1] if len(above) >= store.FOLDERS else path, path.name)


def verify_all(
    root: Path,
    ledger: LedgerReader,
    public_keys: Collection[Ed25519PublicKey] | None = None,
    *,
    progress: Progress | None = None,
) -> list[Report]:
    """Verify the ledger, every recording below `root`, and that none is missing; the ledger's report comes first.

    `public_keys` default to those the ledger trusts. `progress` is called with recordings done and recordings in all.
    Raises LedgerError when the ledger can't be read.
    """
    keys = ledger.public_keys() if public_keys is None else public_keys
    reports = [_ledger_report(ledger)]
    known = _sealings(ledger)
    purged = {entry.fields.get("session") for entry in ledger.entries(PURGED, past_damage=True)}
    found = [path for path in store.recordings(root) if path.name not in purged]
    total = len(found)
    for done, path in enumerate(found):
        if progress:
            progress(done, total)
        sealing = known.pop(path.name, None)
        look = functools.partial(_look, Folder(path), keys, ledger, sealing, root=root)
        reports.append(_settled(look, root, path.name))
    stored = {entry.fields.get("session") for entry in ledger.entries(STORED, past_damage=True)}
    for session in sorted(known.keys() - purged):
        elsewhere = Report(session, root, "stored", ())
        reports.append(
            elsewhere if session in stored else _missing(root, session, "the ledger has it sealed")
        )
    for session in store.marked_open(root):
        if session not in known:
            begun = _settled(functools.partial(_look_for, root, session), root, session)
            reports += [] if begun.ok else [begun]
    if progress:
        progress(total, total)
    return reports


def _settled(look: Callable[[], Report], root: Path, session: str) -> Report:
    """Look until nothing is wrong, the recorder is not at work on it any more, or it stays wrong."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        at_work = (root / store.OPEN / session).exists()  # asked first: what is seen after it went is final
        report = look()
        if report.ok or not at_work or time.monotonic() >= deadline:
            return report
        time.sleep(LOOK_AGAIN_SECONDS)


def _look(
    source: Source,
    public_keys: Collection[Ed25519PublicKey],
    ledger: LedgerReader | None,
    sealing: Entry | None,
    *,
    progress: Progress | None = None,
    root: Path | None = None,
) -> Report:
    return _Inspection(source, public_keys, progress, root).report(ledger, sealing)


def _look_for(root: Path, session: str) -> Report:
    if (path := store.find(root, session)) is not None:
        return Report(session, path, "live", ())
    return _missing(root, session, "it was begun and not sealed")


def _sealings(ledger: LedgerReader, session: str = "") -> dict[str, Entry]:
    """Give what the ledger last said of a recording, or of all; damage in between is `_ledger_report`'s to tell."""
    entries = ledger.entries(SEALED_KINDS, session=session, past_damage=True)
    return {str(entry.fields["session"]): entry for entry in entries if "session" in entry.fields}


def _ledger_report(ledger: LedgerReader) -> Report:
    found = ledger.verify()
    problems = () if found.ok else (Problem("ledger", found.text, ledger.path.name, found.offset),)
    return Report("", ledger.path, "ledger", problems, records=found.entries)


def _missing(root: Path, session: str, known_by: str) -> Report:
    problem = Problem("recording-missing", f"{known_by}, and it is not on disk")
    return Report(session, root, "missing", (problem,))


class _Inspection:
    """One look at one recording; finds as many problems as it can, not only the first."""

    def __init__(
        self,
        source: Source,
        public_keys: Collection[Ed25519PublicKey],
        progress: Progress | None,
        root: Path | None,
    ) -> None:
        self._source = source
        self._path = source.path
        self._root = root
        self._keys: Mapping[bytes, Ed25519PublicKey] = {key_id(key): key for key in public_keys}
        self._progress = progress
        self._problems: list[Problem] = []
        self._segments = self._frames = self._records = self._bytes = self._unsigned = 0

    def report(self, ledger: LedgerReader | None, sealing: Entry | None) -> Report:
        """Look; `sealing` is what the ledger said of it before anything was looked at."""
        manifest = self._manifest()
        chain = self._all_segments(manifest)
        if ledger is not None:
            self._against_ledger(manifest, chain, ledger, sealing)
        state = "unknown" if manifest is None else "live" if manifest.state == "open" else manifest.state
        counts = (self._segments, self._frames, self._records, self._bytes)
        return Report(self._path.name, self._path, state, tuple(self._problems), *counts, self._unsigned)

    def _bad(self, code: str, text: str, file: str = "", offset: int | None = None) -> None:
        self._problems.append(Problem(code, text, file, offset))

    def _read(self, name: str) -> bytes:
        with self._source.file(name).open("rb") as file:
            return file.read()

    # ------------------------------------------------------------------ the manifest

    def _manifest(self) -> Manifest | None:
        """Give the manifest when it can be trusted: one that is not signed says nothing of the segments."""
        try:
            data = self._read(manifests.NAME)
            manifest = manifests.decode(data)
        except OSError as error:
            self._bad("manifest-missing", f"it can't be read: {error.strerror}", manifests.NAME)
            return None
        except FormatError:
            self._bad("manifest-altered", "it is no manifest", manifests.NAME)
            return None
        key = self._keys.get(manifest.signer)
        if key is None:
            self._bad("key-unknown", "it is signed by a key that is not trusted", manifests.NAME)
            return None
        if data != manifest.encode() or not manifest.verify(key):
            self._bad("manifest-altered", "it is not what was signed", manifests.NAME)
            return None
        if manifest.problem:
            self._bad("tampered", manifest.problem, manifests.NAME)
        if manifest.session != self._path.name:
            self._bad("misplaced", "it is another recording's", manifests.NAME)
        elif self._root and self._path != store.folder_of(self._root, manifest.session, manifest.started_ns):
            self._bad("misplaced", "the recording is not in the directory of its day", manifests.NAME)
        return manifest

    # ------------------------------------------------------------------ the segments

    def _all_segments(self, manifest: Manifest | None) -> bytes:
        """Check every segment and how they hang together; give the chain after the last."""
        sizes = {name: size for name, size in self._source.sizes().items() if store.is_segment(name)}
        files = {int(name.removesuffix(store.SUFFIX)): name for name in sizes}
        closed = {entry.number: entry for entry in manifest.segments} if manifest else {}
        is_open = manifest is not None and manifest.state == "open"
        numbers = sorted({*files, *closed})
        total = sum(sizes.values())
        chain, seq, expected = NO_CHAIN, 1, 0
        for number in numbers:
            name = store.segment_path(self._path, number).name
            if number != expected:
                self._bad("segment-missing", f"segments {expected} to {number - 1} are missing", name)
            expected = number + 1
            if number not in files:
                self._bad("segment-missing", "this segment is missing", name)
                continue
            if number not in closed and not is_open and manifest:
                self._bad("segment-extra", "the manifest knows no such segment", name)
            found = self._segment(files[number], closed.get(number))
            if found is not None:
                self._follows(found, number, chain, seq, name)
                chain, seq = found.chain, found.next_seq
            if self._progress:
                self._progress(self._bytes, total)
        if numbers:
            return chain
        if manifest is None or is_open:  # closed without one: a crash came before the first record
            self._bad("segment-missing", "there is no segment at all")
        return b""

    def _segment(self, name: str, entry: SegmentEntry | None) -> Scan | None:
        """Check one segment by itself and against the manifest's entry."""
        self._segments += 1
        limit = (
            entry.size if entry is not None and not entry.sealed else None
        )  # what came after it did not count
        try:
            found = scan(self._read(name)[:limit])
        except OSError as error:
            self._bad("segment-unreadable", f"it can't be read: {error.strerror}", name)
            return None
        except FormatError as error:
            self._bad("segment-altered", str(error), name, 0)
            return None
        self._frames += len(found.frames)
        self._records += found.records
        self._bytes += found.good_end
        if found.problem:
            self._bad("segment-altered", found.problem, name, found.good_end)
        self._signatures(found, name)
        if entry is not None:
            self._as_listed(found, entry, name)
        return found

    def _signatures(self, found: Scan, name: str) -> None:
        signed_to = found.header.first_seq
        for signature in found.signatures:
            key = self._keys.get(signature.key_id)
            if key is None:
                self._bad(
                    "key-unknown", "it is signed by a key that is not trusted", name, signature.frame.offset
                )
            elif not signature.verify(key):
                self._bad("signature", "a signature in it is false", name, signature.frame.offset)
            signed_to = signature.frame.first_seq
        self._unsigned = found.next_seq - signed_to

    def _as_listed(self, found: Scan, entry: SegmentEntry, name: str) -> None:
        there = SegmentEntry(
            number=found.header.number,
            size=found.good_end,
            first_seq=found.header.first_seq,
            records=found.records,
            start_ms=found.header.start_ms,
            end_ms=found.t1_ms,
            chain=found.chain,
            sealed=found.sealed,
        )
        wrong = [word for word, is_, said in zip(entry._fields, there, entry, strict=True) if is_ != said]
        if wrong:
            self._bad("segment-listed", f"the manifest says otherwise of its {', '.join(wrong)}", name)

    def _follows(self, found: Scan, number: int, chain: bytes, seq: int, name: str) -> None:
        header = found.header
        if header.session != self._path.name:
            self._bad("segment-misplaced", "it is another recording's", name)
        if header.number != number:
            self._bad("segment-misplaced", f"it is segment {header.number}", name)
        # A gap in the numbers is none in the chain: best_effort recording numbers what it had to lose.
        if header.prev_chain != chain or header.first_seq < seq:
            self._bad("segment-link", "it does not follow what stands before it", name)

    # ------------------------------------------------------------------ the ledger

    def _against_ledger(
        self, manifest: Manifest | None, chain: bytes, ledger: LedgerReader, sealing: Entry | None
    ) -> None:
        if manifest is not None and manifest.state == "open":
            if sealing is not None:
                self._bad("ledger-differs", "the ledger has it sealed, and it is not", manifests.NAME)
            return
        # Asked again when not known: it may have been sealed since, and the manifest is written first.
        sealing = sealing or _sealings(ledger, self._path.name).get(self._path.name)
        if sealing is None:
            self._bad("ledger-unknown", "the ledger does not know this recording")
        elif sealing.fields.get("chain") != chain.hex():
            self._bad("ledger-differs", "it does not end as the ledger says")
