"""Stretches of a recorded desktop, by the real decoder: put together in whatever way they are what the session showed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyrage import x25519
from unit.index.tape import SOUND, demand_active, from_client, from_target, session, slow, tile
from unit.index.test_decode_audio import PCM, formats, wave

from proxyd.cli_decoder import Undecoded
from proxyd.cli_derive import DESKTOP, Decoder
from proxyd.cli_look import Desktop
from proxyd.console import motion
from proxyd.console.motion import STAGES, Heard, Stage, Stages
from proxyd.indexing.frames import HEARD
from proxyd.protocols.rdp.channels import build_chunks
from proxyd.recorder.keys import Signer, new_dek, wrap
from proxyd.recorder.manifest import End, Manifest
from proxyd.recorder.record import Record
from proxyd.recorder.reel import Block, Reel
from proxyd.recorder.replay import Recording
from proxyd.recorder.segment import new_packer
from proxyd.recorder.sidecar import Item, Writer

pytest.importorskip("aardwolf", reason="the decoder of recordings is not installed")
pytestmark = pytest.mark.mission("M6", "M12")

WIDTH, HEIGHT = 640, 480
SECOND = 1_000_000
LASTS = 100 * SECOND
BLOCK = bytes(range(256)) * 5  # 40 ms of PCM
BLOCK_US = 40_000
TONE_AT, BLOCKS = 70 * SECOND, 50
STEP = motion.LEAST_STEP_US
NAME = "desk" + "0" * 28


def tape() -> list[Record]:
    """Something is painted each second, twice within a step now and then; two seconds of sound late in it."""
    chance = random.Random(7)
    told = [session(WIDTH, HEIGHT), demand_active(WIDTH, HEIGHT)]
    told += [from_client(chunk, SOUND) for chunk in build_chunks(formats(PCM))]
    for at in range(1, 100):
        for late in (0, 5_000) if at % 10 == 0 else (0,):
            spot = tile(32 * (at % 16), 32 * (at % 12), 32, 32, chance.randbytes(4096))
            told.append(slow([spot], at * SECOND + late))
    for number in range(BLOCKS):
        at = TONE_AT + number * BLOCK_US
        told += [from_target(chunk, SOUND, at) for part in wave(BLOCK) for chunk in build_chunks(part)]
    told.sort(key=lambda one: one.at_us)
    return [one._replace(seq=seq) for seq, one in enumerate(told, 2)]  # 1 is what says whose session it was


def written(root: Path, *, indexed: bool) -> Recording:
    """The recorder's own recording of it, with times of its own, and its index as `proxyd index` makes it."""
    identity, dek = x25519.Identity.generate(), new_dek()
    about = {"id": NAME, "protocol": "rdp", "user": "a", "target": "t", "host": "t:3389", "login": "b"}
    keys = wrap(dek, [str(identity.to_public())])
    manifest = Manifest(NAME, "node1", time.time_ns(), "open", strict=True, meta=about, keys=keys)
    reel, packer = Reel(root, manifest, dek, Signer(Ed25519PrivateKey.generate())), new_packer()
    items: list[Any] = [(0, 1, 0, about), *((one.at_us, one.kind, one.channel, one.body) for one in tape())]
    reel.queue.append(Block(1, items, 1 << 20))
    reel.begin(packer)
    while reel.queue:
        reel.write(packer)
    reel.finish(packer, End(time.time_ns(), "closed", "", ""), failed=False)
    recording = Recording.open(reel.folder, dek=dek)
    if indexed:
        writer = Writer(reel.folder, NAME, dek)
        with Decoder(DESKTOP) as decoder:
            for made in decoder.fed(recording.records()):
                writer.add(made)
            writer.add(decoder.finish())
        writer.finish()
        assert len(recording.sidecar().keyframes) > 1
    return recording


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return written(tmp_path_factory.mktemp("indexed"), indexed=True)


@pytest.fixture
def stage(recording: Recording) -> Iterator[Stage]:
    made = Stage(recording)
    yield made
    made.close()


def shown_at(at_us: int) -> bytes:
    """What the session showed, read straight from its beginning, in this process."""
    from proxyd.index.rdp.screen import screen  # noqa: PLC0415 - needs the decoder

    return screen(tape(), at_us).rgb


def pixels(desktop: Desktop) -> bytes:
    assert desktop.image is not None
    return desktop.image.tobytes()


def sounding(found: dict[str, Any]) -> list[Heard]:
    return [Heard(*one) for one in found["sounds"]]


def test_a_moment_is_what_the_session_showed(stage: Stage) -> None:
    for at in (
        50 * SECOND,
        51 * SECOND,
        10 * SECOND + 3_000,
        10 * SECOND + 5_000,
        99 * SECOND,
        SECOND - 1,
        LASTS,
    ):
        found = stage.stretch(at, at, STEP)
        assert found["until"] == at
        (picture,) = found["pictures"]
        assert picture["whole"]
        desktop = Desktop()
        desktop.take(picture)
        assert pixels(desktop) == shown_at(at), at


