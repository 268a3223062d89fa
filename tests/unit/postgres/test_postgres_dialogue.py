"""Statements and their outcomes, whatever the order, the chunks, the errors; refusals in their place."""

from __future__ import annotations

import pytest
from unit.postgres.table import (
    BOUND,
    BROKEN,
    CLOSED,
    FLUSH,
    IN_BLOCK,
    PARSED,
    READY,
    SYNC,
    Table,
    bind,
    describe,
    done,
    execute,
    failed,
    message,
    parse,
    query,
    row,
)

from proxyd.gate import REVOKED
from proxyd.protocols.postgres import wire
from proxyd.protocols.postgres.scan import HELD
from proxyd.protocols.postgres.wire import WireError


@pytest.fixture
def table() -> Table:
    return Table()


def test_simple_query_of_several_statements(table: Table) -> None:
    sent = query(b"begin; select 1; insert into t select 1")
    assert table.up(sent) == sent
    answer = (
        done("BEGIN")
        + message(wire.ROW_DESCRIPTION, b"\0\0")
        + row() * 3
        + done("SELECT 3")
        + done("INSERT 0 7")
        + IN_BLOCK
    )
    assert table.down(answer) == answer
    assert table.told.ended == {
        1: {
            "tag": "BEGIN; SELECT 3; INSERT 0 7",
            "rows": 10,
            "error": None,
            "transaction": "open",
            "outcome": "",
        }
    }


def test_rows_are_counted_where_the_tag_does_not_tell(table: Table) -> None:
    table.up(query(b"select"))
    table.down(row() * 5 + done("SELECT") + READY)
    assert table.told.ended[1]["rows"] == 5


def test_error_keeps_severity_code_and_message_only(table: Table) -> None:
    table.up(query(b"select 1/0"))
    table.down(failed(D="Key (a)=(secret)", W="COPY t, line 1: secret", H="secret", q="secret") + READY)
    error = table.told.ended[1]["error"]
    assert (error.severity, error.code, error.message) == ("ERROR", "22012", "division by zero")


def test_extended_statement_is_recorded_once_with_its_values(table: Table) -> None:
    table.up(
        parse(b"select $1", types=[23]) + bind(b"\0\0\0\x2a", form=1) + describe(b"P") + execute() + SYNC
    )
    table.down(PARSED + BOUND + message(wire.NO_DATA) + row() + done("SELECT 1") + READY)
    assert table.told.texts() == [b"select $1"]
    assert table.told.begun[1]["parameters"] == [wire.Parameter("int4", 42, 4)]
    assert table.told.ended[1] == {
        "tag": "SELECT 1",
        "rows": 1,
        "error": None,
        "transaction": "idle",
        "outcome": "",
    }


def test_types_come_from_the_target_where_the_client_does_not_say_them(table: Table) -> None:
    table.up(parse(b"select $1", b"s") + describe(b"S", b"s") + SYNC)
    table.down(
        PARSED + message(wire.PARAMETER_DESCRIPTION, b"\0\1\0\0\0\x14") + message(wire.NO_DATA) + READY
    )
    table.up(bind((7).to_bytes(8, "big"), name=b"s", form=1) + execute() + SYNC)
    assert table.told.begun[2]["parameters"] == [wire.Parameter("int8", 7, 8)]
    assert table.told.begun[1]["how"] == "prepare" and 1 in table.told.ended


def test_prepared_text_is_that_of_its_last_good_parse(table: Table) -> None:
    table.up(parse(b"one", b"s") + SYNC)
    table.down(PARSED + READY)
    table.up(parse(b"two", b"s") + SYNC)  # the name is taken
    table.down(failed("42P05") + READY)
    table.up(bind(name=b"s") + execute() + SYNC)
    assert table.told.texts("execute") == [b"one"]


USUAL = bind(b"7", name=b"p") + describe(b"P") + execute() + SYNC
ROW_OF_ONE = message(wire.ROW_DESCRIPTION, b"\0\1a\0" + bytes(18)) + row()


