"""The store, the manifest, the keys, and what recovery makes of what a crash left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder_studio import META, MakeStudio, Studio

from proxyd.errors import ConfigError, FormatError
from proxyd.recorder import keys, manifest, store
from proxyd.recorder.keys import Signer
from proxyd.recorder.manifest import End, Manifest, SegmentEntry
from proxyd.recorder.record import Kind
from proxyd.recorder.recover import Recovered, recover
from proxyd.recorder.segment import SegmentWriter, new_packer, scan
from proxyd.recorder.verify import verify


def example(identity: pyrage.x25519.Identity) -> Manifest:
    entry = SegmentEntry(0, 1234, 1, 7, 0, 900, bytes(32), sealed=True)
    wrapped = keys.wrap(bytes(32), [str(identity.to_public())])
    end = End(1_700_000_001_000_000_000, "dropped", "eve", "You have been disconnected")
    return Manifest("s1", "node1", 1_700_000_000_000_000_000, "sealed", True, META, wrapped, (entry,), end)


# ---------------------------------------------------------------------- manifest


def test_a_manifest_comes_back_with_its_signature(identity: pyrage.x25519.Identity, signer: Signer) -> None:
    made = example(identity).signed(signer)
    again = manifest.decode(made.encode())
    assert again == made
    assert again.verify(signer.public)
    assert (again.size, again.chain) == (1234, bytes(32))
    assert again.signer == signer.key_id


def test_no_field_of_a_manifest_can_be_changed(identity: pyrage.x25519.Identity, signer: Signer) -> None:
    fields = json.loads(example(identity).signed(signer).encode())
    for name, value in fields.items():
        if name in {"format", "signature"}:
            continue
        other = (
            {**value, "at_ns": 1}
            if isinstance(value, dict)
            else []
            if isinstance(value, list)
            else "recovered"
        )
        if isinstance(value, bool | int):
            other = value + 1 if not isinstance(value, bool) else not value
        if name == "signer":
            other = "00"
        changed = manifest.decode(json.dumps(fields | {name: other}).encode())
        assert not changed.verify(signer.public), name


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=100), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps({"format": "PXR1", "state": "open", "session": value}).encode())))  # fmt: skip
def test_garbage_is_no_manifest(data: bytes) -> None:
    with pytest.raises(FormatError):
        manifest.decode(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *[(place, value) for place in ("started_ns", "end.at_ns", *(f"segments.0.{name}" for name in (
            "number", "size", "first_seq", "records", "start_ms", "end_ms",
        ))) for value in ("Infinity", "1e400", "NaN", "1.0", "true", '"1"', "-1", "null", str(1 << 63))],
        ("segments.0.number", str(1 << 32)),
        *[(place, value) for place in ("strict", "segments.0.sealed") for value in ("1", "null", '"true"')],
        *[(place, value) for place in (
            "session", "node", "end.reason", "end.by", "end.error", "signer", "signature", "segments.0.chain",
        ) for value in ("1", "null", "[]")],
        *[(place, value) for place in ("meta", "segments", "keys", "end") for value in ("1", "true")],
        *[(place, "{}") for place in ("segments", "keys", "end")],
        ("meta", "[]"),
        ("state", "[]"),
        ("format", "null"),
        *[("tampered", value) for value in ("true", "false", "null", '"yes"')],  # without a problem that is text
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_no_manifest(
    identity: pyrage.x25519.Identity, place: str, value: str
) -> None:
    fields = json.loads(example(identity).encode())
    *way, last = (int(part) if part.isdigit() else part for part in place.split("."))
    inner = fields
    for part in way:
        inner = inner[part]
    inner[last] = "@"
    with pytest.raises(FormatError):
        manifest.decode(json.dumps(fields).replace('"@"', value).encode())


def test_only_what_json_says_exactly_goes_into_a_manifest() -> None:
    assert manifest.sayable({"a": 1, "b": b"x", "c": ["x", 1], "d": {"e": 1}, "f": [b"x"]}) == {
        "a": 1,
        "c": ["x", 1],
    }


# ---------------------------------------------------------------------- keys


def test_a_data_key_opens_for_each_recipient_and_nobody_else() -> None:
    vault, escrow, stranger = (pyrage.x25519.Identity.generate() for _ in range(3))
    dek = keys.new_dek()
    wrapped = keys.wrap(dek, [str(vault.to_public()), str(escrow.to_public())])
    assert dek not in b"".join(key.blob for key in wrapped)
    for identity in (vault, escrow):
        assert keys.unwrap(wrapped, keys.read_identities(f"# created\n{identity}\n")) == dek
    with pytest.raises(FormatError):
        keys.unwrap(wrapped, [stranger])
    with pytest.raises(ConfigError):
        keys.wrap(dek, [])
    with pytest.raises(ConfigError):
        keys.wrap(dek, ["age1nonsense"])
    for text in ("", "AGE-SECRET-KEY-1NONSENSE"):
        with pytest.raises(FormatError):
            keys.read_identities(text)


def test_the_signing_key_is_private_and_ed25519(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    private = Ed25519PrivateKey.generate()
    with pytest.raises(ConfigError, match="can't be read"):
        keys.load_signer(path)
    path.write_bytes(private.private_bytes(*form))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        keys.load_signer(path)
    path.chmod(0o600)
    assert keys.load_signer(path).key_id == keys.key_id(private.public_key())
    path.write_bytes(X25519PrivateKey.generate().private_bytes(*form))
    with pytest.raises(ConfigError, match="not Ed25519"):
        keys.load_signer(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="no unencrypted"):
        keys.load_signer(path)


# ---------------------------------------------------------------------- recovery


async def crashed(studio: Studio, *, records: int = 5) -> list[bytes]:
    """Leave a recording as a killed process does."""
    bodies = [os.urandom(50) for _ in range(records)]
    async with trio.open_nursery() as nursery:
        await nursery.start(studio.recorder.run)
        made = await studio.open()
        for body in bodies:
            made.add(Kind.OUTPUT, body)
            await made.flush()
        made.reel.close()
        nursery.cancel_scope.cancel()
    return bodies


def recovered(studio: Studio) -> list[Recovered]:
    return recover(studio.root, studio.signer, node="node1", catalog=studio.notes, ledger=studio.notes)


def bodies_of(studio: Studio) -> list[bytes]:
    return [record.body for record in studio.read() if record.kind is Kind.OUTPUT]


async def test_recovery_seals_and_tells(studio: Studio) -> None:
    bodies = await crashed(studio)
    (one,) = recovered(studio)
    assert (one.session, one.path, one.records, one.torn, one.problem) == ("s1", studio.folder(), 6, 0, "")
    made = store.read_manifest(studio.folder())
    assert made.state == "recovered"
    assert made.verify(studio.signer.public)
    assert bodies_of(studio) == bodies
    assert scan(store.segment_path(studio.folder(), 0).read_bytes()).recovered
    ((kind, fields),) = studio.notes.entries
    assert (kind, fields["chain"]) == ("recovered", made.chain.hex())
    row = studio.notes.rows["s1"]
    assert (row["state"], row["size"], row["user"]) == ("recovered", made.size, "ann")
    assert made.end is not None
    assert abs(made.end.at_ns - made.started_ns) < 60e9
    assert recovered(studio) == []


async def test_a_torn_end_is_cut_off_and_kept(studio: Studio) -> None:
    bodies = await crashed(studio)
    path = store.segment_path(studio.folder(), 0)
    whole = path.read_bytes()
    last = scan(whole).frames[-1]
    os.truncate(path, last.end - 7)
    (one,) = recovered(studio)
    assert one.torn == last.end - 7 - last.offset
    assert path.with_name(path.name + ".torn").read_bytes() == whole[last.offset : last.end - 7]
    assert bodies_of(studio) == bodies[:-1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / manifest.NAME).unlink(),
        lambda folder: (folder / manifest.NAME).write_bytes(b"{"),
        lambda folder: (folder / (manifest.NAME + ".new")).write_bytes(b"{"),
        lambda folder: store.segment_path(folder, 1).write_bytes(b""),
        lambda folder: store.segment_path(folder, 1).write_bytes(b"PXR1\x01\x00"),
    ],
    ids=["manifest gone", "manifest torn", "manifest half replaced", "segment empty", "header torn"],
)
async def test_recovery_makes_do(studio: Studio, damage: Callable[[Path], object]) -> None:
    bodies = await crashed(studio)
    damage(studio.folder())
    (one,) = recovered(studio)
    assert not one.problem
    assert bodies_of(studio) == bodies
    made = store.read_manifest(studio.folder())
    assert made.state == "recovered"
    assert len(made.segments) == 1


def forge_manifest(folder: Path) -> None:
    """Say it was somebody else, and keep the signature."""
    path = folder / manifest.NAME
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"bob"'))


def sign_manifest_anew(folder: Path) -> None:
    stranger = Signer(Ed25519PrivateKey.generate())
    made = store.read_manifest(folder)
    store.write_manifest(folder, replace(made, state="sealed").signed(stranger))


def put_another_manifest(folder: Path, signer: Signer) -> None:
    """One this node signed, of another session."""
    store.write_manifest(folder, replace(store.read_manifest(folder), session="s2").signed(signer))


def forge_segment(folder: Path, signer: Signer, *, session: str = "s1") -> None:
    """Make the segment anew, chain and all, as whoever may write there can."""
    path = store.segment_path(folder, 0)
    header = replace(scan(path.read_bytes()).header, session=session)
    writer = SegmentWriter(header, bytes(32), signer)
    frame = writer.events([(0, Kind.OUTPUT, 0, b"nothing happened")], new_packer())
    path.write_bytes(writer.preamble + frame + writer.checkpoint())


@pytest.mark.mission("M5")
@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (lambda folder, _: forge_manifest(folder), "its manifest is not signed by this node"),
        (lambda folder, _: sign_manifest_anew(folder), "its manifest is not signed by this node"),
        (put_another_manifest, "its manifest is another recording's"),
        (
            lambda folder, _: forge_segment(folder, Signer(Ed25519PrivateKey.generate())),
            "000000.pxr holds a signature that is not this node's",
        ),
        (
            lambda folder, signer: forge_segment(folder, signer, session="s2"),
            "000000.pxr is another segment than its name says",
        ),
        (
            lambda folder, _: store.segment_path(folder, 0).rename(store.segment_path(folder, 7)),
            "000007.pxr is another segment than its name says",
        ),
    ],
    ids=["manifest", "manifest signed", "manifest moved", "segment", "segment moved", "segment renamed"],
)
async def test_what_was_altered_is_sealed_and_says_so(
    studio: Studio, tamper: Callable[[Path, Signer], object], found: str
) -> None:
    await crashed(studio)
    folder = studio.folder()
    tamper(folder, studio.signer)
    before = (folder / manifest.NAME).read_bytes()
    (one,) = recovered(studio)
    assert one.problem.endswith(": " + found)
    assert one.records
    made = store.read_manifest(folder)
    assert (made.session, made.state, made.problem) == ("s1", "recovered", one.problem)
    assert made.verify(studio.signer.public)
    assert json.loads((folder / manifest.NAME).read_bytes())["tampered"] is True
    ((kind, fields),) = studio.notes.entries
    assert (kind, fields["tampered"], fields["problem"]) == ("recovered", True, one.problem)
    assert fields["chain"] == made.chain.hex()
    assert studio.notes.rows["s1"]["error"] == one.problem
    kept = folder / (manifest.NAME + store.TORN)
    assert kept.exists() == ("manifest" in found)
    assert not kept.exists() or kept.read_bytes() == before
    assert store.marked_open(studio.root) == []
    assert (folder / manifest.NAME).exists()
    report = verify(folder, [studio.signer.public])
    assert "tampered" in [problem.code for problem in report.problems]


async def test_what_is_known_to_be_altered_stays_so(studio: Studio) -> None:
    """The crash comes between manifest and ledger; afterwards the manifest verifies, and still says it."""
    await crashed(studio)
    forge_manifest(studio.folder())
    (first,) = recovered(studio)
    store.mark_open(studio.root, "s1")
    (second,) = recovered(studio)
    assert first.problem == second.problem != ""
    assert studio.notes.entries[0] == studio.notes.entries[1]


async def test_what_crashed_between_manifest_and_ledger_is_told_again(studio: Studio) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(studio.recorder.run)
        made = await studio.open()
        await made.seal("client left")
        nursery.cancel_scope.cancel()
    before = store.read_manifest(studio.folder())
    store.mark_open(studio.root, "s1")
    studio.notes.rows.clear()
    (one,) = recovered(studio)
    assert not one.problem
    assert store.read_manifest(studio.folder()) == before
    assert studio.notes.rows["s1"]["state"] == "ended"
    assert studio.notes.entries[-1][1]["chain"] == before.chain.hex()


async def test_one_that_can_not_be_recovered_does_not_keep_the_others(
    tmp_path: Path, make_studio: MakeStudio
) -> None:
    studio = make_studio(tmp_path)
    await crashed(studio)
    store.mark_open(tmp_path, "a0")
    store.make_directory(store.segment_path(store.folder_of(tmp_path, "a0", 0), 0), tmp_path)
    store.mark_open(tmp_path, "a1")
    first, never_begun, second = recovered(studio)
    assert first.problem
    assert never_begun == Recovered("a1", None)
    assert not second.problem
    assert store.marked_open(tmp_path) == ["a0"]


async def test_a_recording_whose_files_are_gone_is_told(studio: Studio) -> None:
    await crashed(studio)
    for path in studio.folder().iterdir():
        path.unlink()
    (one,) = recovered(studio)
    assert not one.problem
    assert studio.notes.entries == [("empty", {"session": "s1"})]
    assert studio.notes.rows["s1"]["state"] == "failed"
    assert store.marked_open(studio.root) == []


# ---------------------------------------------------------------------- the directory


def test_a_session_id_is_a_file_name_and_nothing_else(tmp_path: Path) -> None:
    for bad in ("", "..", "a/b", "a.b", "a" * 65, "a\0"):
        with pytest.raises(ValueError, match="session id"):
            store.folder_of(tmp_path, bad, 0)
    assert store.folder_of(tmp_path, "a-B_1", 86_400 * 10**9) == tmp_path / "1970" / "01" / "02" / "a-B_1"


async def test_all_recordings_are_found(studio: Studio) -> None:
    assert list(store.recordings(studio.root)) == []
    await crashed(studio)
    assert list(store.recordings(studio.root)) == [studio.folder()]
    assert store.find(studio.root, "s2") is None


def test_what_a_write_left_over_goes_first(tmp_path: Path) -> None:
    """A pipe takes part of a write and refuses the rest, as a full disk does."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = store.SegmentFile.__new__(store.SegmentFile)
    file._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    file._left, file.path, file.size, file.dirty = b"", path, 0, False
    data = os.urandom(200_000)
    with pytest.raises(BlockingIOError):
        file.append(data)
    assert not file.whole
    got = b""
    while not file.whole or len(got) < len(data) + 4:
        got += os.read(reader, 65536)
        try:
            if file.whole:
                file.append(b"next")
            else:
                file.push()
        except BlockingIOError:
            continue
    assert got[: len(data) + 4] == data + b"next"
    file.close()
    os.close(reader)
