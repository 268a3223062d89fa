"""What OWASP's ASVS 5.0 asks of a web application's sessions, cookies, forms and sockets, asked of a running console.

Each test names the requirement. Requests are sent as they are, by http.client and by raw sockets over TLS.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import ssl
from http.client import HTTPException

import pytest

from tests.e2e.console_lab import ADMIN, OPERATOR
from tests.e2e.lab import held
from tests.peers import eventually
from tests.peers.console import PASSWORD, Answer, Client, Console, Person
from tests.peers.endpoint import HOST

pytestmark = pytest.mark.timeout(300)

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def console(console_lab) -> Console:
    return console_lab.console


@pytest.fixture(scope="module")
def client(console_lab) -> Client:
    """One who is signed in; the browser's own sign-in, so that no code is used twice."""
    console_lab.context().close()
    client = console_lab.console.client()
    client.cookies = {one["name"]: one["value"] for one in console_lab.states[ADMIN]["cookies"]}
    client.get("/")
    return client


def upgrade(path: str, cookie: str, origin: str, port: int, *more: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {path} HTTP/1.1", f"Host: {HOST}:{port}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", f"Cookie: {cookie}", f"Origin: {origin}", *more,
    )  # fmt: skip
    return "\r\n".join((*lines, "", "")).encode()


def raw(console: Console, data: bytes, *, seconds: float = 10.0) -> bytes:
    """Send bytes over TLS; give what comes back until it closes, or the beginning of what does not."""
    context = ssl.create_default_context(cafile=str(console.proxyd.home / "keys" / "tls.crt"))
    found = b""
    with socket.create_connection((HOST, console.port), timeout=seconds) as plain:
        with context.wrap_socket(plain, server_hostname=HOST) as secure, contextlib.suppress(OSError):
            secure.sendall(data)
            while b"\r\n\r\n" not in found and (part := secure.recv(65536)):
                found += part
    return found


def test_3_3_1_cookies_are_secure_host_only_and_out_of_reach_of_scripts(console):
    answer = console.client().get("/sign-in")
    person = console.people[OPERATOR]
    fresh = console.client()
    signed = fresh.sign_in(person)
    assert signed.status == 303
    for line in (answer.cookies()["__Host-proxyd-form"], signed.cookies()["__Host-proxyd"]):
        attributes = {part.strip().lower() for part in line.split(";")[1:]}
        assert {"secure", "httponly", "samesite=lax", "path=/"} <= attributes
        assert not any(part.startswith("domain") for part in attributes)

    # 7.2.4: a new token at every sign-in, and the one before ends with it. 7.4.1: signing out ends it here too.
    before = fresh.cookies["__Host-proxyd"]
    stolen = console.client()
    stolen.cookies = {"__Host-proxyd": before}
    assert stolen.get("/").status == 200
    fresh.get("/")
    assert fresh.post("/sign-out", {}).status == 303
    assert stolen.get("/").status == 303
    assert "__Host-proxyd" not in fresh.cookies


def test_7_2_4_a_token_given_beforehand_signs_nobody_in(console, client):
    fixed = console.client()
    fixed.cookies = {"__Host-proxyd": "A" * 43}
    assert fixed.get("/").headers["location"].startswith("/sign-in")
    assert client.get("/").status == 200


def test_6_3_every_refusal_reads_the_same(console):
    person = console.people[ADMIN]
    wrong = {
        "no such user": (Person("mallory"), PASSWORD, "123456"),
        "password": (person, "wrong", "123456"),
        "code": (person, PASSWORD, "000000"),
        "no code": (person, PASSWORD, ""),
        "no password": (person, "", ""),
    }
    answers: list[Answer] = [
        console.client().sign_in(who, password=password, code=code) for who, password, code in wrong.values()
    ]
    assert {answer.status for answer in answers} == {403}
    pages = {re.sub(r'name="form_token" value="[^"]*"', "", answer.text) for answer in answers}
    assert len(pages) == 1
    assert all("__Host-proxyd=" not in str(answer.cookies()) for answer in answers)
    log = console.log()
    assert PASSWORD not in log
    assert person.secret not in log


def test_3_5_1_forms_of_other_sites_do_nothing(console, client):
    token = client.form_token
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{HOST}:{console.port}"},
    ):
        assert client.post("/sign-out", {"form_token": token}, **headers).status == 403
    assert client.post("/sign-out", {"form_token": ""}).status == 403
    assert client.post("/sign-out", {"form_token": "A" * 43}).status == 403
    assert client.post("/sign-out", {}, content_type="text/plain").status == 415
    assert client.get("/sign-out").status == 405
    login = console.client()
    login.get("/sign-in")
    login.cookies.clear()  # 10.2.1's cousin: a sign-in another site begins has no half of the token in a cookie
    assert login.post("/sign-in", {"name": ADMIN, "password": PASSWORD, "code": "1"}).status == 403
    assert client.get("/").status == 200


def test_3_4_every_answer_carries_the_browsers_orders(console, client):
    answers = [
        client.get("/"), client.get("/no-such-page"), console.client().get("/sign-in"), console.client().get("/"),
        console.ask("GET", "/", headers={"host": "evil.example"}), console.ask("DELETE", "/"),
    ]  # fmt: skip
    assert [answer.status for answer in answers] == [200, 404, 200, 303, 421, 405]
    for answer in answers:
        named = answer.headers
        assert "unsafe" not in named["content-security-policy"]
        assert "frame-ancestors 'none'" in named["content-security-policy"]
        assert int(re.search(r"max-age=(\d+)", named["strict-transport-security"])[1]) >= 31_536_000
        assert (named["x-content-type-options"], named["cache-control"]) == ("nosniff", "no-store")
        assert named["server"] is None
    page = client.get("/").text
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|javascript:", page)