def prepared(table: Table) -> Table:
    """With a statement by the name of p at the target."""
    table.up(parse(b"select $1", name=b"p", types=[25]) + SYNC)
    table.down(PARSED + READY)
    return table


def test_usual_batch_answered_at_once_is_recorded_as_one_in_pieces(table: Table) -> None:
    sent = [parse(b"select $1", types=[25]) + bind(b"7") + execute() + SYNC, USUAL, query(b"select 7")]
    answers = [PARSED + BOUND + row() + done("SELECT 1") + READY, BOUND + ROW_OF_ONE + done("SELECT 1") + IN_BLOCK,
               ROW_OF_ONE + row() + done("SELECT 2") + READY]  # fmt: skip
    pieces = prepared(Table())
    for table_, cut in ((prepared(table), False), (pieces, True)):
        for up, down in zip(sent, answers, strict=True):
            said = [up[:9], up[9:]] if cut else [up]
            heard = [down[:7], down[7:-3], down[-3:]] if cut else [down]
            assert table_.up(*said) == up
            assert table_.down(*heard) == down
    assert table.told.begun == pieces.told.begun
    assert table.told.ended == pieces.told.ended
    assert [(one["rows"], one["transaction"]) for one in table.told.ended.values()][1:] == [
        (1, "idle"), (1, "open"), (2, "idle")
    ]  # fmt: skip
    assert not table.dialogue.busy


def test_usual_batches_ahead_of_their_answers_of_which_one_fails(table: Table) -> None:
    prepared(table).up(USUAL * 3)
    table.down(BOUND + ROW_OF_ONE + done("SELECT 1") + READY)
    table.down(BOUND + failed() + READY)
    table.down(BOUND + ROW_OF_ONE + done("SELECT 1") + READY)
    outcomes = [(one["tag"], one["error"] and one["error"].code) for one in table.told.ended.values()]
    assert outcomes[1:] == [("SELECT 1", None), ("", "22012"), ("SELECT 1", None)]


def test_usual_batch_behind_a_parse_that_fails(table: Table) -> None:
    table.up(parse(b"selec $1") + bind(b"7") + execute() + SYNC)
    table.down(failed("42601", "syntax error") + READY)
    assert [one["error"].code for one in table.told.ended.values()] == ["42601"]
    assert table.up(query(b"select 1")) == query(b"select 1")


def test_gate_shut_with_a_usual_batch_unanswered(table: Table) -> None:
    prepared(table).up(USUAL)
    table.gate.closed = True
    assert table.dialogue.shut() == b""
    assert table.up(USUAL) == b""
    answer = BOUND + ROW_OF_ONE + done("SELECT 1") + READY
    out = table.down(answer)
    assert out.startswith(answer) and REVOKED.encode() in out and out.endswith(READY)
    assert [one["tag"] for one in table.told.ended.values()] == ["", "SELECT 1"]


def test_close_and_reuse_of_a_name(table: Table) -> None:
    table.up(
        parse(b"one", b"s")
        + message(wire.CLOSE, b"Ss\0")
        + parse(b"two", b"s")
        + bind(name=b"s")
        + execute()
        + SYNC
    )
    table.down(PARSED + CLOSED + PARSED + BOUND + done("SELECT 0") + READY)
    assert table.told.texts("execute") == [b"two"]
    assert set(table.told.ended) == set(table.told.begun)


@pytest.mark.parametrize("how", ["deallocate all", "discard all"])
def test_names_that_sql_has_changed_are_not_taken_for_what_they_were(table: Table, how: str) -> None:
    table.up(parse(b"harmless", b"s") + SYNC)
    table.down(PARSED + READY)
    table.up(query(how.encode()))
    table.down(done(how.upper()) + READY)
    table.up(query(b"PREPARE s AS drop table t"))
    table.down(done("PREPARE") + READY)
    table.up(bind(name=b"s") + execute() + SYNC)
    assert table.told.texts("execute") == [b"PREPARE s AS drop table t"]


