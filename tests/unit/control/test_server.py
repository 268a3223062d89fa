"""The server over a real unix socket: who gets in, what is answered, and what bad input gets."""

from __future__ import annotations

import os
import random
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.testing

from proxyd import metrics
from proxyd.config import User
from proxyd.control import server as server_module
from proxyd.control.client import REQUEST_LIMIT, pack_frame, unpack_records
from proxyd.control.commands import COMMANDS
from proxyd.control.permissions import ROLES, Permission
from proxyd.control.server import CONNECTIONS, ControlServer
from proxyd.errors import ConfigError
from proxyd.recorder.record import Kind

Played = Any  # tests/unit/control/conftest.py has it
SESSION_ID = "1a2b3c4d" + "0" * 24


def refused(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("proxyd_control_frames_refused_total", {"reason": reason}) or 0.0


def code_of(answer: dict[str, Any] | None) -> str:
    assert answer is not None
    return str(answer["error"]["code"])


# ---------------------------------------------------------------- commands


@pytest.mark.mission("M1", "M17")
async def test_sessions_live_and_ended_with_filters(played: Played, connect: Any) -> None:
    ended = played.begin(id="e" * 32, user="bob", target="web1", started_at=1_790_000_000.0)
    played.end(ended, reason="dropped", by="root")
    live = played.begin()
    live.gate.closed, live.viewers = True, 2
    wire = await connect()
    rows = (await wire.ask("sessions"))["ok"]["sessions"]
    assert [row["id"] for row in rows] == [live.id, ended.id]
    assert (rows[0]["state"], rows[0]["blocked"], rows[0]["viewers"], rows[0]["size"]) == (
        "live",
        True,
        2,
        1234,
    )
    assert (rows[1]["state"], rows[1]["reason"], rows[1]["by"], rows[1]["size"]) == (
        "ended",
        "dropped",
        "root",
        4321,
    )
    for wanted, ids in (
        ({"user": "b*"}, [ended.id]),
        ({"target": "db?"}, [live.id]),
        ({"state": "live"}, [live.id]),
        ({"protocol": "rdp"}, []),
        ({"since": 1_794_000_000.0}, [live.id]),
        ({"until": 1_794_000_000.0}, [ended.id]),
        ({"limit": 1}, [live.id]),
    ):
        answer = await wire.ask("sessions", **wanted)
        assert [row["id"] for row in answer["ok"]["sessions"]] == ids, wanted
    assert all("path" not in row for row in rows)


@pytest.mark.mission("M1")
async def test_a_live_session_the_catalog_missed_is_listed_shown_and_watched(
    played: Played, connect: Any
) -> None:
    session = played.begin(id="f" * 32)
    played.sessions["missed"] = missed = type(session)(id="0" * 32)
    wire = await connect()
    rows = (await wire.ask("sessions", user="alice"))["ok"]["sessions"]
    assert {row["id"] for row in rows} == {session.id, missed.id}
    assert (await wire.ask("show", session="00"))["ok"]["session"]["user"] == "alice"


@pytest.mark.mission("M10", "M11")
async def test_show_has_the_fields_of_the_session_page(played: Played, connect: Any) -> None:
    session = played.begin()
    session.findings.append({"code": "weak-kex", "severity": "medium", "text": "offered sha1"})
    wire = await connect()
    answer = (await wire.ask("show", session=SESSION_ID[:6]))["ok"]
    row = answer["session"]
    for field in (
        "id",
        "started_at",
        "ended_at",
        "protocol",
        "host",
        "login",
        "error",
        "user",
        "user_ip",
        "size",
    ):
        assert field in row
    assert answer["found"] == session.findings
    assert answer["block"] is None
    played.end(session, error="You have been disconnected")
    answer = (await wire.ask("show", session=SESSION_ID))["ok"]
    assert answer["session"]["error"] == "You have been disconnected"
    assert answer["session"]["findings"] == 1


@pytest.mark.mission("M3")
async def test_block_shuts_the_gate_and_the_door_and_unblock_opens_both(played: Played, connect: Any) -> None:
    session = played.begin()
    wire = await connect()
    done = (await wire.ask("block", session=session.id[:8], reason="odd commands"))["ok"]
    assert session.gate.closed
    assert (done["user"], done["target"], done["settled"], done["discarded_bytes"]) == (
        "alice",
        "db1",
        True,
        3,
    )
    block = played.catalog.blocked("alice", "db1")
    assert block is not None
    assert (block.author, block.reason) == ("root", "odd commands")
    assert (await wire.ask("blocked"))["ok"]["blocked"][0]["by"] == "root"
    assert code_of(await wire.ask("block", session=session.id)) == "refused"
    released = (await wire.ask("unblock", whom=session.id))["ok"]
    assert released == {"user": "alice", "target": "db1", "sessions": [session.id], "held": []}
    assert not session.gate.closed
    assert played.catalog.blocked("alice", "db1") is None
    assert code_of(await wire.ask("unblock", whom="alice@db1")) == "not_found"
    kinds = [entry.kind for entry in played.ledger.entries(("block", "unblock"))]
    assert kinds == ["block", "unblock"]


@pytest.mark.mission("M3")
async def test_a_shut_gate_whose_user_is_not_listed_can_be_completed(played: Played, connect: Any) -> None:
    session = played.begin()
    session.gate.closed = True  # the list could not be written then
    wire = await connect()
    assert "ok" in await wire.ask("block", session=session.id)
    assert played.catalog.blocked("alice", "db1") is not None


@pytest.mark.mission("M3")
async def test_one_of_two_held_sessions_is_released_alone(played: Played, connect: Any) -> None:
    one, two = played.begin(), played.begin(id="2" * 32)
    wire = await connect()
    for session in (one, two):
        assert "ok" in await wire.ask("block", session=session.id)
    answer = (await wire.ask("unblock", whom=one.id))["ok"]
    assert (answer["sessions"], answer["held"]) == ([one.id], [two.id])
    assert two.gate.closed
    assert played.catalog.blocked("alice", "db1") is not None
    answer = (await wire.ask("unblock", whom="alice@db1"))["ok"]
    assert answer["sessions"] == [two.id]
    assert played.catalog.blocked("alice", "db1") is None


@pytest.mark.mission("M3")
async def test_nobody_blocks_or_unblocks_themselves(played: Played, connect: Any) -> None:
    session = played.begin()
    played.operate_as("PAM Administrator", name="ann", user="alice")
    wire = await connect()
    answer = await wire.ask("block", session=session.id)
    assert code_of(answer) == "denied"
    assert "nobody blocks themselves" in answer["error"]["message"]
    assert not session.gate.closed
    played.catalog.block("alice", "db1", "root")
    assert code_of(await wire.ask("unblock", whom="alice@db1")) == "denied"
    assert played.catalog.blocked("alice", "db1") is not None


@pytest.mark.mission("M4")
async def test_drop_reaches_the_session_and_the_ledger(played: Played, connect: Any) -> None:
    session = played.begin()
    wire = await connect()
    assert (await wire.ask("drop", session=session.id[:8], reason="leaving"))["ok"]["session"] == session.id
    assert session.drops == [("root", "leaving")]
    (entry,) = played.ledger.entries("drop")
    assert entry.fields == {
        "session": session.id, "user": "alice", "target": "db1", "who": "root", "reason": "leaving"
    }  # fmt: skip


@pytest.mark.mission("M17")
async def test_a_message_reaches_the_session_and_the_ledger(played: Played, connect: Any) -> None:
    session = played.begin()
    wire = await connect()
    told = {"session": session.id, "user": "alice", "target": "db1", "text": "save your work"}
    assert (await wire.ask("message", session=session.id[:8], text="save your work"))["ok"] == told
    assert session.messages == [("root", "save your work")]
    (entry,) = played.ledger.entries("message")
    assert entry.fields == told | {"who": "root"}
    for text in ("", "x" * 501):
        assert code_of(await wire.ask("message", session=session.id, text=text)) == "usage"
    session.protocol = "mysql"
    assert code_of(await wire.ask("message", session=session.id, text="save")) == "refused"
    played.operate_as("PAM Auditor")
    session.protocol = "rdp"
    assert "ok" in await wire.ask("message", session=session.id, text="again")
    assert len(list(played.ledger.entries("message"))) == 2


@pytest.mark.mission("M5", "M6")
@pytest.mark.parametrize("kind", ["log", "replay", "export"])
async def test_recordings_open_after_the_ledger_has_it(played: Played, connect: Any, kind: str) -> None:
    session = played.begin()
    wire = await connect()
    if kind != "replay":
        answer = await wire.ask("read", session=session.id, kind=kind)
        assert code_of(answer) == "refused"
        assert "still live" in answer["error"]["message"]
    played.end(session)
    answer = (await wire.ask("read", session=session.id, kind=kind))["ok"]
    assert answer["path"] == str(played.base)
    (view,) = played.ledger.viewers(session.id)
    assert (view.fields["who"], view.fields["kind"]) == ("root", kind)
    again = (await wire.ask("show", session=session.id))["ok"]
    assert [(seen["who"], seen["kind"]) for seen in again["views"]] == [("root", kind)]


@pytest.mark.mission("M2")
async def test_replaying_what_is_live_needs_the_right_to_watch(
    played: Played, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = played.begin()
    wire = await connect()
    assert "ok" in await wire.ask("read", session=session.id, kind="replay")
    monkeypatch.setitem(ROLES, "PAM Operator", frozenset({Permission.REPLAY}))  # type: ignore[arg-type]
    played.operate_as("PAM Operator")
    wire = await connect()
    assert code_of(await wire.ask("read", session=session.id, kind="replay")) == "denied"
    assert len(played.ledger.viewers(session.id)) == 1


async def test_reload_says_what_is_in_force_or_why_not(played: Played, connect: Any) -> None:
    wire = await connect()
    assert "3 users" in (await wire.ask("reload"))["ok"]["message"]
    played.broken_config = True
    answer = await wire.ask("reload")
    assert code_of(answer) == "refused"
    assert "proxyd.toml:12: unknown key" in answer["error"]["message"]
    assert played.reloads == 1


async def test_status_counts(played: Played, connect: Any) -> None:
    played.begin().gate.closed = True
    wire = await connect()
    status = (await wire.ask("status"))["ok"]
    assert status["sessions"] == {"live": 1, "blocked": 1, "viewers": 0, "by_protocol": {"ssh": 1}}
    assert status["caller"]["permissions"] == sorted(ROLES["System Administrator"])
    assert status["recording"]["free_bytes"] > 0


async def test_users_are_listed_without_what_proves_them(played: Played, connect: Any) -> None:
    hashed = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$canary"
    played.config.users = {
        "alice": User(name="alice", password=hashed, totp="file:/canary", keys=["ssh-ed25519 canary"])
    }
    wire = await connect()
    answer = await wire.ask("users")
    assert answer["ok"]["users"][0]["totp"] is True
    assert "canary" not in str(answer)


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_every_command_asks_for_its_permission(played: Played, connect: Any, role: str) -> None:
    played.operate_as(role)
    wire = await connect()
    for name, command in COMMANDS.items():
        answer = await wire.ask(name, nonsense=1)
        wanted = "usage" if command.permission in ROLES[role] else "denied"
        assert code_of(answer) == wanted, name


# ---------------------------------------------------------------- watching


@pytest.mark.mission("M2", "M17")
async def test_watch_has_history_then_live_to_the_end(played: Played, connect: Any) -> None:
    session = played.begin()
    for number in range(120):
        session.tape.add(Kind.OUTPUT, b"line %d" % number, 1)
    wire = await connect()
    first = await wire.ask("watch", session=session.id[:8])
    assert first["stream"] == 7
    assert first["meta"]["user"] == "alice"
    assert first["history"] == 121
    assert session.viewers == 1
    records = []

    async def until(seq: int) -> None:
        while not records or records[-1].seq < seq:
            records.extend(unpack_records((await wire.answer())["records"]))

    await until(122)
    session.tape.add(Kind.OUTPUT, b"live", 1)
    await until(123)
    session.tape.add(Kind.END, {"reason": "closed", "by": "", "error": ""})
    await until(124)
    assert await wire.answer() == {"stream": 7, "end": {}}
    assert [record.seq for record in records] == list(range(1, 125))
    assert records[121].body == {"action": "watch", "by": "root", "reason": ""}
    assert records[122].body == b"live"
    assert (await wire.ask("status"))["ok"]["sessions"]["viewers"] == 0  # the connection goes on
    (view,) = played.ledger.viewers(session.id)
    assert (view.fields["who"], view.fields["kind"]) == ("root", "live")
    assert view.fields["seconds"] >= 0
    assert view.fields["last"] >= view.fields["first"] >= 0


@pytest.mark.mission("M2")
async def test_a_viewer_who_goes_leaves_at_once(played: Played, connect: Any) -> None:
    session = played.begin()
    wire = await connect()
    await wire.ask("watch", session=session.id)
    await wire.stream.aclose()
    with trio.fail_after(60):
        while session.viewers or not played.ledger.viewers(session.id):
            await trio.testing.wait_all_tasks_blocked(0.01)
    actions = [row[4]["action"] for row in session.tape.rows if row[2] == Kind.CONTROL]
    assert actions == ["watch", "leave"]


async def test_other_commands_go_on_beside_a_stalled_viewer(played: Played, connect: Any) -> None:
    session = played.begin()
    stalled, other = await connect(), await connect()
    await stalled.ask("watch", session=session.id)
    for _ in range(300):
        session.tape.add(Kind.OUTPUT, bytes(1 << 16), 1)  # more than any socket buffer takes
    assert (await other.ask("block", session=session.id))["ok"]["settled"]
    assert "ok" in await other.ask("drop", session=session.id)


async def test_a_viewer_that_takes_nothing_is_cut(
    played: Played, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STALL_SECONDS", 0.2)
    session = played.begin()
    before = refused("timeout")
    wire = await connect()
    await wire.ask("watch", session=session.id)
    for _ in range(100):
        session.tape.add(Kind.OUTPUT, bytes(1 << 16), 1)
    with trio.fail_after(60):
        while refused("timeout") == before:
            await trio.testing.wait_all_tasks_blocked(0.02)
    assert session.viewers == 0
    assert refused("timeout") == before + 1


async def test_bytes_during_a_stream_end_it(played: Played, connect: Any) -> None:
    session = played.begin()
    wire = await connect()
    await wire.ask("watch", session=session.id)
    await wire.send({"id": 8, "command": "status"})
    while (answer := await wire.answer()) is not None and "error" not in answer:
        pass
    assert code_of(answer) == "format"
    assert await wire.answer() is None


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("statsu", {}, "did you mean status?"),
        ("zzz", {}, "there are status"),
        ("show", {}, "missing argument `session`"),
        ("show", {"sesion": "x"}, "unknown argument `sesion`"),
        ("show", {"session": 5}, "Expected `str`, got `int` (argument `session`)"),
        ("show", {"session": ""}, "argument `session`"),
        ("sessions", {"limit": 0}, "argument `limit`"),
        ("sessions", {"state": "odd"}, "argument `state`"),
        ("block", {"session": "x", "reason": "r" * 501}, "argument `reason`"),
    ],
)
async def test_wrong_use_is_answered_and_the_connection_goes_on(
    connect: Any, command: str, arguments: dict[str, Any], says: str
) -> None:
    wire = await connect()
    answer = await wire.ask(command, **arguments)
    assert code_of(answer) == "usage"
    assert says in answer["error"]["message"]
    assert answer["id"] == 7
    assert "ok" in await wire.ask("status")


async def test_an_unknown_or_ambiguous_session_is_named(played: Played, connect: Any) -> None:
    played.begin(id="aa1" + "0" * 29)
    played.begin(id="aa2" + "0" * 29)
    wire = await connect()
    for command, more in (("show", {}), ("drop", {}), ("watch", {}), ("read", {"kind": "replay"})):
        for name, says in (("nope", "no "), ("aa", "more than one session")):
            answer = await wire.ask(command, session=name, **more)
            assert code_of(answer) == "not_found"
            assert says in answer["error"]["message"]


@pytest.mark.parametrize(
    "message", [{}, {"id": 1}, {"id": "x", "command": "status"}, {"id": 1, "command": "status", "arguments": []},
                {"id": 1, "command": "status", "more": 1}],
)  # fmt: skip
async def test_a_map_that_is_no_request_is_told_so(connect: Any, message: dict[str, Any]) -> None:
    wire = await connect()
    await wire.send(message)
    assert code_of(await wire.answer()) == "format"
    assert "ok" in await wire.ask("status")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        (REQUEST_LIMIT + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x03abc",
        b"\x00\x00\x00\x00",
        pack_frame({"id": 1, "command": "status"}) * 40,
    ],
)
async def test_garbage_gets_one_error_and_the_end(connect: Any, data: bytes) -> None:
    before = refused("format")
    other = await connect()
    wire = await connect()
    await wire.stream.send_all(data)
    assert code_of(await wire.answer()) == "format"
    assert await wire.answer() is None
    assert refused("format") == before + 1
    assert "ok" in await other.ask("status")


