"""The scanners on hostile bytes and on any cut of good ones: only WireError, bounded memory, not a byte changed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.postgres import table as made
from unit.postgres.table import Table

from proxyd.protocols.postgres import auth, wire
from proxyd.protocols.postgres.dialogue import MAX_PENDING
from proxyd.protocols.postgres.scan import HELD, MAX_ANSWER
from proxyd.protocols.postgres.wire import WireError
from tests.fuzz import atheris_postgres, seeds_postgres
from tests.fuzz.campaign import SLOW_SECONDS

FUZZ = settings(deadline=None, max_examples=300)
names = st.sampled_from([b"", b"a", b"b"])
texts = st.binary(max_size=40).map(lambda text: text.replace(b"\0", b""))


@st.composite
def batches(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """What a client sends up to a Sync, and how a server answers it."""
    kind = draw(st.sampled_from(["simple", "extended", "error", "copy", "function"]))
    rows = made.row(draw(st.binary(max_size=60))) * draw(st.integers(0, 5))
    if kind == "simple":
        return made.query(draw(texts)), rows + made.done("SELECT 1") + made.READY
    if kind == "copy":
        data = wire.message(wire.COPY_DATA, draw(st.binary(max_size=100)))
        return made.query(b"copy") + data * 3 + wire.message(wire.COPY_DONE), made.done("COPY 3") + made.READY
    if kind == "function":
        return wire.message(wire.FUNCTION, bytes(8)), wire.message(
            wire.FUNCTION_RESULT, draw(st.binary(max_size=9))
        ) + made.READY
    name = draw(names)
    sent = (
        made.parse(draw(texts), name)
        + made.bind(draw(st.binary(max_size=30)), name=name)
        + made.describe(b"P")
        + made.execute()
        + made.SYNC
    )
    if kind == "error":
        return sent, made.PARSED + made.failed() + made.READY
    return sent, made.PARSED + made.BOUND + wire.message(wire.NO_DATA) + rows + made.done(
        "SELECT 1"
    ) + made.READY


def pieces(draw: st.DrawFn, data: bytes) -> Iterator[bytes]:
    """Cut bytes anywhere."""
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[start:end]


@FUZZ
@given(st.data(), st.lists(batches(), min_size=1, max_size=6))
def test_any_cut_of_a_conversation_passes_unchanged_and_is_recorded_alike(
    data: st.DataObject, said: list[tuple[bytes, bytes]]
) -> None:
    whole, cut = Table(), Table()
    for sent, answer in said:
        assert whole.up(sent) == sent and whole.down(answer) == answer
        assert b"".join(cut.up(part) for part in pieces(data.draw, sent)) == sent
        assert b"".join(cut.down(part) for part in pieces(data.draw, answer)) == answer
    for one in (whole, cut):
        assert set(one.told.begun) == set(one.told.ended)
    executed = [made_ for made_ in whole.told.begun.values() if made_["how"] != "prepare"]
    assert executed == [again for again in cut.told.begun.values() if again["how"] != "prepare"]


@FUZZ
@given(st.data(), st.lists(batches(), min_size=1, max_size=5), st.integers(0, 4))
def test_gate_shut_anywhere_leaves_each_side_in_step(
    data: st.DataObject, said: list[tuple[bytes, bytes]], when: int
) -> None:
    """However a client goes on after the gate was shut: nothing passes, and each Sync or Query has its ReadyForQuery."""
    table = Table()
    for number, (sent, answer) in enumerate(said):
        if number == when:
            table.gate.shut("ann", "")
            assert table.dialogue.shut() == b""
        if number < when:
            assert table.up(sent) == sent and table.down(answer) == answer
        else:
            table.said = b""
            assert b"".join(table.up(part) for part in pieces(data.draw, sent)) == b""
            assert table.said.endswith(made.READY) and table.said.count(b"42501") == 1
    assert set(table.told.begun) == set(table.told.ended)


@FUZZ
@given(st.lists(st.binary(max_size=400), max_size=8))
def test_garbage_from_the_client(parts: list[bytes]) -> None:
    table = Table()
    try:
        table.up(*parts)
    except WireError:
        return
    assert table.client.held_bytes <= HELD


@FUZZ
@given(st.lists(st.sampled_from([made.query(b"q"), made.parse(b"p"), made.bind(), made.execute(), made.SYNC, made.FLUSH])),
       st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([made.PARSED, made.BOUND, made.READY, made.IN_BLOCK, made.failed(), made.done("X"), made.row(),
                wire.message(wire.COPY_IN, b"\0\0\0"), wire.message(wire.PARAMETER_DESCRIPTION, b"\0\0"), wire.message(wire.SUSPENDED)]))))  # fmt: skip
def test_garbage_from_the_target(sent: list[bytes], answers: list[bytes]) -> None:
    table = Table()
    table.up(*sent)
    try:
        table.down(*answers)
    except WireError:
        return
    assert len(table.server._part) <= MAX_ANSWER + 1


@FUZZ
@given(st.sampled_from([wire.parse_query, wire.parse_parse, wire.parse_bind, wire.parse_execute, wire.parse_named, wire.parse_function, wire.parse_types,
                        wire.parse_sasl, wire.parse_password, wire.parse_parameters, wire.parse_status]), st.binary(max_size=200))  # fmt: skip
def test_layouts(parse: object, body: bytes) -> None:
    assert callable(parse)
    try:
        parse(body)
    except WireError as error:
        assert str(error)


@FUZZ
@given(st.binary(max_size=300), st.lists(st.integers(0, 4000), max_size=4))
def test_values_never_raise(body: bytes, types: list[int]) -> None:
    assert len(wire.parse_values(body, tuple(types))) <= wire.MAX_VALUES
    assert isinstance(wire.parse_error(body).message, str)


@FUZZ
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_scram_on_garbage(first: bytes, last: bytes) -> None:
    server = auth.ScramServer(auth.ScramVerifier.doomed(b"s", b"u"), None)
    with pytest.raises((WireError, auth.WrongPassword)):
        server.first(auth.SCRAM, first)
        server.final(last)
    client = auth.ScramClient(frozenset({auth.SCRAM}), None)
    with pytest.raises(WireError):
        client.challenge(first)


# ---------------------------------------------------------------------------------------------- what campaigns begin with, and found


def test_seeds_of_the_campaign() -> None:
    atheris_postgres.quiet()
    for seed in seeds_postgres.seeds():
        began = time.process_time()
        atheris_postgres.play(seed)
        assert time.process_time() - began < SLOW_SECONDS


def test_name_of_a_long_prepare_is_found_without_going_back_and_forth() -> None:
    """Valid SQL; a pattern that tries every end of the name and of the blanks takes hours for 64 KiB of it."""
    table, text = Table(), b"prepare %s as select '%s;'" % (b"a" * 800, b" " * 1600)
    table.up(made.parse(text) + made.bind() + made.execute() + made.SYNC)
    began = time.process_time()
    table.down(made.PARSED + made.BOUND + made.done("PREPARE") + made.READY)
    assert time.process_time() - began < SLOW_SECONDS


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (b'U&"\\0061"', b"a"),
        (b"n" * 64, b"n" * 63),
        (b"a$b", b"a$b"),
        ("aé".encode(), "aé".encode()),
        (b"prepare", b"prepare"),
    ],
    ids=["escaped", "cut at 63 bytes", "dollar", "not ASCII", "a word of the command"],
)
def test_name_that_sql_writes_in_an_odd_way_is_not_taken_for_what_it_was(written: bytes, name: bytes) -> None:
    """To the server both are one name: what is executed by it afterwards is not what was parsed before."""
    table = Table()
    table.up(made.parse(b"harmless", name) + made.SYNC)
    table.down(made.PARSED + made.READY)
    table.up(made.query(b"deallocate " + written))
    table.down(made.done("DEALLOCATE") + made.READY)
    table.up(made.query(b"prepare " + written + b" as delete from t"))
    table.down(made.done("PREPARE") + made.READY)
    table.up(made.bind(name=name) + made.execute() + made.SYNC)
    assert b"harmless" not in table.told.texts("execute")


def test_statement_named_prepare_leaves_the_one_named_as_alone() -> None:
    """PREPARE is no reserved word, so here it is the name; only DEALLOCATE may have it in front of one."""
    table = Table()
    table.up(made.parse(b"delete from t", b"as") + made.SYNC)
    table.down(made.PARSED + made.READY)
    table.up(made.query(b"prepare prepare as select 1"))
    table.down(made.done("PREPARE") + made.READY)
    table.up(made.bind(name=b"as") + made.execute() + made.SYNC)
    assert table.told.texts("execute") == [b"delete from t"]


def test_refusals_that_can_not_be_said_yet_are_bounded() -> None:
    """Inside a message of the target nothing of ours can be said, however many statements a blocked client sends."""
    table = Table()
    table.down(wire.message(wire.NOTICE, bytes(100))[:50])
    table.gate.shut("ann", "")
    table.dialogue.shut()
    with pytest.raises(WireError):
        for _ in range(2 + 2 * MAX_PENDING // 1000):
            table.up(made.query(b"q") * 1000)
