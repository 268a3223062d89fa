"""Channel requests and opens as the tape tells them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.protocols.ssh.wire import (
    Reader,
    WireError,
    describe_global,
    describe_open,
    describe_request,
    pty_request,
    string,
    uint32,
    window_change,
)

PTY = string(b"xterm") + uint32(120) + uint32(40) + uint32(0) + uint32(0) + string(b"\x00")

REQUESTS = [
    "pty-req",
    "exec",
    "subsystem",
    "env",
    "signal",
    "break",
    "exit-status",
    "exit-signal",
    "window-change",
    "x11-req",
]
OPENS = ["session", "direct-tcpip", "forwarded-tcpip", "direct-streamlocal@openssh.com", "x11"]
GLOBALS = [
    "tcpip-forward",
    "cancel-tcpip-forward",
    "streamlocal-forward@openssh.com",
    "keepalive@openssh.com",
]


@pytest.mark.mission("M16")
@pytest.mark.parametrize(
    ("name", "body", "fields"),
    [
        ("pty-req", PTY, {"term": "xterm", "columns": 120, "rows": 40}),
        ("exec", string(b"caf\xe9"), {"command": b"caf\xe9"}),
        ("subsystem", string(b"sftp"), {"subsystem": "sftp"}),
        ("env", string(b"LANG") + string(b"C.UTF-8"), {"variable": "LANG", "value": "C.UTF-8"}),
        (
            "env",
            string(b"DB_PASSWORD") + string(b"hunter2"),
            {"variable": "DB_PASSWORD", "value": "hunter2"},  # a name the user chooses hides nothing
        ),
        ("signal", string(b"INT"), {"signal": "INT"}),
        ("break", uint32(500), {"milliseconds": 500}),
        ("exit-status", uint32(300), {"status": 300}),
        (
            "exit-signal",
            string(b"SEGV") + b"\1" + string(b"boom") + string(b""),
            {"signal": "SEGV", "core_dumped": True, "message": "boom"},
        ),
        ("window-change", uint32(80) + uint32(24) + bytes(8), {"columns": 80, "rows": 24}),
        ("x11-req", b"\0" + string(b"MIT-MAGIC-COOKIE-1") + string(b"c0ffee") + uint32(0), {}),
        (
            "x11-req",
            b"\0" + string(b"MIT-MAGIC-COOKIE-1") + string(b"rm -rf /") + uint32(1),
            {"cookie": b"rm -rf /", "screen": 1},
        ),
        ("exec", string(b"ls") + b"; id", {"command": b"ls", "rest": b"; id"}),
        (
            "window-change",
            uint32(80) + uint32(24) + bytes(8) + b"x",
            {"columns": 80, "rows": 24, "rest": b"x"},
        ),
        (
            "pty-req",
            PTY[:-5] + string(b"\1\0\0\0\3\0"),
            {"term": "xterm", "columns": 120, "rows": 40, "modes": b"\1\0\0\0\3\0"},
        ),
        ("evil@example.com", b"anything", {"rest": b"anything"}),
        ("shell", b"", {}),
    ],
)
def test_a_request_is_told_with_its_fields(name: str, body: bytes, fields: dict[str, object]) -> None:
    assert describe_request(name, body) == fields


def test_opens_and_global_requests_are_told_with_their_ends() -> None:
    place = string(b"db1") + uint32(5432) + string(b"10.0.0.9") + uint32(40000)
    told = {"host": "db1", "port": 5432, "origin": "10.0.0.9", "origin_port": 40000}
    assert describe_open("direct-tcpip", place) == told
    assert describe_open("forwarded-tcpip", place) == told
    assert describe_open("direct-streamlocal@openssh.com", string(b"/run/x")) == {"path": "/run/x"}
    assert describe_open("direct-streamlocal@openssh.com", string(b"/run/x") + bytes(8)) == {"path": "/run/x"}
    assert describe_open("direct-streamlocal@openssh.com", string(b"/x") + b"why") == {
        "path": "/x",
        "rest": b"why",
    }
    assert describe_open("session", b"why") == {"rest": b"why"}
    assert describe_open("x11", string(b"10.0.0.9") + uint32(1)) == {"origin": "10.0.0.9", "origin_port": 1}
    assert describe_global("tcpip-forward", string(b"") + uint32(0)) == {"host": "", "port": 0}
    assert describe_global("streamlocal-forward@openssh.com", string(b"/run/x")) == {"path": "/run/x"}


def test_sizes_are_read_from_their_bodies() -> None:
    assert pty_request(PTY).columns == 120
    assert window_change(uint32(80) + uint32(24)) == (80, 24)


@pytest.mark.parametrize("name", ["pty-req", "exec", "exit-status", "window-change"])
def test_a_truncated_request_is_a_wire_error(name: str) -> None:
    with pytest.raises(WireError):
        describe_request(name, b"\0\0")


def test_a_reader_gives_each_type_and_never_reads_past_the_end() -> None:
    reader = Reader(b"\1" + uint32(7) + (9).to_bytes(8, "big") + string(b"abc") + b"rest")
    assert (reader.boolean(), reader.uint32(), reader.uint64(), reader.text(), reader.rest()) == (
        True,
        7,
        9,
        "abc",
        b"rest",
    )
    with pytest.raises(WireError):
        reader.take(1)


@given(st.sampled_from(REQUESTS), st.binary(max_size=80))
def test_random_requests_are_told_or_refused(name: str, body: bytes) -> None:
    try:
        assert isinstance(describe_request(name, body), dict)
    except WireError:
        assert body is not None


@given(st.sampled_from(OPENS), st.sampled_from(GLOBALS), st.binary(max_size=80))
def test_random_opens_are_told_or_refused(kind: str, name: str, body: bytes) -> None:
    for describe, what in ((describe_open, kind), (describe_global, name)):
        try:
            assert isinstance(describe(what, body), dict)
        except WireError:
            assert body is not None
