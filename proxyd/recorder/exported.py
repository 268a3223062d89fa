"""The manifest of an exported file, and whether both are what they say.

Rule 1: the manifest is the ledger's own entry of the export, word for word: signed by the node, it names the file by its
        SHA-256, the recording by its last chain value, and who made the one from the other when. It stands beside the file.
Rule 2: neither key nor daemon is needed to verify; the node's public keys are, from a place an intruder can't write. With
        the ledger it is also checked that the entry is in it, and that the recording ended as the manifest says.
Rule 3: that the file shows what the recording does is the word of the person it names: the daemon can open neither.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxyd.errors import FormatError
from proxyd.recorder.keys import key_id
from proxyd.recorder.ledger import EXPORTED, LINE_LIMIT, PURGED, Entry, LedgerReader, decoded, is_signed
from proxyd.recorder.verify import SEALED_KINDS, Problem, Report

SUFFIX: Final = ".manifest.json"
CHUNK_BYTES: Final = 1 << 20
_NAMED: Final[dict[str, type]] = {"session": str, "who": str, "form": str, "sha256": str, "size": int,
                                  "duration_us": int, "chain": str}  # fmt: skip
_CHANGES: Final = {
    "pause_s": "pauses cut to {} s",
    "speed": "{} times as fast",
    "half": "half as wide and high",
}
"""What a film may differ in from its session, as the manifest names it."""


def manifest_of(file: Path) -> Path:
    """Say where the manifest of an exported file stands."""
    return file.with_name(file.name + SUFFIX)


def digest(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Give the SHA-256 of a file, in hex. Raises OSError."""
    found, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        total = path.stat().st_size
        while data := file.read(CHUNK_BYTES):
            found.update(data)
            done += len(data)
            if progress:
                progress(done, total)
    return found.hexdigest()


def verify_export(
    file: Path,
    manifest: Path,
    public_keys: Collection[Ed25519PublicKey],
    *,
    ledger: LedgerReader | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Verify an exported file by its manifest; with a ledger, also against what that says (rule 2).

    Never raises for what is on disk: the report says it. `state` is "exported", "purged" when the recording is gone since,
    or "unknown" without a manifest that can be trusted.
    """
    try:
        entry = _entry(manifest, public_keys)
    except _Untrusted as error:
        return Report("", file, "unknown", (error.problem,))
    fields, problems = entry.fields, []
    try:
        there = file.stat().st_size
        if there != fields["size"] or digest(file, progress) != fields["sha256"]:
            problems.append(Problem("file-altered", "it is not the file that was exported", file.name))
    except OSError as error:
        problems.append(Problem("file-missing", f"it can't be read: {error.strerror}", file.name))
    state, about = "exported", _said(entry)
    if ledger is not None:
        found, gone = _against(entry, ledger)
        problems += found
        if gone is not None:
            state, about = "purged", f"{about}; {_buried(gone)}"
    return Report(fields["session"], file, state, tuple(problems), bytes=fields["size"], about=about)


class _Untrusted(Exception):
    """The manifest says nothing that counts."""

    def __init__(self, code: str, text: str, manifest: Path) -> None:
        super().__init__(text)
        self.problem = Problem(code, text, manifest.name)


def _entry(manifest: Path, public_keys: Collection[Ed25519PublicKey]) -> Entry:
    """Read a manifest that can be trusted; raises _Untrusted."""
    try:
        with manifest.open("rb") as file:
            line = file.read(LINE_LIMIT + 1)
        entry = decoded(line)
    except OSError as error:
        raise _Untrusted(
            "manifest-missing", f"the manifest can't be read: {error.strerror}", manifest
        ) from None
    except FormatError:
        raise _Untrusted("manifest-altered", "it is not what was signed", manifest) from None
    if entry.kind != EXPORTED or not all(
        type(entry.fields.get(name)) is kind for name, kind in _NAMED.items()
    ):
        raise _Untrusted("manifest-foreign", "it is of something else than an exported file", manifest)
    key = {key_id(one).hex(): one for one in public_keys}.get(entry.key)
    if key is None:
        raise _Untrusted(
            "key-unknown", "it is signed by a key that is not trusted: another site's?", manifest
        )
    if not is_signed(entry, key):
        raise _Untrusted("signature", "its signature is false", manifest)
    return entry


def _against(entry: Entry, ledger: LedgerReader) -> tuple[list[Problem], Entry | None]:
    """Compare with what the ledger has of the session; gives the tombstone too, if there is one."""
    session, problems = str(entry.fields["session"]), []
    kept = sealed = gone = None
    for one in ledger.entries((*SEALED_KINDS, EXPORTED, PURGED), session=session, past_damage=True):
        if one.kind == EXPORTED:
            kept = one if one.n == entry.n else kept
        elif one.kind == PURGED:
            gone = one
        else:
            sealed = one
    if kept is None or kept.hash != entry.hash:
        problems.append(Problem("ledger-unknown", f"the ledger {ledger.path} has no such entry"))
    known = {one.fields.get("chain") for one in (sealed, gone) if one is not None}
    if known and entry.fields["chain"] not in known:
        problems.append(Problem("ledger-differs", "the recording did not end as the manifest says"))
    elif not known:
        problems.append(Problem("ledger-unknown", "the ledger does not know the recording"))
    return problems, gone


def _said(entry: Entry) -> str:
    fields = entry.fields
    changes = [text.format(fields[name]) for name, text in _CHANGES.items() if fields.get(name)]
    form = ", ".join([f"{fields['form']} of session {fields['session']}", *changes])
    return f"{form}, made by {fields['who']} on {_day(entry.at)}"


def _buried(gone: Entry) -> str:
    why: Any = gone.fields.get("why", "")
    return f"its recording was purged on {_day(gone.at)} by {gone.fields.get('who', '')}: {why}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