def test_name_made_by_sql_out_of_sight(table: Table) -> None:
    table.up(bind(name=b"hidden") + execute() + SYNC)
    assert b"hidden" in table.told.texts("execute")[0]


def test_error_in_a_batch_skips_to_its_sync(table: Table) -> None:
    batch = b"".join(parse(text) + bind() + execute() for text in (b"one", b"two", b"three"))
    table.up(batch + SYNC + query(b"four"))
    table.down(PARSED + BOUND + done("SELECT 1") + PARSED + BOUND + failed())
    table.down(BROKEN + done("SELECT 1") + READY)
    ended = {table.told.begun[n]["text"]: end for n, end in table.told.ended.items()}
    assert ended[b"one"]["tag"] == "SELECT 1"
    assert ended[b"two"]["error"].code == "22012" and ended[b"two"]["transaction"] == "failed"
    assert ended[b"three"]["outcome"] == "aborted"
    assert ended[b"four"]["tag"] == "SELECT 1"


def test_what_is_sent_while_the_target_skips_is_aborted(table: Table) -> None:
    table.up(parse(b"bad") + FLUSH)
    table.down(failed("42601"))
    table.up(bind() + execute() + parse(b"skipped", b"x") + SYNC)
    table.down(READY)
    table.up(bind(name=b"x") + execute() + SYNC)
    assert set(table.told.begun) - set(table.told.ended) == {max(table.told.begun)}
    assert table.told.texts("execute")[-1].endswith(b"made by SQL")


def test_failed_commit_at_the_sync_is_the_last_statement_s(table: Table) -> None:
    table.up(parse(b"insert") + bind() + execute() + SYNC)
    table.down(PARSED + BOUND + done("INSERT 0 1") + failed("23503") + READY)
    (end,) = table.told.ended.values()
    assert end["error"].code == "23503" and end["tag"] == "INSERT 0 1"


def test_portal_in_parts(table: Table) -> None:
    table.up(parse(b"select") + bind(portal=b"p") + execute(b"p", 2) + FLUSH)
    table.down(PARSED + BOUND + row() * 2 + message(wire.SUSPENDED))
    table.up(execute(b"p", 2) + SYNC)
    table.down(row() + done("SELECT 1") + READY)
    assert [end["outcome"] for end in table.told.ended.values()] == ["suspended", ""]
    assert [end["rows"] for end in table.told.ended.values()] == [2, 1]


def test_copy_in_by_the_extended_protocol_swallows_syncs(table: Table) -> None:
    table.up(parse(b"copy t from stdin") + bind() + execute() + SYNC)
    table.down(PARSED + BOUND + message(wire.COPY_IN, b"\0\0\0"))
    table.up(message(wire.COPY_DATA, b"1\n") * 9 + message(wire.COPY_DONE) + SYNC)
    table.down(done("COPY 9") + READY)
    table.up(query(b"next"))
    table.down(done("SELECT 1") + READY)
    assert [end["tag"] for end in table.told.ended.values()] == ["COPY 9", "SELECT 1"]


def test_function_call_is_its_number(table: Table) -> None:
    table.up(message(wire.FUNCTION, (954).to_bytes(4, "big") + b"\0\0\0\1\0\0\0\6secret\0\0"))
    table.down(message(wire.FUNCTION_RESULT, b"\0\0\0\6secret") + READY)
    assert table.told.texts() == [b"function 954"] and table.told.ended[1]["tag"] == "FUNCTION"


def test_replication(table: Table) -> None:
    table = Table(replication=True)
    table.up(query(b"START_REPLICATION"))
    table.down(message(wire.COPY_BOTH, b"\0\0\0") + message(wire.COPY_DATA, b"w") * 5)
    table.up(message(wire.COPY_DATA, b"r") + message(wire.COPY_DONE))
    table.down(message(wire.COPY_DONE) + done("COPY 0") + done("START_REPLICATION") + READY)
    assert table.told.begun[1]["how"] == "replication" and 1 in table.told.ended


