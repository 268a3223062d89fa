"""What OWASP's ASVS 5.0 asks of a web application's sessions, cookies, forms and sockets, asked of a running console.

Each test names the requirement. Requests are sent as they are, by http.client and by raw sockets over TLS. What needs a clock
(7.3.1, 7.3.2: idle and absolute ends) is in tests/unit/console/test_signin.py, what needs a provider (6.8, 7.6, 10) in
test_console_oidc.py, floods and slow clients in test_console_doors.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.parse import urlencode

import pytest

from proxyd.console.app import TABLE
from proxyd.recorder.ledger import LedgerReader
from tests.e2e.console_lab import ADMIN, AUDITOR, NOBODY, OPERATOR
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


def raw(console: Console, data: bytes, *, seconds: float = 10.0, until_closed: bool = False) -> bytes:
    """Send bytes over TLS; give what comes back: the first head, or all until it closes or says nothing for so long."""
    context = ssl.create_default_context(cafile=str(console.proxyd.home / "keys" / "tls.crt"))
    found = b""
    with socket.create_connection((HOST, console.port), timeout=seconds) as plain:
        with context.wrap_socket(plain, server_hostname=HOST) as secure, contextlib.suppress(OSError):
            secure.sendall(data)
            while (until_closed or b"\r\n\r\n" not in found) and (part := secure.recv(65536)):
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


ORDERS = {
    "3_4_1_hsts": ("strict-transport-security", r"max-age=(3153\d{4}|\d{9,}); includeSubDomains"),
    "3_4_3_csp": ("content-security-policy", r"default-src 'none'; script-src 'self'; (?!.*unsafe).*"),
    "3_4_3_no_base_no_object": ("content-security-policy", r"default-src 'none'.*base-uri 'none'.*"),
    "3_4_4_no_sniffing": ("x-content-type-options", r"nosniff"),
    "3_4_5_referrer": ("referrer-policy", r"same-origin|no-referrer"),
    "3_4_6_no_frames": ("content-security-policy", r".*frame-ancestors 'none'.*"),
    "3_4_6_no_frames_in_old_browsers": ("x-frame-options", r"DENY"),
    "3_4_8_opener": ("cross-origin-opener-policy", r"same-origin"),
    "3_5_8_no_embedding": ("cross-origin-resource-policy", r"same-origin"),
    "14_3_2_nobody_keeps_it": ("cache-control", r"no-store"),
}


@pytest.fixture(scope="module")
def answers(console, client) -> list[Answer]:
    """Answers of every kind: pages, refusals of each door, redirects."""
    found = [
        client.get("/"), client.get("/no-such-page"), console.client().get("/sign-in"), console.client().get("/"),
        console.ask("GET", "/", headers={"host": "evil.example"}), console.ask("DELETE", "/"),
        client.get("/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors"), client.get("/sessions/none"),
        client.post("/sign-out", {"form_token": "x"}), console.ask("GET", "/static/none.js"),
    ]  # fmt: skip
    assert [answer.status for answer in found] == [200, 404, 200, 303, 421, 405, 403, 404, 403, 404]
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_every_answer_carries_the_browsers_order(answers, order):
    name, wanted = ORDERS[order]
    for answer in answers:
        assert re.fullmatch(wanted, answer.headers[name]), (answer.status, answer.headers[name])


def test_3_4_2_no_other_origin_is_let_in(console, client):
    for origin in ("https://evil.example", "null", console.origin):
        answer = client.get("/", origin=origin)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    preflight = {
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "host": f"{HOST}:{console.port}",
    }
    answer = console.ask("OPTIONS", "/sign-out", headers=preflight)
    assert answer.status == 405
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_3_2_2_pages_hold_no_code_of_their_own(client):
    page = client.get("/").text
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|javascript:", page)


def test_3_3_4_tokens_are_nowhere_but_in_their_cookie(console, client):
    token = client.cookies["__Host-proxyd"]
    for path in ("/", "/search", "/requests", "/blocked", "/sign-ins", "/sign-in"):
        answer = client.get(path)
        assert token not in answer.text + str(answer.headers.items())
    assert token not in console.log()


def test_3_3_5_cookies_are_small(console):
    person = console.people[OPERATOR]
    client = console.client()
    answers = [client.get("/sign-in"), client.sign_in(person)]
    assert all(len(line) < 4096 for answer in answers for line in answer.cookies().values())


def test_3_5_3_nothing_is_done_by_a_link(client):
    for method, path, _ in TABLE:
        if method == "POST" and ("GET", path) not in {(one, where) for one, where, _ in TABLE}:
            assert client.get(re.sub(r"{[^}]+}", "1", path)).status == 405, path


def test_3_5_8_no_page_of_others_embeds_ours(client):
    for mode in ("no-cors", "cors", "websocket"):
        for site in ("cross-site", "same-site"):
            assert client.get("/", sec_fetch_site=site, sec_fetch_mode=mode).status == 403
    assert client.get("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate").status == 200


@pytest.mark.parametrize(
    "wanted",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "/%09/evil.example\t", "javascript:alert(1)",
     "/\r\nset-cookie: a=b", "http:/evil.example", " /", ""],
)  # fmt: skip
def test_3_7_2_nobody_is_sent_on_to_elsewhere(console, client, wanted):
    location = client.get("/sign-in?" + urlencode({"next": wanted})).headers["location"]
    assert location == "/" or (location.startswith("/%09/") and "\t" not in location)
    page = console.client().get("/sign-in?" + urlencode({"next": wanted})).text
    assert re.search(r'name="next" value="([^"]*)"', page)[1] in ("/", "/%09/evil.example")


def test_4_1_1_every_body_says_what_it_is(answers):
    for answer in answers:
        assert not answer.body or re.fullmatch(
            r"text/(html|plain); charset=utf-8", answer.headers["content-type"]
        )


def test_4_1_3_headers_of_proxies_change_nothing(console, client):
    said = {"x_forwarded_for": "203.0.113.9", "x_forwarded_host": "evil.example", "x_real_ip": "203.0.113.9", "forwarded": "for=203.0.113.9;host=evil.example",
            "x_forwarded_proto": "http", "x_original_url": "/blocked", "x_rewrite_url": "/blocked", "x_http_method_override": "POST"}  # fmt: skip
    page = client.get("/", **said)
    assert "evil.example" not in page.text + str(page.headers.items())
    assert "Remote sessions" in page.text
    console.client().get("/sign-in", **said)
    console.client().sign_in(Person("mallory"), code="1")
    assert "203.0.113.9" not in console.log()


@pytest.mark.parametrize(
    "method", ["TRACE", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "PROPFIND", "GETT"]
)
def test_4_1_4_other_methods_are_not_there(console, client, method):
    """And 13.4.4: TRACE."""
    answer = console.ask(method, "/", headers={"host": f"{HOST}:{console.port}", "x-secret": "canary"})
    assert answer.status in (400, 405)
    assert "canary" not in answer.text


SMUGGLED = {
    "CL.TE": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "TE.CL": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nG\r\n0\r\n\r\n",
    "TE.TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE of another kind": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE, folded": b"Transfer-Encoding:\r\n chunked, gzip\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths in one": b"Content-Length: 0, 5\r\n\r\nhello",
    "a length with a sign": b"Content-Length: +5\r\n\r\nhello",
    "a length below nothing": b"Content-Length: -1\r\n\r\n",
    "a space before the colon": b"Content-Length : 5\r\n\r\nhello",
    "a zero byte": b"X: y\0z\r\n\r\n",
    "two hosts": b"Host: evil.example\r\n\r\n",
    "chunks longer than they say": b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
    "a chunk of 2^70": b"Transfer-Encoding: chunked\r\n\r\n400000000000000000\r\na",
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_4_2_1_where_a_request_ends_is_never_in_doubt(console, how):
    """What two servers could read as two different requests is refused, or the connection ends with it."""
    head = b"POST /sign-in HTTP/1.1\r\nHost: %s:%d\r\nOrigin: %s\r\nContent-Type: text/plain\r\n"
    hidden = b"GET /static/none HTTP/1.1\r\nHost: %s:%d\r\n\r\n" % (HOST.encode(), console.port)
    first = head % (HOST.encode(), console.port, console.origin.encode()) + SMUGGLED[how]
    said = raw(console, first + hidden, seconds=5, until_closed=True)
    assert b"There is no such file" not in said, said
    assert said.count(b"HTTP/1.1 ") <= 1 or b" 400 " in said, said


def test_4_2_1_a_request_behind_another_is_one_of_its_own(console):
    """Pipelining is HTTP/1.1: two whole requests get two answers, in order."""
    one = b"GET /%s HTTP/1.1\r\nHost: " + f"{HOST}:{console.port}".encode() + b"\r\n\r\n"
    said = raw(
        console,
        one % b"static/none" + (one % b"").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        until_closed=True,
    )
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"404", b"303"]


def test_6_5_1_a_code_is_good_once(console):
    person = console.people[AUDITOR]
    code = person.code()
    assert console.client().sign_in(person, code=code).status == 303
    assert console.client().sign_in(person, code=code).status == 403


def test_7_4_4_every_page_has_a_way_out(client):
    for path in ("/", "/search", "/requests", "/blocked", "/sign-ins"):
        page = client.get(path).text
        assert 'action="/sign-out"' in page
        assert "Sign out" in page


@pytest.fixture(scope="module")
def nobody(console) -> Client:
    """One who may sign in, and see nothing."""
    return console.signed_in(NOBODY)


def test_7_5_2_a_user_sees_where_they_are_signed_in_and_ends_it(console, nobody, client):
    other = console.signed_in(NOBODY)
    page = nobody.get("/sign-ins", user_agent="Here/1.0").text
    (number,) = re.findall(r'name="number" value="([0-9a-f]+)"', page)
    for not_mine in ("f" * 16, ""):
        client.get("/sign-ins")
        assert client.post("/sign-ins", {"number": number if not_mine else "0"}).status == 303
        assert other.get("/sign-ins").status == 200
    nobody.get("/sign-ins")
    assert nobody.post("/sign-ins", {"number": number}).status == 303
    assert other.get("/sign-ins").status == 303
    assert "1 browser is signed out" in nobody.get("/sign-ins").text


def watched_until_told(console: Console, data: bytes, wanted: bytes) -> bytes:
    """Open a WebSocket, and read until it says something."""
    context = ssl.create_default_context(cafile=str(console.proxyd.home / "keys" / "tls.crt"))
    found = b""
    with socket.create_connection((HOST, console.port), timeout=60) as plain:
        with context.wrap_socket(plain, server_hostname=HOST) as secure:
            secure.sendall(data)
            while wanted not in found and (part := secure.recv(65536)):
                found += part
    return found


def test_7_4_5_an_administrator_ends_anybodys_sign_in_and_what_it_watches(
    console, client, nobody, console_lab, short
):
    ctl = console.proxyd.ctl
    seen = console.client()
    given = ctl("users", "recovery-code", AUDITOR).data["code"]
    assert seen.sign_in(console.people[AUDITOR], code=given).status == 303
    with held(console_lab.lab, short, "exec cat") as (_, session), ThreadPoolExecutor(1) as pool:
        wanted = upgrade(f"/sessions/{session}/live/stream", seen.cookie, console.origin, console.port)
        live = pool.submit(watched_until_told, console, wanted, b"You are signed out.")
        eventually("they watch", lambda: console_lab.lab.proxyd.live()[0]["viewers"] == 1)
        rows = lambda: ctl("users", "signed-in").data["sign_ins"]  # noqa: E731
        eventually("it is known", lambda: AUDITOR in [row["user"] for row in rows()])
        (number, *_) = [row["number"] for row in rows() if row["user"] == AUDITOR]
        assert seen.cookies["__Host-proxyd"] not in str(rows())
        assert number in client.get("/signed-in").text
        assert nobody.get("/signed-in").status == 403
        assert nobody.post("/signed-in", {"user": AUDITOR, "number": number}).status == 403
        assert seen.get("/sign-ins").status == 200
        client.get("/signed-in")
        assert client.post("/signed-in", {"user": AUDITOR, "number": ""}).status == 303
        assert seen.get("/").status == 303
        assert b"\x11\x31" in live.result(timeout=60)  # 4401
        eventually("nobody watches", lambda: console_lab.lab.proxyd.live()[0]["viewers"] == 0)
    assert "signed out" in client.get("/signed-in").text
    assert ctl("users", "sign-out", AUDITOR, check=False).code != 0
    (entry,) = LedgerReader(console.proxyd.home / "state" / "ledger").entries("sign-out")
    assert (entry.fields["user"], entry.fields["who"], entry.fields["via"]) == (AUDITOR, ADMIN, "root")


def test_8_2_1_who_may_not_is_told_so_and_the_daemon_says_it(console, nobody):
    for path in ("/", "/blocked", "/search?words=root"):
        answer = nobody.get(path)
        assert answer.status in (200, 403)
        assert "/sessions/" not in answer.text
    assert nobody.post("/blocked/release", {"user": "alice", "target": "web1"}).status in (403, 404)
    assert '"why": "denied", "who": "nora"' in console.proxyd.log()


@pytest.mark.parametrize(
    "path",
    [
        "/.git/config",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/static",
        "/static/",
        "/server-status",
        "/debug",
        "/sessions/../../etc/passwd",
    ],
)
def test_13_4_nothing_else_is_served(client, path):
    """13.4.1, 13.4.3, 13.4.5: no version control, no list of files, no documentation, no monitoring."""
    assert client.get(path).status == 404


def test_13_4_6_nothing_says_what_it_runs_on(answers):
    for answer in answers:
        assert answer.headers["server"] is None
        assert answer.headers["x-powered-by"] is None
        assert not re.search(r"anycorn|starlette|hypercorn|python|trio|Traceback", answer.text, re.IGNORECASE)


def test_16_4_1_a_name_can_not_write_lines_of_the_log(console):
    name = 'x\n{"event": "signed in", "user": "warden"}\x1b[2K\u2028'
    client = console.client()
    client.get("/sign-in")
    client.post("/sign-in", {"name": name, "password": "p", "code": "1"})
    lines = [line for line in console.log().splitlines() if "warden" in line]
    assert lines
    assert all(json.loads(line)["event"] == "sign-in refused" for line in lines)
    assert "\x1b" not in console.log()


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
