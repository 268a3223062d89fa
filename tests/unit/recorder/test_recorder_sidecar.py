"""The sidecar's format: what was written comes back, and what was damaged, cut or is another's never passes as whole."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
import zstandard

from proxyd.errors import FormatError
from proxyd.recorder import sidecar
from proxyd.recorder.keys import new_dek
from proxyd.recorder.sidecar import (
    ASIDE,
    MAX_ITEMS,
    NAME,
    Derived,
    Item,
    Keyframes,
    Sidecar,
    Writer,
    inflated,
    keyframe_of,
    path_of,
)

pytestmark = pytest.mark.mission("M12", "M16")

SESSION = "5e55" * 8
WIDTH, HEIGHT = 6, 4


def keyframe(at_us: int, seed: int) -> Item:
    rgb = random.Random(seed).randbytes(WIDTH * HEIGHT * 3)
    body = {
        "seq": at_us // 1000,
        "width": WIDTH,
        "height": HEIGHT,
        "rgb": zstandard.compress(rgb),
        "saved": zstandard.compress(b"\x80"),
    }
    return Item(Derived.KEYFRAME, at_us, body)


ITEMS = [
    Item(Derived.HEAT, 0, [10, 2000]),
    keyframe(10_000_000, 1),
    Item(Derived.TYPED, 11_000_000, [False, "ls"]),
    Item(Derived.HEAT, 12_000_000, [1, 2]),
    keyframe(30_000_000, 2),
    keyframe(90_000_000, 3),
    Item(Derived.SUMMARY, 95_000_000, {"seq": 95000, "faults": 0}),
]


def write(folder: Path, dek: bytes, items: list[Item] = ITEMS, session: str = SESSION) -> bytes:
    before = path_of(folder).read_bytes() if path_of(folder).exists() else None
    writer = Writer(folder, session, dek)
    for item in items:
        writer.add([item])
    assert before == (path_of(folder).read_bytes() if before else None)
    writer.finish()
    return path_of(folder).read_bytes()


def test_what_was_written_comes_back_and_is_found_by_time(tmp_path: Path) -> None:
    dek = new_dek()
    data = write(tmp_path, dek)
    opened = Sidecar(path_of(tmp_path), SESSION, dek)
    assert [tuple(item) for item in opened.items()] == [tuple(item) for item in ITEMS]
    assert opened.keyframes == [10_000_000, 30_000_000, 90_000_000]
    assert opened.keyframe(9_999_999) is None
    for at_us, wanted in ((10_000_000, 1), (29_999_999, 1), (30_000_000, 4), (10**12, 5)):
        found = opened.keyframe(at_us)
        assert found == keyframe_of(ITEMS[wanted])
        assert found is not None
        assert len(found.picture()) == WIDTH * HEIGHT * 3
    assert b"ls" not in data
    assert SESSION.encode() in data  # whose it is can be told without a key


def test_one_made_anew_has_a_key_of_its_own(tmp_path: Path) -> None:
    dek = new_dek()
    one, other = write(tmp_path, dek), write(tmp_path, dek)
    assert len(one) == len(other)
    alike = sum(left == right for left, right in zip(one, other, strict=True))
    clear = len(one) - sum(len(packed) for packed in _payloads(one))
    assert alike < clear + len(one) // 20


def _payloads(data: bytes) -> list[bytes]:
    """What is encrypted in a sidecar, frame by frame."""
    found, at = [], 10 + int.from_bytes(data[6:10], "little")
    while len(data) - at > 12:
        size = int.from_bytes(data[at : at + 4], "little")
        found.append(data[at + 24 : at + 24 + size])
        at += 24 + size
    return found


def test_no_damaged_byte_passes(tmp_path: Path) -> None:
    dek = new_dek()
    data = write(tmp_path, dek)
    path = path_of(tmp_path)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes((data[at] ^ 0x40,)) + data[at + 1 :])
        with pytest.raises(FormatError):
            list(Sidecar(path, SESSION, dek).items())


def test_no_cut_passes(tmp_path: Path) -> None:
    dek = new_dek()
    data = write(tmp_path, dek)
    path = path_of(tmp_path)
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(FormatError):
            list(Sidecar(path, SESSION, dek).items())


def test_anothers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dek = new_dek()
    write(tmp_path, dek, session="another")
    with pytest.raises(FormatError, match="another session's"):
        Sidecar(path_of(tmp_path), SESSION, dek)
    write(tmp_path, new_dek())
    with pytest.raises(FormatError, match="was altered, or is another recording's"):
        Sidecar(path_of(tmp_path), SESSION, dek)
    path_of(tmp_path).unlink()
    with pytest.raises(FormatError, match="No such file"):
        Sidecar(path_of(tmp_path), SESSION, dek)
    write(tmp_path, dek)
    monkeypatch.setattr(sidecar, "DERIVED", sidecar.DERIVED + 1)
    with pytest.raises(FormatError, match="another version"):
        Sidecar(path_of(tmp_path), SESSION, dek)


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, SESSION, new_dek())
    writer.add(ITEMS)
    writer.abandon()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    write(tmp_path, new_dek())
    again = Writer(tmp_path, SESSION, new_dek())
    again.abandon()
    assert [path.name for path in tmp_path.iterdir()] == [sidecar.NAME]
    sidecar.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"seq": 1, "width": 1, "height": 1, "rgb": "text", "saved": b""},
        {"seq": "1", "width": 1, "height": 1, "rgb": b"", "saved": b""},
    ],
)
def test_a_keyframe_without_its_shape_is_not_written(tmp_path: Path, body: object) -> None:
    writer = Writer(tmp_path, SESSION, new_dek())
    with pytest.raises(FormatError):
        writer.add([Item(Derived.KEYFRAME, 1, body)])
    writer.abandon()


def test_a_picture_is_no_larger_than_it_says() -> None:
    for rgb, width in (
        (zstandard.compress(bytes(1 << 20)), 2),
        (b"no zstd", 2),
        (zstandard.compress(b"abc"), 0),
    ):
        body = {"seq": 1, "width": width, "height": 1, "rgb": rgb, "saved": b""}
        with pytest.raises(FormatError):
            keyframe_of(Item(Derived.KEYFRAME, 1, body)).picture()


def test_what_is_still_written_can_be_sought_in_as_far_as_it_goes(tmp_path: Path) -> None:
    dek = new_dek()
    aside = tmp_path / (NAME + ASIDE)
    writer = Writer(tmp_path, SESSION, dek)
    writer.add(ITEMS[:1])
    assert Keyframes(aside, SESSION, dek).keyframe(10**12) is None
    writer.add(ITEMS[1:5])
    live = Keyframes(aside, SESSION, dek)
    assert live.keyframes == [10_000_000, 30_000_000]
    assert live.keyframe(29_999_999) == keyframe_of(ITEMS[1])
    assert live.keyframe(10**12) == keyframe_of(ITEMS[4])
    with pytest.raises(FormatError):
        Sidecar(aside, SESSION, dek)
    whole = aside.read_bytes()
    last = len(_payloads(whole)[-1])
    for cut in (1, last, last + 24, last + 25):
        aside.write_bytes(whole[:-cut])
        assert Keyframes(aside, SESSION, dek).keyframe(10**12) == keyframe_of(ITEMS[1])
    aside.write_bytes(whole[:-1] + bytes((whole[-1] ^ 1,)))
    with pytest.raises(FormatError, match="altered"):
        Keyframes(aside, SESSION, dek).keyframe(10**12)
    with pytest.raises(FormatError, match="another session's"):
        Keyframes(aside, SESSION[:-1] + "0", dek)
    found = Keyframes(aside, SESSION, dek)
    writer.abandon()
    with pytest.raises(FormatError, match="can't be read"):
        found.keyframe(10**12)


def claiming(length: int) -> bytes:
    """A frame of zstd (RFC 8878 3.1.1) that is empty, and whose header names a length."""
    magic, eight_bytes, window, last_block_empty = b"\x28\xb5\x2f\xfd", b"\xc0", b"\x00", b"\x01\x00\x00"
    return magic + eight_bytes + window + struct.pack("<Q", length) + last_block_empty


@pytest.mark.parametrize("length", [72, 73, 1 << 34, 1 << 40, (1 << 64) - 3])
def test_a_length_that_a_picture_claims_is_not_allocated(length: int) -> None:
    with pytest.raises(FormatError, match="picture"):
        inflated(claiming(length), WIDTH * HEIGHT * 3)


@pytest.mark.parametrize("length", [MAX_ITEMS + 1, 1 << 40])
def test_a_length_that_a_state_claims_is_not_allocated(length: int) -> None:
    made = keyframe(0, 1)
    keyframes = keyframe_of(made._replace(body=made.body | {"saved": claiming(length)}))
    with pytest.raises(FormatError, match="can't be read"):
        keyframes.state()


def test_what_follows_a_picture_is_no_part_of_it() -> None:
    picture = zstandard.compress(bytes(WIDTH * HEIGHT * 3))
    assert inflated(picture, WIDTH * HEIGHT * 3) == bytes(WIDTH * HEIGHT * 3)
    with pytest.raises(FormatError, match="can't be read"):
        inflated(picture + b"x", WIDTH * HEIGHT * 3)