def test_end_of_the_session_cuts_what_is_open(table: Table) -> None:
    table.up(query(b"one") + parse(b"two") + bind() + execute())
    table.dialogue.cut()
    assert {end["outcome"] for end in table.told.ended.values()} == {"cut"} and len(table.told.ended) == 2


def test_client_encoding_is_followed(table: Table) -> None:
    table.down(message(wire.PARAMETER_STATUS, b"client_encoding\0LATIN1\0"))
    assert table.told.encoding == "LATIN1"


@pytest.mark.parametrize(
    "answer",
    [
        done("SELECT 1"),
        READY,
        message(ord("Q"), b"x\0"),
        b"D\xff\xff\xff\xff",
        b"Z\0\0\0\3",
        message(wire.READY, b"?"),
    ],
)
def test_target_out_of_order_is_an_error(table: Table, answer: bytes) -> None:
    with pytest.raises(WireError):
        table.down(answer)


# ------------------------------------------------------------------ the gate


def test_shut_gate_answers_each_kind_in_its_way(table: Table) -> None:
    table.gate.shut("ann", "")
    assert table.dialogue.shut() == b""
    assert table.up(query(b"select 1")) == b""
    assert [kind for kind, _ in table.hear()] == ["E", "Z"]
    assert table.up(parse(b"select 2") + bind() + describe(b"P") + execute()) == b""
    assert [kind for kind, _ in table.hear()] == ["E"]
    assert table.up(SYNC) == b"" and table.hear() == [("Z", b"I")]
    assert table.up(FLUSH + SYNC) == b"" and table.hear() == [("Z", b"I")]
    assert table.up(message(wire.FUNCTION, bytes(8))) == b""
    assert [kind for kind, _ in table.hear()] == ["E", "Z"]
    assert [one["text"] for one in table.told.refusals] == [b"select 1", b"select 2", b"function 0"]
    assert table.gate.refused_requests == 3 and table.gate.refused_bytes == 91
    assert not table.told.begun
    assert table.up(message(wire.TERMINATE)) == message(wire.TERMINATE)


def test_refusal_waits_for_the_answers_before_it(table: Table) -> None:
    table.up(query(b"slow"))
    table.gate.shut("ann", "")
    table.up(query(b"refused"))
    assert table.hear() == []
    answer = row() + done("SELECT 1") + IN_BLOCK
    out = table.down(answer)
    assert out.startswith(answer) and REVOKED.encode() in out and out.endswith(IN_BLOCK)


def test_refusal_does_not_split_a_row(table: Table) -> None:
    table.up(query(b"slow"))
    long = row(b"\0\1" + bytes(1000))
    assert table.down(long[:500]) == long[:500]
    table.dialogue.words.append(wire.notice("hello"))
    assert table.down(long[500:]) == long[500:] + wire.notice("hello")


def test_shutting_ends_the_open_batch_and_keeps_its_ready_to_itself(table: Table) -> None:
    table.up(parse(b"update") + bind() + execute())
    table.gate.shut("ann", "")
    assert table.dialogue.shut() == SYNC
    assert table.down(PARSED + BOUND + done("UPDATE 1") + READY) == PARSED + BOUND + done("UPDATE 1")
    assert table.up(parse(b"more") + bind() + execute() + SYNC) == b""
    assert [kind for kind, _ in table.hear()] == ["E", "Z"]
    table.gate.open()
    assert table.up(query(b"again")) == query(b"again")


def test_rest_of_a_refused_batch_stays_refused_after_the_gate_opens(table: Table) -> None:
    table.gate.shut("ann", "")
    table.up(parse(b"one"))
    table.gate.open()
    assert table.up(bind() + execute() + SYNC) == b""
    assert [kind for kind, _ in table.hear()] == ["E", "Z"]


