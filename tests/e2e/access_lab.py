"""A daemon and a console for attempts to see what one may not: people, sessions that live and have ended, and the ledger beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from proxyd.config import load
from proxyd.control.client import Client, ControlError
from proxyd.protocols.rdp.updates import build_bitmaps
from proxyd.recorder.ledger import Entry, LedgerReader, decoded
from proxyd.recorder.record import Kind
from tests.access_model import NIGHT_WATCH, USERS, Model
from tests.e2e.lab import furnish, make_lab
from tests.peers import eventually
from tests.peers.browser import Browser
from tests.peers.clients import OpenSSH
from tests.peers.console import HASH, Console, Person
from tests.peers.tapes import SHELL, record_before
from tests.unit.index.tape import demand_active, fast, session, tile

ADDRESS = "192.0.2.9"  # of whom the control socket is asked for
NEEDLE = "needle"  # what every ended terminal has shown
LONG, SHORT = "a1" * 16, "a2" * 16
LINES = b"%0100d\r\n" % 7 * 300
MUCH = 24  # of them: three pieces of what the player asks for at once
EXPORTER = "ann"  # whose one export is
REFUSALS = ("denied", "not_found", "refused", "usage")  # any other answer is a fault
NIGHT = {"name": "Night watch", "permissions": NIGHT_WATCH}
KEPT = 2  # of the sessions that lived and have ended
BEFORE_S = 3600.0  # so long ago the recordings there are began

Meta = dict[str, Any]


def _meta(number: int, protocol: str, user: str) -> Meta:
    about = {"user_ip": "192.0.2.7", "how": "password", "host": "10.0.0.5:22", "login": "root"}
    return about | {"id": f"{number:02x}" * 16, "protocol": protocol, "user": user, "target": f"old{number}",
                    "started_at": time.time() - BEFORE_S + number}  # fmt: skip


def _recordings() -> list[tuple[Meta, tuple[tuple[Any, ...], ...]]]:
    shown = (Kind.OUTPUT, f"the {NEEDLE} in it\r\n".encode(), 1)
    statement = {"event": "statement", "n": 1, "how": "simple", "text": "select 1"}
    painted = fast(build_bitmaps([tile(0, 0, 4, 4, b"\x00\x00\xff\x00" * 16)]))
    desk = tuple((one.kind, one.body) for one in (session(16, 8), demand_active(16, 8), painted))
    return [
        (_meta(0xA1, "ssh", "zoe"), (*SHELL, shown, *((Kind.OUTPUT, LINES, 1),) * MUCH)),
        (_meta(0xA2, "ssh", "alice"), (*SHELL, shown)),
        (_meta(0xA3, "rdp", "bob"), desk),
        (_meta(0xA4, "postgres", "eve"), ((Kind.STATEMENT, statement),)),
    ]


class Held:
    """A live session of a user's: OpenSSH at `cat`."""

    def __init__(self, endpoint: Any, directory: Path, known: set[str], proxyd: Any) -> None:
        self._out = directory / "out"
        argv = OpenSSH().argv(endpoint, command="echo up; exec cat")
        with self._out.open("wb") as sink:
            self.client = subprocess.Popen(
                argv, env=OpenSSH().env(endpoint), stdin=subprocess.PIPE, stdout=sink, stderr=sink
            )
        eventually("it is up", lambda: b"up\n" in self._out.read_bytes(), within_s=30)
        (self.id,) = {row["id"] for row in proxyd.live()} - known

    def say(self, text: str) -> None:
        """Type a line, which is shown again."""
        assert self.client.stdin is not None
        self.client.stdin.write(text.encode() + b"\n")
        self.client.stdin.flush()

    def hang_up(self) -> None:
        """Leave."""
        self.client.kill()
        self.client.wait(10)
        assert self.client.stdin is not None
        with suppress(OSError):
            self.client.stdin.close()


