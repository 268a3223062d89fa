"""A target, a proxyd before it and a user: what almost every test here begins with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers import Endpoint, Key, Proxyd, Sshd
from tests.peers.clients import OpenSSH
from tests.peers.daemon import TARGET, USER

Popen = subprocess.Popen[bytes]
DIRECT_ONLY = os.environ.get("PEERS_DIRECT") == "1"


@dataclass
class Lab:
    """A target, a proxyd before it, and a user who may do everything there."""

    directory: Path
    sshd: Sshd
    key: Key
    proxyd: Proxyd

    def proxied(self, directory: Path, **wanted: Any) -> Endpoint:
        """The way in through proxyd; `user`, `target`, `login`, `key` may be given."""
        return self.proxyd.endpoint(wanted.pop("key", self.key), directory, **wanted)

    def direct(self, directory: Path) -> Endpoint:
        """The way in without it."""
        return self.sshd.endpoint(directory)

    def ways(self, directory: Path) -> list[Endpoint]:
        """Direct first, then proxied."""
        return [self.direct(directory)] if DIRECT_ONLY else [self.direct(directory), self.proxied(directory)]


RUNNING: list[Lab] = []  # what a failed test shows the logs of


def make_lab(directory: Path, *, banner: str = "") -> Lab:
    """Make, but do not start, a lab."""
    directory.mkdir(parents=True, exist_ok=True)
    sshd = Sshd(directory / "target", banner=banner)
    key = Key.generate(directory / "alice")
    proxyd = None if DIRECT_ONLY else Proxyd(directory / "front")
    made = Lab(directory, sshd, key, proxyd)  # type: ignore[arg-type]
    if proxyd is not None:
        RUNNING.append(made)
    return made


def furnish(lab: Lab, *, port: int = 0, **target: Any) -> None:
    """Put the usual user, target and grant into the configuration; `port`: of a tap before the target."""
    lab.proxyd.user(USER, keys=[lab.key.line])
    lab.proxyd.target(TARGET, lab.sshd, port=port, **target)
    lab.proxyd.grant()


@contextmanager
def ssh(at: Endpoint, command: str, **streams: Any) -> Iterator[Popen]:
    """An OpenSSH client running `command`, killed when the block is left, however it is left."""
    argv = OpenSSH().argv(at, command=command)
    client = subprocess.Popen(argv, env=OpenSSH().env(at), **{"stdin": subprocess.DEVNULL, **streams})
    try:
        yield client
    finally:
        client.kill()
        client.wait(10)
        for stream in (client.stdin, client.stdout, client.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@contextmanager
def held(lab: Lab, directory: Path, command: str = "exec sleep 1000") -> Iterator[tuple[Popen, str]]:
    """An exec session known to be up: the client's process and the session's id; both gone afterwards."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with ssh(lab.proxied(directory), f"echo up; {command}", **pipes) as client:
        assert client.stdout
        assert client.stdout.readline() == b"up\n"
        session = lab.proxyd.the_live_session()["id"]
        yield client, session
    lab.proxyd.ended(session)