@pytest.mark.parametrize("extended", [False, True])
def test_shutting_ends_a_copy(table: Table, extended: bool) -> None:
    table.up(parse(b"copy") + bind() + execute() + SYNC if extended else query(b"copy"))
    table.down((PARSED + BOUND if extended else b"") + message(wire.COPY_IN, b"\0\0\0"))
    table.up(message(wire.COPY_DATA, b"1\n"))
    table.gate.shut("ann", "")
    out = table.dialogue.shut()
    assert out.startswith(b"f") and out.endswith(SYNC) is extended
    assert (
        table.up(message(wire.COPY_DATA, b"2\n") + message(wire.COPY_DONE) + (SYNC if extended else b""))
        == b""
    )
    told = table.down(failed("57014") + READY)
    assert (told + table.said).count(READY) == 1
    assert table.told.ended[1]["error"].code == "57014"


def test_half_a_message_at_the_target_is_filled_up(table: Table) -> None:
    text = b"delete from t where a = '" + b"x" * (3 * HELD) + b"'"
    sent = query(text)
    out = table.up(sent[:HELD], sent[HELD : 2 * HELD])
    assert out and sent.startswith(out)
    table.gate.shut("ann", "")
    assert table.dialogue.shut() == b""
    rest = table.up(sent[len(out) :])
    assert len(rest) == len(sent) - len(out) and set(rest) == {1}
    assert table.down(failed("08P01") + READY) == failed("08P01") + READY
    assert table.told.refusals[0]["text"].startswith(b"delete")
    assert table.up(query(b"no")) == b""
    table.gate.open()
    assert table.up(query(b"yes")) == query(b"yes")


# ------------------------------------------------------------------ rules


def test_statement_waits_for_its_verdict_and_what_is_behind_it_too() -> None:
    table = Table(judged=True)
    assert table.up(query(b"drop table t") + query(b"select 1")) == b""
    assert table.up(query(b"select 2")) == b""
    assert table.dialogue.question == b"drop table t"
    assert table.decide("no drop here") == b""
    assert [kind for kind, _ in table.hear()] == ["E", "Z"]
    assert table.dialogue.question == b"select 1"
    assert table.decide() == query(b"select 1")
    assert table.decide() == query(b"select 2")
    assert table.told.texts() == [b"select 1", b"select 2"]
    assert table.told.refusals[0]["why"] == "no drop here"


def test_refused_parse_in_a_batch_leaves_the_target_its_sync() -> None:
    table = Table(judged=True)
    table.up(parse(b"one") + bind() + execute() + parse(b"two") + bind() + execute() + SYNC)
    assert table.decide() == parse(b"one") + bind() + execute()
    assert table.decide("no") == SYNC
    out = table.down(PARSED + BOUND + done("SELECT 1") + READY)
    assert out.index(b"no") > out.index(b"SELECT 1") and out.endswith(READY)


def test_what_the_target_would_skip_is_judged_too_and_not_answered() -> None:
    table = Table(judged=True)
    table.up(parse(b"bad") + FLUSH)
    table.decide()
    table.down(failed("42601"))
    assert table.up(query(b"drop table t") + parse(b"drop") + bind() + execute() + SYNC) == b""
    assert table.decide("no") == b"" and table.decide("no") == SYNC
    assert table.hear() == [] and len(table.told.refusals) == 2
    assert table.down(READY) == READY
    assert table.up(query(b"select 1")) == b"" and table.decide() == query(b"select 1")


def test_shutting_after_an_error_tells_it_only_once(table: Table) -> None:
    table.up(parse(b"bad") + FLUSH)
    table.down(failed("42601"))
    table.gate.shut("ann", "")
    assert table.dialogue.shut() == SYNC
    assert table.down(READY) == b""
    assert table.up(bind() + execute() + SYNC) == b""
    assert table.hear() == [("Z", b"I")]


