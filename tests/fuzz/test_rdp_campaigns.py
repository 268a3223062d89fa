"""What the campaigns against RDP begin with does what it is meant to, and breaks no rule of theirs."""

from __future__ import annotations

import time

import pytest

from proxyd import decoders
from proxyd.index.rdp import bitmap, gfx, gfx_codecs
from proxyd.index.rdp.audio import Audio
from proxyd.index.rdp.keys import Keys
from proxyd.index.rdp.screen import Screen
from proxyd.protocols.rdp.wire import is_fast_path
from proxyd.recorder.record import Kind
from tests.fuzz import (
    atheris_rdp_decode,
    atheris_rdp_graphics,
    seeds_rdp_channels,
    seeds_rdp_decode,
    seeds_rdp_graphics,
    seeds_rdp_wire,
)
from tests.fuzz.atheris_rdp_wire import framed
from tests.fuzz.campaign import SLOW_SECONDS, module
from tests.fuzz.program import Input
from tests.fuzz.session_rdp import Session

pytestmark = [pytest.mark.mission("M16"), pytest.mark.timeout(300)]


need_library = pytest.mark.skipif(decoders.freerdp() is None, reason="libfreerdp is not installed")


@pytest.mark.parametrize(
    "campaign",
    ["rdp_wire", "rdp_channels", "rdp_decode", pytest.param("rdp_graphics", marks=need_library)],
)
def test_seeds_of_a_campaign_break_no_rule(campaign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((bitmap, "MAX_PIXELS"), (gfx, "MAX_PIXELS"), (gfx_codecs, "_Library")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # `quiet` changes them for its process
    side = module("atheris", campaign)
    side.quiet()
    for seed in module("seeds", campaign).seeds():
        began = time.process_time()
        side.play(seed)
        assert time.process_time() - began < SLOW_SECONDS


def test_a_seed_of_the_wire_is_a_session_that_becomes_active_and_types() -> None:
    session = Session(licensed=False)
    session.run(Input(seeds_rdp_wire.seeds()[0][1:]), framed)
    assert session.desk.licensed
    assert session.desk.active
    assert len(session.tape.frames[Kind.INPUT_PDU]) > 3
    assert len(session.tape.frames[Kind.PDU]) > 3


def test_a_seed_of_the_channels_meets_the_gate() -> None:
    refused = 0
    for seed in seeds_rdp_channels.seeds():
        if not seed[0]:
            session = Session(licensed=True)
            session.run(Input(seed[1:]), module("atheris", "rdp_channels").framed)
            refused += len(session.tape.frames[Kind.REFUSED])
    assert refused > 3


def test_seeds_of_the_decoder_paint_type_point_and_sound() -> None:
    painted = typed = heard = pointers = 0
    for seed in seeds_rdp_decode.seeds():
        screen, keys, audio = Screen(), Keys(), Audio()
        for record in atheris_rdp_decode.records(Input(seed)):
            painted += len(screen.feed(record))
            typed += len(keys.feed(record))
            heard += len(audio.feed(record))
        pointers += screen.pointer.shape is not None
    assert min(painted, typed, heard, pointers) > 3


@need_library
def test_seeds_of_the_pipeline_paint_by_its_codecs_and_by_surface_commands() -> None:
    by_pipeline = by_surfaces = 0
    for seed in seeds_rdp_graphics.seeds():
        screen = Screen()
        for record in atheris_rdp_graphics.records(Input(seed)):
            painted = len(screen.feed(record))
            if record.kind is Kind.PDU and is_fast_path(record.body):
                by_surfaces += painted
            else:
                by_pipeline += painted
    assert by_pipeline > 50
    assert by_surfaces > 3
