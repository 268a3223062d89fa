"""The web console, as a stranger runs it beside a daemon: its process, and browsers and plain HTTP clients for it."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import pyotp

from proxyd.access import hash_password
from tests.peers.daemon import PROXYD, Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import Process, eventually, free_port

READY_S = 30.0
STEP_S = 30  # one step of RFC 6238
PASSWORD = "correct horse battery staple"
HASH = hash_password(PASSWORD)  # the same for all: a tenth of a second once


@dataclass
class Person:
    """A user of the proxy who has a password and an authenticator."""

    name: str
    secret: str = field(default_factory=pyotp.random_base32)
    used: int = 0

    def settings(self, directory: Path, roles: list[str]) -> dict[str, Any]:
        """Their table of the configuration."""
        file = directory / f"{self.name}.totp"
        file.write_text(self.secret)
        file.chmod(0o600)
        return {"password": HASH, "totp": f"file:{file}", "roles": roles}

    def code(self) -> str:
        """A code not given out before: the current one, else the next, which the drift allows; else the one after."""
        self.used = max(self.used + 1, int(time.time()) // STEP_S)
        wait = (self.used - 1) * STEP_S - time.time()
        if wait > 0:
            eventually(
                "the next one-time code", lambda: time.time() >= (self.used - 1) * STEP_S, within_s=wait + 5
            )
        return pyotp.TOTP(self.secret).at(self.used * STEP_S)


@dataclass
class Answer:
    """What the console answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def cookies(self) -> dict[str, str]:
        """The cookies it set, with their attributes."""
        return {line.partition("=")[0]: line for line in self.headers.get_all("set-cookie") or ()}


class Console:
    """`with Console(proxyd, directory) as console: console.get("/")`."""

    def __init__(self, proxyd: Proxyd, directory: Path, **settings: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.proxyd, self.directory = proxyd, directory
        self.port = free_port()
        keys = proxyd.home / "keys"
        proxyd.settings["console"] = {
            "address": f"{HOST}:{self.port}",
            "certificate": str(keys / "tls.crt"),
            "key": str(keys / "tls.key"),
            **settings,
        }
        operator = proxyd.settings["control"]["operators"][0]
        operator["roles"] = [*operator["roles"], "Console"]
        self.people: dict[str, Person] = {}
        self.process: Process | None = None
        self.starts = 0

    def person(self, name: str, *roles: str, **more: Any) -> Person:
        """Add a user who can sign in; `more` keys of their table."""
        person = self.people[name] = Person(name)
        known = self.proxyd.settings.get("users", {}).get(name, {})
        self.proxyd.user(name, **known, **person.settings(self.directory, list(roles)), **more)
        return person

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def origin(self) -> str:
        return self.url

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.stop()

    def start(self) -> None:
        """Run it, and wait until it answers."""
        self.starts += 1
        argv = [*PROXYD, "console", "--config", str(self.proxyd.config)]
        log = self.directory / f"console.{self.starts}.log"
        self.process = Process(argv, log=log, env=self.proxyd.env)
        eventually("the console is ready", self._is_ready, within_s=READY_S)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.running, self.log()
        return '"ready"' in self.log()

    def log(self) -> str:
        """What it logged."""
        assert self.process is not None
        return self.process.text()

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request as it is; nothing is followed, nothing is kept."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPSConnection:
        """Give a connection to it, made by its first request."""
        context = ssl.create_default_context(cafile=str(self.proxyd.home / "keys" / "tls.crt"))
        return http.client.HTTPSConnection(HOST, self.port, timeout=20, context=context)

    def client(self) -> Client:
        """A client that keeps cookies and fills in forms, as a browser without scripts does."""
        return Client(self)

    def signed_in(self, name: str) -> Client:
        """Such a client, signed in."""
        client = self.client()
        answer = client.sign_in(self.people[name])
        assert answer.status == 303, answer.text
        return client


class Client:
    """Keeps cookies; `form_token` is that of the last page."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.cookies: dict[str, str] = {}
        self.form_token = ""

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for a page."""
        return self._ask("GET", path, None, headers)

    def post(self, path: str, fields: Mapping[str, str | list[str]], **headers: str) -> Answer:
        """Send a form, with the last page's token unless one is given; a list is a field that is there several times."""
        body = urlencode({"form_token": self.form_token} | dict(fields), doseq=True)
        sent = {"content-type": "application/x-www-form-urlencoded", "origin": self.console.origin} | headers
        return self._ask("POST", path, body, sent)

    def sign_in(self, person: Person, *, password: str = PASSWORD, code: str | None = None) -> Answer:
        """Fill in the form."""
        self.get("/sign-in")
        given = person.code() if code is None else code
        return self.post("/sign-in", {"name": person.name, "password": password, "code": given, "next": "/"})

    @property
    def cookie(self) -> str:
        """The header that has its cookies."""
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        """Send one request, on a connection of its own."""
        return self.console.ask(method, path, body, headers)

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.send(method, path, body, {"cookie": self.cookie} | named)
        for name, line in answer.cookies().items():
            value = line.partition("=")[2].partition(";")[0].strip('"')
            self.cookies[name] = value
            if not value:
                del self.cookies[name]
        if b'name="form_token" value="' in answer.body:
            self.form_token = answer.text.split('name="form_token" value="')[1].split('"')[0]
        return answer