async def test_random_connections_leave_nothing_behind(connect: Any) -> None:
    draw = random.Random(7)
    open_before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(60):
        wire = await connect()
        await wire.stream.send_all(draw.randbytes(draw.randrange(1, 2000)))
        if draw.random() < 0.5:
            await wire.answer()
        await wire.stream.aclose()
    good = await connect()
    assert "ok" in await good.ask("status")
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert len([*Path("/proc/self/fd").iterdir()]) <= open_before + 2


async def test_a_frame_cut_off_is_counted(connect: Any) -> None:
    before = refused("format")
    wire = await connect()
    await wire.stream.send_all(pack_frame({"id": 1, "command": "status"})[:-3])
    await wire.stream.send_eof()
    assert code_of(await wire.answer()) == "format"
    assert refused("format") == before + 1


@pytest.mark.parametrize("begun", [b"", b"\x00", pack_frame({"id": 1, "command": "status"})[:-1]])
async def test_a_request_that_never_comes_whole_is_cut(
    connect: Any, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(server_module, "FRAME_SECONDS", 0.3)
    wire = await connect()
    for index in range(len(begun[:3])):  # each byte in time, the whole not
        await wire.stream.send_all(begun[index : index + 1])
    assert code_of(await wire.answer()) == "timeout"
    assert await wire.answer() is None


async def test_a_silent_connection_is_closed_after_its_idle_time(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "IDLE_SECONDS", 0.1)
    wire = await connect()
    assert "ok" in await wire.ask("status")
    assert await wire.answer() is None


async def test_a_crowd_is_refused_and_those_within_go_on(connect: Any) -> None:
    before = refused("busy")
    within = [await connect() for _ in range(CONNECTIONS)]
    for wire in within:
        assert "ok" in await wire.ask("blocked")
    late = await connect()
    answer = await late.answer()
    assert code_of(answer) == "busy"
    assert refused("busy") == before + 1
    assert "ok" in await within[0].ask("status")
    await within[1].stream.aclose()
    with trio.fail_after(60):
        while "error" in await (await connect()).ask("status"):
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_stranger_is_told_who_they_are_and_never_read(played: Played, connect: Any) -> None:
    played.config.control.operators = []
    before = refused("denied")
    wire = await connect()
    answer = await wire.answer()
    assert code_of(answer) == "denied"
    assert f"uid {os.getuid()} is no operator" in answer["error"]["message"]
    assert "control.operators" in answer["error"]["message"]
    assert await wire.answer() is None
    assert refused("denied") == before + 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
async def test_another_uid_of_this_machine_is_refused(played: Played, connect: Any) -> None:
    path = played.config.control.socket
    for place in (path, *path.parents[:-2]):
        place.chmod(0o777)
    script = (
        "import os,socket,sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(4096))"
    )
    done = await trio.run_process(
        [sys.executable, "-c", script, str(path)], capture_stdout=True, stderr=subprocess.STDOUT
    )
    assert b"uid 65534 is no operator" in done.stdout


async def test_a_fault_of_ours_is_one_answer(
    played: Played, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(played.catalog, "blocks", lambda: 1 / 0)
    wire = await connect()
    answer = await wire.ask("blocked")
    assert code_of(answer) == "internal"
    assert "division" not in answer["error"]["message"]
    assert "ok" in await wire.ask("sessions")


async def test_a_command_that_hangs_is_answered(
    played: Played, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 0.1)
    session = played.begin()

    async def never(by: str, reason: str) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(session, "drop", never)
    wire = await connect()
    assert code_of(await wire.ask("drop", session=session.id)) == "timeout"
    assert "ok" in await wire.ask("status")


# ---------------------------------------------------------------- the socket itself


async def test_the_socket_is_for_owner_and_group_and_goes_away(played: Played) -> None:
    path = played.config.control.socket
    async with trio.open_nursery() as nursery:
        assert await nursery.start(ControlServer(played).serve) == path
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_dead_daemons_socket_is_replaced(played: Played) -> None:
    path = played.config.control.socket
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(played).serve)
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(pack_frame({"id": 1, "command": "status"}))
        assert msgpack.unpackb((await stream.receive_some())[4:])["ok"]["node"] == "node1"
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_living_daemons_socket_and_a_file_are_not(played: Played, connect: Any) -> None:
    with pytest.raises(ConfigError, match="another daemon does"):
        await ControlServer(played).serve()
    assert "ok" in await (await connect()).ask("status")
    played.config.control.socket = file = played.base / "notes.txt"
    file.write_text("kept")
    with pytest.raises(ConfigError, match="something else is there"):
        await ControlServer(played).serve()
    assert file.read_text() == "kept"


async def test_a_path_too_long_for_a_socket_is_said(played: Played) -> None:
    played.config.control.socket = played.base / ("x" * 120)
    with pytest.raises(ConfigError, match="can't listen at"):
        await ControlServer(played).serve()