def test_3_4_scripts_are_named_by_what_they_hold(client):
    page = client.get("/").text
    address = re.search(r'src="(/static/console\.[0-9a-f]{16}\.js)"', page)[1]
    answer = client.get(address)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert "immutable" in answer.headers["cache-control"]
    for path in ("/static/../main.py", "/static/console.js", "/static/%2e%2e/app.py", "/static/"):
        assert client.get(path).status == 404, path


def test_12_1_only_current_tls(console):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            context.minimum_version = context.maximum_version = version
        with socket.create_connection((HOST, console.port), timeout=10) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain)
    weak = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    weak.check_hostname, weak.verify_mode, weak.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA:AES256-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with socket.create_connection((HOST, console.port), timeout=10) as plain, pytest.raises(ssl.SSLError):
        weak.wrap_socket(plain)
    good = ssl.create_default_context(cafile=str(console.proxyd.home / "keys" / "tls.crt"))
    good.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection((HOST, console.port), timeout=10) as plain,
        good.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        assert (secure.version(), secure.selected_alpn_protocol(), secure.compression()) == (
            "TLSv1.3",
            "http/1.1",
            None,
        )


def test_4_4_2_sockets_of_other_sites_and_of_nobody_are_refused(console, client, console_lab, short):
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    with held(console_lab.lab, short, "exec cat") as (_, session):
        path = f"/sessions/{session}/live/stream"
        for origin in ("https://evil.example", "null", f"http://{HOST}:{console.port}"):
            assert b" 403 " in raw(console, upgrade(path, cookie, origin, console.port)).split(b"\r\n")[0]
        assert b" 403 " in raw(console, upgrade(path, "", console.origin, console.port)).split(b"\r\n")[0]
        forged = upgrade(path, "__Host-proxyd=" + "A" * 43, console.origin, console.port)
        assert b" 403 " in raw(console, forged).split(b"\r\n")[0]
        assert console_lab.lab.proxyd.live()[0]["viewers"] == 0
        # Who speaks on it is done: a browser of ours says nothing.
        good = upgrade(path, cookie, console.origin, console.port)
        answer = raw(console, good + b"\x81\x85\0\0\0\0hello")
        assert b" 101 " in answer.split(b"\r\n")[0]
        eventually("nobody watches", lambda: console_lab.lab.proxyd.live()[0]["viewers"] == 0)


MALFORMED = {
    "a byte behind the upgrade": lambda path, cookie, console: (
        upgrade(path, cookie, console.origin, console.port) + b"x"
    ),
    "no key": lambda path, cookie, console: upgrade(path, cookie, console.origin, console.port).replace(
        b"Sec-WebSocket-Key", b"X"
    ),
    "version 12": lambda path, cookie, console: upgrade(path, cookie, console.origin, console.port).replace(
        b": 13", b": 12"
    ),
    "no host": lambda path, cookie, console: upgrade(path, cookie, console.origin, console.port).replace(
        b"Host:", b"Hosts:"
    ),
    "two hosts": lambda path, cookie, console: upgrade(
        path, cookie, console.origin, console.port, f"Host: {HOST}:{console.port}"
    ),
    "an unmasked frame": lambda path, cookie, console: (
        upgrade(path, cookie, console.origin, console.port) + b"\x81\x05hello"
    ),
    "a frame of 2^63 bytes": lambda path, cookie, console: (
        upgrade(path, cookie, console.origin, console.port) + b"\x82\xff\x7f" + b"\xff" * 7 + b"\0" * 4
    ),
    "a reserved opcode": lambda path, cookie, console: (
        upgrade(path, cookie, console.origin, console.port) + b"\x83\x80\0\0\0\0"
    ),
    "upgrade of a POST": lambda path, cookie, console: upgrade(
        path, cookie, console.origin, console.port
    ).replace(b"GET", b"POST"),
    "headers without end": lambda _path, _cookie, console: (
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000
    ),
    "no request": lambda *_: os.urandom(2000) + b"\r\n\r\n",
    "two lengths": lambda *_: (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
    ),
    "length and chunks": lambda *_: (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a path that is none": lambda *_: b"GET \x00\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "http/2's preface": lambda *_: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


def test_malformed_requests_and_upgrades_end_themselves_only(console, client, console_lab, short):
    """One such upgrade ends hypercorn's whole process (pgjones/hypercorn#225)."""
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    with held(console_lab.lab, short, "exec cat") as (typist, session):
        pid = console.process.pid
        for make in MALFORMED.values():
            raw(console, make(f"/sessions/{session}/live/stream", cookie, console), seconds=2)
        assert console.process.running
        assert console.process.pid == pid
        assert client.get("/").status == 200
        typist.stdin.write(b"still here\n")
        typist.stdin.flush()
        assert typist.stdout.readline() == b"still here\n"
    assert "Traceback" not in console.log(), console.log()[-3000:]


@pytest.mark.parametrize("session", ["..%2f..%2fetc", "%00", "a" * 200, "'%20or%201=1--", "0" * 32])
def test_8_2_forged_ids_lead_nowhere(client, session):
    for part in ("", "/logs", "/hold", "/drop", "/live"):
        assert client.get(f"/sessions/{session}{part}").status == 404


def test_2_2_oversized_input_is_refused(console, client):
    assert client.post("/sign-out", {"reason": "x" * 20_000}).status == 413
    with contextlib.suppress(OSError, HTTPException):
        assert client.get("/", cookie="x" * 40_000).status in (400, 431)
    assert client.get("/?user=" + "%00" * 100).status in (200, 400)
    assert client.get("/").status == 200