def test_error_that_comes_after_the_shutting_is_the_batch_s_only_one(table: Table) -> None:
    table.up(parse(b"bad") + FLUSH)
    table.gate.shut("ann", "")
    assert table.dialogue.shut() == SYNC
    assert table.down(failed("42601") + READY) == failed("42601")
    assert table.up(bind() + execute() + SYNC) == b""
    assert table.hear() == [("Z", b"I")]


def test_gate_shut_while_a_statement_waits_refuses_it() -> None:
    table = Table(judged=True)
    table.up(query(b"select 1"))
    table.gate.shut("ann", "")
    assert table.decide() == b"" and table.told.refusals[0]["why"] == REVOKED


def test_statement_too_long_to_judge_is_refused() -> None:
    table = Table(judged=True)
    sent = query(b"x" * (2 * HELD))
    assert table.up(sent[:HELD], sent[HELD:]) == b"" and [kind for kind, _ in table.hear()] == ["E", "Z"]
    assert table.told.refusals
    assert table.up(query(b"short")) == b"" and table.decide() == query(b"short")


# ------------------------------------------------------------------ large messages


def test_large_parse_and_bind(table: Table) -> None:
    text = b"select '" + b"x" * (5 * HELD) + b"', $1"
    sent = parse(text, b"s", [25]) + bind(b"v" * (3 * HELD), name=b"s") + execute() + SYNC
    out = b"".join(table.up(sent[at : at + 50_000]) for at in range(0, len(sent), 50_000))
    assert out == sent
    executed = next(one for one in table.told.begun.values() if one["how"] == "execute")
    assert executed["total"] == len(text) and executed["text"].startswith(b"select 'xxx")
    assert executed["parameters"][0].size == 3 * HELD and executed["parameters"][0].kind == "text"


@pytest.mark.parametrize("sent", [message(ord("z"), b""), b"Q\0\0\0\3", b"Q\xff\xff\xff\xff", message(wire.PASSWORD, b"x\0"),
                                  message(wire.QUERY, b"no end"), message(wire.QUERY, b"two\0ends\0"), message(wire.PARSE, b"a\0b\0\0\5"),
                                  message(wire.EXECUTE, b"p"), message(wire.DESCRIBE, b"Xp\0"), b"S\x7f\xff\xff\xff"])  # fmt: skip
def test_client_out_of_order_is_an_error(table: Table, sent: bytes) -> None:
    with pytest.raises(WireError):
        table.up(sent)


def test_too_many_messages_ahead_of_their_answers(table: Table) -> None:
    with pytest.raises(WireError, match="too many"):
        for _ in range(101):
            table.up(SYNC * 1000)


def test_too_many_names(table: Table) -> None:
    with pytest.raises(WireError, match="too many"):
        for number in range(10_001):
            table.up(parse(b"select", b"s%d" % number))
            table.down(PARSED)


@pytest.mark.parametrize("extended", [False, True])
def test_copy_the_target_begins_behind_the_shut_gate_is_ended(table: Table, extended: bool) -> None:
    text = b"copy t from stdin"
    table.up(parse(text) + bind() + execute() + SYNC if extended else query(text))
    table.gate.closed = True
    table.dialogue.shut()
    table.down(PARSED + BOUND if extended else b"", message(wire.COPY_IN, b"\0\0\0"))
    owed = message(wire.COPY_FAIL, REVOKED.encode() + b"\0")
    assert table.dialogue.owed.startswith(owed)
    rest = [message(wire.COPY_DATA, b"1\n"), message(wire.COPY_DONE), *([SYNC] if extended else [])]
    assert table.up(*rest) == b""
    table.down(failed("57014", "COPY from stdin failed") + READY)
    assert [one["error"].code for one in table.told.ended.values()] == ["57014"]
    table.gate.closed = False
    assert table.up(query(b"select 1")) == query(b"select 1")