def test_stretches_that_join_are_the_session_whatever_they_were_asked_between(stage: Stage) -> None:
    chance = random.Random(3)
    desktop, at = Desktop(), 0
    while at < LASTS:
        until = min(at + chance.randrange(1, 20 * SECOND), LASTS)
        elsewhere = chance.random() < 0.3
        if elsewhere:
            stage.stretch(chance.randrange(LASTS), LASTS, STEP)  # somebody else, with the same decoder
        found = stage.stretch(at, until, chance.choice((STEP, 16 * STEP)))
        assert found["until"] == until
        wholes = [picture["whole"] for picture in found["pictures"]]
        assert any(wholes) == (elsewhere or at == 0)
        for picture in found["pictures"]:
            assert at <= picture["at_us"] <= until or picture["whole"]
            desktop.take(picture)
        assert pixels(desktop) == shown_at(until)
        at = until


def test_pictures_come_when_something_changed_and_hold_what_came_within_a_step(stage: Stage) -> None:
    stage.stretch(8 * SECOND + 1, 8 * SECOND + 1, STEP)
    found = stage.stretch(8 * SECOND + 1, 12 * SECOND, STEP)
    times = [picture["at_us"] for picture in found["pictures"]]
    assert times == [9 * SECOND, 10 * SECOND + 5_000, 11 * SECOND, 12 * SECOND]
    assert not any(picture["whole"] for picture in found["pictures"])


def test_a_stretch_that_is_too_large_says_where_it_is_cut(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motion, "STRETCH_BYTES", 9000)
    stage.stretch(0, 0, STEP)
    desktop, at, stretches = Desktop(), 0, 0
    desktop.take(stage.stretch(at, at, STEP)["pictures"][0])
    while at < 30 * SECOND:
        found = stage.stretch(at, 30 * SECOND, STEP)
        assert found["until"] > at
        assert (
            sum(len(patch["rgb"]) for picture in found["pictures"] for patch in picture["patches"]) < 20_000
        )
        for picture in found["pictures"]:
            desktop.take(picture)
        at, stretches = found["until"], stretches + 1
    assert stretches > 5
    assert pixels(desktop) == shown_at(30 * SECOND)


def test_sound_is_whole_and_where_it_was(stage: Stage) -> None:
    stage.stretch(69 * SECOND, 69 * SECOND, STEP)
    heard: list[Heard] = []
    for at in (69, 70, 71, 72):
        heard += sounding(stage.stretch(at * SECOND, (at + 1) * SECOND, STEP))
    assert b"".join(one.samples for one in heard) == BLOCK * BLOCKS
    assert [one.at_us for one in heard] == [TONE_AT + number * BLOCK_US for number in range(BLOCKS)]
    assert {(one.rate, one.channels, one.bits) for one in heard} == {(8000, 2, 16)}


def test_what_still_sounds_at_a_moment_comes_with_it(stage: Stage, recording: Recording) -> None:
    at = TONE_AT + SECOND + BLOCK_US // 2
    keyframe = recording.sidecar().keyframe(at)
    assert keyframe is not None
    assert keyframe.at_us > 10 * SECOND, "the formats stand before it"
    (still,) = sounding(stage.stretch(at, at, STEP))
    assert still.at_us <= at < still.end_us
    assert sounding(stage.stretch(80 * SECOND, 80 * SECOND, STEP)) == []


def test_without_an_index_it_is_the_same(tmp_path: Path) -> None:
    bare = Stage(written(tmp_path, indexed=False))
    try:
        for at in (80 * SECOND, 40 * SECOND):
            desktop = Desktop()
            desktop.take(bare.stretch(at, at, STEP)["pictures"][0])
            assert pixels(desktop) == shown_at(at)
    finally:
        bare.close()


@pytest.mark.parametrize(
    "body", [None, [], [0, 2, 16, b""], [8000, 2, 12, b""], [8000, 9, 16, b""], [8000, 2, 16, "x"]]
)
def test_a_decoder_is_believed_nothing_but_sound(body: object) -> None:
    with pytest.raises(Undecoded):
        motion._heard(Item(HEARD, 0, body))


def test_decoders_wait_for_who_had_them_and_are_few(recording: Recording) -> None:
    stages = Stages()
    with stages.of("ann", recording) as first:
        first.stretch(SECOND, SECOND, STEP)
        with stages.of("ann", recording) as second:  # another page of hers, meanwhile
            assert second is not first
    with stages.of("ann", recording) as again:
        assert again in (first, second)
    for number in range(STAGES + 1):
        with stages.of(f"user{number}", recording):
            pass
    assert len(stages._waiting) == STAGES
    with stages.of("ann", recording) as anew:
        assert anew is not again
    with pytest.raises(Undecoded), stages.of("ann", recording) as broken:
        raise Undecoded("it gave up")
    with stages.of("ann", recording) as next_one:
        assert next_one is not broken
    for one in list(stages._waiting.values()):
        one.used -= motion.IDLE_S
    stages._sweep()
    assert not stages._waiting
    assert stages._timer is None
