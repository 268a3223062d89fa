"""The door: what it lets through, and what every answer carries (ASVS 5.0, chapter 3)."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from proxyd.console.guard import Guard, origins, policy

HOSTS = origins(["console.example:443", "127.0.0.1:8443"])
OWN = {"host": "console.example", "origin": "https://console.example"}


async def through(
    kind: str, method: str = "GET", path: str = "/", **headers: str
) -> tuple[int, dict[str, str]]:
    """The status and the headers of what comes back; of a socket 0 when the application got it, else its close code."""
    sent: list[dict[str, Any]] = []
    reached: list[bool] = []

    async def app(scope, receive, send):
        reached.append(True)
        if scope["type"] == "http":
            await PlainTextResponse("inside")(scope, receive, send)

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": f"{kind}.connect"}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "headers": raw, "query_string": b""}
    await Guard(app, HOSTS, frozenset({"/told"}))(scope, receive, send)
    if kind == "websocket":
        return (0 if reached else sent[0]["code"]), {}
    given = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert bool(reached) == (sent[0]["status"] == 200)
    return sent[0]["status"], given


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "console.example"}, 200),
        ({"host": "console.example:443"}, 200),
        ({"host": "CONSOLE.example"}, 200),
        ({"host": "127.0.0.1:8443"}, 200),
        ({"host": "127.0.0.1"}, 421),
        ({"host": "evil.example"}, 421),  # DNS rebinding
        ({"host": "console.example.evil.example"}, 421),
        ({}, 421),
        ({"host": "console.example", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 200),
        ({"host": "console.example", "sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
        ({"host": "console.example", "sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}, 403),
        ({"host": "console.example", "sec_fetch_site": "none", "sec_fetch_mode": "navigate"}, 200),
    ],
)
async def test_pages_are_for_its_own_name(headers, status):
    assert (await through("http", **headers))[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN, 200),
        (OWN | {"origin": "https://console.example:443"}, 403),  # browsers leave the default port out
        (OWN | {"origin": "http://console.example"}, 403),
        (OWN | {"origin": "https://evil.example"}, 403),
        (OWN | {"origin": "null"}, 403),
        ({"host": "console.example"}, 403),
        ({"host": "console.example", "sec_fetch_site": "same-origin"}, 200),
        ({"host": "console.example", "sec_fetch_site": "same-site"}, 403),
        ({"host": "127.0.0.1:8443", "origin": "https://console.example"}, 403),
    ],
)
async def test_changes_come_from_its_own_pages(headers, status):
    assert (await through("http", "POST", **headers))[0] == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "get"])
async def test_no_other_method(method):
    assert (await through("http", method, **OWN))[0] == 405


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (OWN, 0),
        ({"host": "console.example"}, 1008),
        (OWN | {"origin": "https://evil.example"}, 1008),
        (OWN | {"origin": "null"}, 1008),
        ({"host": "evil.example", "origin": "https://evil.example"}, 1008),
    ],
)
async def test_sockets_come_from_its_own_pages(headers, code):
    assert (await through("websocket", **headers))[0] == code


@pytest.mark.parametrize("host", ["console.example", "evil.example"])
async def test_every_answer_carries_the_headers(host):
    _, given = await through("http", host=host)
    assert given["strict-transport-security"].startswith("max-age=31536000")
    assert given["x-content-type-options"] == "nosniff"
    assert given["x-frame-options"] == "DENY"
    assert given["cache-control"] == "no-store"
    assert given["referrer-policy"] == "same-origin"
    assert given["cross-origin-opener-policy"] == given["cross-origin-resource-policy"] == "same-origin"
    assert given["content-security-policy"] == policy()


def test_the_policy_allows_nothing_inline_and_nothing_foreign():
    named = dict(part.split(" ", 1) for part in policy("abc").split("; "))
    assert named["default-src"] == named["frame-ancestors"] == named["base-uri"] == "'none'"
    assert named["script-src"] == named["form-action"] == named["connect-src"] == "'self'"
    assert named["style-src"] == "'self' 'nonce-abc'"
    assert "unsafe" not in policy("abc")
    assert "http" not in policy("abc")
    assert "*" not in policy("abc")


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 200), ({"origin": "https://console.example"}, 403), ({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403),
     ({"sec_fetch_site": "same-origin"}, 403), ({"sec_fetch_site": "cross-site"}, 403), ({"sec_fetch_site": "none"}, 403)],
)  # fmt: skip
async def test_what_servers_tell_comes_from_no_page(headers, status):
    told = {"host": "console.example", **headers}
    assert (await through("http", "POST", "/told", **told))[0] == status
    assert (await through("http", "POST", "/told", **{**told, "host": "evil.example"}))[0] == 421
    assert (await through("http", "POST", "/told/", host="console.example"))[0] == 403
