"""Where campaigns against the console's HTTP begin: whole requests of browsers, and what such requests are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.fuzz.atheris_console import HOST, TOKEN

OWN: Final = (
    f"Host: {HOST}\r\nOrigin: https://{HOST}\r\nCookie: __Host-proxyd={TOKEN}; __Host-proxyd-form=F\r\n"
)
UPGRADE: Final = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

DICTIONARY: Final = (
    b"GET ", b"POST ", b"HEAD ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n\r\n", OWN.encode(), UPGRADE.encode(),
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n",
    b"HTTP2-Settings: AAMAAABk\r\n", b"Content-Type: application/x-www-form-urlencoded\r\n", b"Sec-Fetch-Site: cross-site\r\n", b"form_token=F",
    b"/sign-in", b"/sign-in/provider", b"/sign-in/provider/back?code=c&state=s", b"/sign-out", b"/sign-ins", b"/search?words=x", b"/requests", b"/static/",
    b"/sessions/0/live/stream", b"/sessions/0/recording/pieces/1", b"/sessions/0/recording/pictures/1", b"%00", b"%2e%2e", b"\xff", b"0\r\n\r\n", b"\x81\x05hello",
    b"\x82\x85\0\0\0\0hello", b"\x88\x82\0\0\0\0\x03\xe8", b"\x89\x80\0\0\0\0", b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", b"\xc1\x80\0\0\0\0",
)  # fmt: skip


def seeds() -> Iterator[bytes]:
    """Give requests as inputs: pieces, each with its length before it."""
    paths = (
        "/",
        "/sign-in",
        "/search?words=a",
        "/sessions/0/play",
        "/sessions/0/logs?kind=events&after=1",
        "/requests",
        "/sign-ins",
        "/static/x.js",
        "/nothing",
    )
    for path in paths:
        yield pieces(f"GET {path} HTTP/1.1\r\n{OWN}\r\n".encode())
    form = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 32\r\n\r\nform_token={TOKEN[:21]}"
    for path in (
        "/sign-out",
        "/sign-ins",
        "/sign-in/provider",
        "/sessions/0/drop",
        "/requests/1/approve",
        "/blocked/release",
    ):
        yield pieces(f"POST {path} HTTP/1.1\r\n{OWN}{form}".encode())
    yield pieces(f"GET /sessions/0/live/stream HTTP/1.1\r\n{OWN}{UPGRADE}\r\n".encode())
    yield pieces(
        f"GET /sessions/0/live/stream HTTP/1.1\r\n{OWN}{UPGRADE}\r\n".encode() + b"x"
    )  # the one that ends hypercorn
    yield pieces(
        f"GET /sessions/0/live/stream HTTP/1.1\r\n{OWN}{UPGRADE}\r\n".encode(), b"\x81\x85\0\0\0\0hello"
    )
    yield pieces(f"GET / HTTP/1.1\r\n{OWN}\r\n".encode() * 3)
    yield pieces(*(bytes((byte,)) for byte in f"GET / HTTP/1.1\r\n{OWN}\r\n".encode()))
    yield pieces(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    yield pieces(
        f"GET / HTTP/1.1\r\n{OWN}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n".encode()
    )
    yield pieces(
        f"POST /sign-in HTTP/1.1\r\n{OWN}Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n".encode(),
        b"5\r\nhello\r\n0\r\n\r\n",
    )


def pieces(*parts: bytes) -> bytes:
    """Write an input: each part in pieces whose length one byte tells (program.Input.counted)."""
    found = b""
    for part in parts:
        found += b"".join(
            bytes((len(cut),)) + cut for cut in (part[at : at + 223] for at in range(0, len(part), 223))
        )
    return found