class AccessLab:
    """One daemon, one console; `model` knows what there is and what is configured."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.model = Model()
        self.lab = make_lab(directory / "lab")
        self.proxyd = self.lab.proxyd
        self.held: dict[str, Held] = {}
        self._starts = self._reloads = 0
        self._over: list[str] = []
        self._browsers: dict[str, Browser] = {}

    @contextmanager
    def running(self) -> Iterator[AccessLab]:
        """Start all of it; end it with the block."""
        with self.lab.sshd:
            self._furnish()
            with self.proxyd, self.console:
                settings = load(self.proxyd.config)
                self.ledger = LedgerReader(settings.recording.ledger)
                self._file = settings.recording.ledger.open("rb")
                self.operator: str = settings.control.operators[0].name
                self.export = self._exported(EXPORTER, SHORT)
                try:
                    yield self
                finally:
                    for one in list(self.held.values()):
                        one.hang_up()
                    for browser in self._browsers.values():
                        browser.close()
                    self._file.close()

    def _furnish(self) -> None:
        furnish(self.lab)
        proxyd = self.proxyd
        proxyd.settings["control"]["roles"] = [NIGHT]
        for name, roles in USERS.items():
            proxyd.user(name, password=HASH, keys=[self.lab.key.line], roles=list(roles))
        self.console = Console(proxyd, self.directory / "console", second_factor=False)
        proxyd.settings["review"] = {}
        proxyd.write()
        recordings = _recordings()
        record_before(load(proxyd.config), recordings)
        made = proxyd.run("index", "--all", "--config", str(proxyd.config))
        assert made.returncode == 0, made.stderr
        self.model.users |= {meta["id"]: meta["user"] for meta, _ in recordings}
        self.found = {meta["id"] for meta, _ in recordings if meta["protocol"] == "ssh"}

    def _exported(self, who: str, session: str) -> str:
        """Have a session exported by the form; gives the export once its file is there."""
        asked = self.browser(who).post(f"/sessions/{session}/video", {"form": "jsonl"})
        assert asked.status == 303, asked.text
        export: str = asked.headers["location"].rpartition("/")[2]
        state = lambda: self.client(who).call("exports", job=export)["exports"][0]["state"]  # noqa: E731
        eventually("the export is made", lambda: state() == "done", within_s=60)
        return export

    # ------------------------------------------------------------------ what happens meanwhile

    def hold(self, user: str) -> str:
        """Have a user log in and stay; gives the session."""
        self._starts += 1
        directory = self.directory / f"held{self._starts}"
        directory.mkdir()
        known = {row["id"] for row in self.proxyd.live()}
        one = Held(self.lab.proxied(directory, user=user), directory, known, self.proxyd)
        self.held[one.id] = one
        self.model.users[one.id] = user
        self.model.live.add(one.id)
        return one.id

    def end(self, session: str) -> None:
        """Have them leave, or be gone; of those that have ended so the last ones count."""
        self.held.pop(session).hang_up()
        self.proxyd.ended(session)
        self.model.live.discard(session)
        self._over.append(session)
        if len(self._over) > KEPT:
            del self.model.users[self._over.pop(0)]

    def clear(self) -> None:
        """Have whatever was asked for revoked, and whoever may audit a session audit all."""
        decider = self.client("alice")
        for status in ("pending", "approved"):
            for row in decider.call("requests", status=status)["requests"]:
                decider.call("revoke", request=row["id"])
        for one in self.model.users:
            decider.call("set-auditors", session=one, people=[])
        self.model.requests.clear()
        self.model.auditors.clear()

    def review(self, **settings: Any) -> None:
        """Configure `[review]`, at the daemon and at the console."""
        self.proxyd.settings["review"] = settings
        self.proxyd.write()
        self.proxyd.call("reload")
        self._reloads += 1
        assert self.console.process is not None
        self.console.process.popen.send_signal(signal.SIGHUP)
        eventually(
            "the console has reloaded", lambda: self.console.log().count('"reloaded"') == self._reloads
        )
        known = ("approval", "live", "approvers", "download")
        self.model.configure(**{name: value for name, value in settings.items() if name in known})

    # ------------------------------------------------------------------ who asks

    def browser(self, who: str) -> Browser:
        """The browser of a user, signed in."""
        if who not in self._browsers:
            self._browsers[who] = Browser(self.console)
            self.sign_in(who)
        return self._browsers[who]

    def stranger(self, who: str) -> Browser:
        """The browser of one who has not signed in."""
        return self._browsers.setdefault(who, Browser(self.console))

    def sign_in(self, who: str) -> None:
        """Sign in with the form."""
        browser = self._browsers[who]
        answer = browser.sign_in(Person(who), code="")
        assert (answer.status, answer.headers["location"]) == (303, "/"), (who, answer.status)
        browser.get("/access")  # any page has the form's token, and this one everybody may see

    def client(self, who: str) -> Client:
        """The control socket, for a user; "root": for the operator the tests are."""
        client = self.proxyd.client()
        return client if who == "root" else client.acting_for(who, ADDRESS)

    def told(self, who: str, command: str, /, **arguments: Any) -> dict[str, Any] | None:
        """Ask the control socket; None when it refuses."""
        try:
            return self.client(who).call(command, **arguments)
        except ControlError as error:
            assert error.code in REFUSALS, (who, command, error)
            return None

    def entries(self) -> list[Entry]:
        """What the ledger has got since it was last asked."""
        found = []
        while (line := self._file.readline()).endswith(b"\n"):
            found.append(decoded(line))
        self._file.seek(-len(line), os.SEEK_CUR)  # one that is just being written
        return found
