"""The clients that are programs: OpenSSH, PuTTY's plink family and dropbear's dbclient."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.peers.agent import Agent
from tests.peers.echo import through
from tests.peers.endpoint import HOST, Endpoint
from tests.peers.outcome import RUN_S, Client, Outcome, run
from tests.peers.process import Process, eventually, free_port

Argv = list[str | bytes | Path]
LISTEN_S = 20.0


def listens(port: int) -> bool:
    """Whether a loopback port accepts."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((HOST, port)) == 0


class CommandLine(Client):
    """Everything the three programs share: their -L and -R, stdin, stdout and exit status."""

    program: str
    quiet: Sequence[str] = ()

    @abstractmethod
    def argv(
        self, at: Endpoint, *options: str | Path, command: str | bytes | None = None, terminal: bool = False
    ) -> Argv:
        """The whole command line."""

    def env(self, at: Endpoint) -> dict[str, str]:
        """The program's environment; its HOME is the endpoint's directory."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, "HOME": str(at.directory), "PUTTYDIR": str(at.directory / "putty")}

    def execute(
        self, at: Endpoint, command: str | bytes, stdin: bytes = b"", *, env: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run one command."""
        options = self.send_env(at, env) if env else []
        return run(self.argv(at, *options, command=command), stdin=stdin, env=self.env(at))

    def send_env(self, at: Endpoint, env: Mapping[str, str]) -> list[str]:
        """Options that ask for environment variables."""
        raise NotImplementedError

    def rekeyed(self, at: Endpoint, command: str, stdin: bytes) -> Outcome:
        """Run one command with new keys every megabyte."""
        raise NotImplementedError

    @contextmanager
    def background(self, at: Endpoint, *options: str | Path) -> Iterator[Process]:
        """Keep a connection without a command open."""
        log = at.directory / f"{self.program}.{at.name}.log"
        with Process(self.argv(at, "-N", *options), log=log, env=self.env(at)) as process:
            yield process

    def local_forward(self, at: Endpoint, port: int, payload: bytes) -> bytes:
        """Through -L."""
        here = free_port()
        with self.background(at, "-L", f"{here}:{HOST}:{port}") as process:
            self._await_port(process, here)
            return through(lambda: socket.create_connection((HOST, here), LISTEN_S), payload)

    def remote_forward(self, at: Endpoint, target_port: int, port: int, payload: bytes) -> bytes:
        """Through -R; the target is this machine, so its port is reached directly."""
        with self.background(at, "-R", f"{target_port}:{HOST}:{port}") as process:
            self._await_port(process, target_port)
            return through(lambda: socket.create_connection((HOST, target_port), LISTEN_S), payload)

    def _await_port(self, process: Process, port: int) -> None:
        eventually(
            f"{self.name} forwards {port}", lambda: listens(port) or not process.running, within_s=LISTEN_S
        )
        assert process.running, process.text()

    def with_agent(self, at: Endpoint, agent: Agent, command: str) -> Outcome:
        """-A is the same letter in all three."""
        return run(self.argv(at, "-A", command=command), env={**self.env(at), **agent.env})

    def remote_shell(self, at: Endpoint) -> str:
        """The same program as rsync -e and git want it: one string, host and command left out."""
        raise NotImplementedError

    def rsync(self, at: Endpoint, put: tuple[Path, str], get: tuple[str, Path]) -> Outcome:
        """Copy there and back."""
        first = run(
            ["rsync", "-a", "-e", self.remote_shell(at), put[0], f"peer:{put[1]}"],
            env=self.env(at),
            within_s=RUN_S,
        )
        if first.code:
            return first
        return run(["rsync", "-a", "-e", self.remote_shell(at), f"peer:{get[0]}", get[1]], env=self.env(at))

    def git_clone(self, at: Endpoint, repository: str, directory: Path) -> Outcome:
        """Clone a repository of the target."""
        env = {**self.env(at), "GIT_SSH_COMMAND": self.remote_shell(at), "GIT_SSH_VARIANT": "simple"}
        return run(["git", "clone", "-q", f"peer:{repository}", directory], env=env)


def _wrapper(at: Endpoint, name: str, line: str) -> Path:
    path = at.directory / f"{name}.{at.name}.sh"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


class OpenSSH(CommandLine):
    """ssh, scp, sftp."""

    name = "OpenSSH"
    program = "ssh"

    def argv(
        self, at: Endpoint, *options: str | Path, command: str | bytes | None = None, terminal: bool = False
    ) -> Argv:
        """ssh -F ... peer command."""
        tail: Argv = [] if command is None else [command]
        return ["ssh", "-F", at.config, *(["-tt"] if terminal else []), *options, "peer", *tail]

    def send_env(self, at: Endpoint, env: Mapping[str, str]) -> list[str]:
        """SetEnv takes all variables in one option."""
        return ["-o", "SetEnv=" + " ".join(f"{name}={value}" for name, value in env.items())]

    def rekeyed(self, at: Endpoint, command: str, stdin: bytes) -> Outcome:
        """RekeyLimit."""
        return run(self.argv(at, "-o", "RekeyLimit=1M", command=command), stdin=stdin, env=self.env(at))

    def remote_shell(self, at: Endpoint) -> str:
        """The config file knows `peer`."""
        return f"ssh -F {shlex.quote(str(at.config))}"

    def sftp(self, at: Endpoint, put: tuple[Path, str], get: tuple[str, Path]) -> Outcome:
        """sftp -b."""
        batch = f"put {put[0]} {put[1]}\nget {get[0]} {get[1]}\n".encode()
        return run(["sftp", "-q", "-F", at.config, "-b", "-", "peer"], stdin=batch, env=self.env(at))

    def scp(self, at: Endpoint, source: str, to: str, *, legacy: bool) -> Outcome:
        """scp, over SFTP or (-O) over its own protocol; the remote side is written peer:PATH."""
        return run(["scp", "-q", *(["-O"] if legacy else []), "-F", at.config, source, to], env=self.env(at))

    def dynamic_forward(self, at: Endpoint, port: int, payload: bytes) -> bytes:
        """-D, asked with SOCKS5."""
        return dynamic(self, at, port, payload)

    def multiplexed(self, at: Endpoint, commands: Sequence[str]) -> Outcome:
        """All commands over one ControlMaster connection, at the same time."""
        control = at.directory / f"cm.{at.name}"
        options = ["-o", f"ControlPath={control}"]
        with self.background(at, "-o", "ControlMaster=yes", *options) as master:
            eventually(
                "the master listens", lambda: control.exists() or not master.running, within_s=LISTEN_S
            )
            return together(
                [self.argv(at, "-o", "ControlMaster=no", *options, command=one) for one in commands],
                self.env(at),
            )

    def unix_forwards(
        self, at: Endpoint, target: Path, listen_there: Path, here: Path, payload: bytes
    ) -> Outcome:
        """-L and -R with unix sockets on both ends."""
        way_in = at.directory / f"in.{at.name}"
        options = [
            "-L",
            f"{way_in}:{target}",
            "-R",
            f"{listen_there}:{here}",
            "-o",
            "StreamLocalBindUnlink=yes",
        ]
        with self.background(at, *options) as process:
            ready = lambda: (way_in.exists() and listen_there.exists()) or not process.running  # noqa: E731
            eventually("both unix sockets listen", ready, within_s=LISTEN_S)
            assert process.running, process.text()
            outward = through(lambda: _unix(way_in), payload)
            inward = through(lambda: _unix(listen_there), payload)
        return Outcome(0, outward, inward)

    def x11(self, at: Endpoint, display: str, authority: Path, command: str) -> Outcome:
        """-Y: the forwarded client is trusted, as it is with the other programs."""
        env = {**self.env(at), "DISPLAY": display, "XAUTHORITY": str(authority)}
        return run(self.argv(at, "-Y", command=command), env=env)

    def ansible_ping(self, at: Endpoint) -> Outcome:
        """ansible -m ping with its own default connection plugin."""
        inventory = at.directory / f"inventory.{at.name}"
        inventory.write_text(
            f"peer ansible_host={at.host} ansible_port={at.port} ansible_user={at.user} "
            f"ansible_ssh_private_key_file={at.key.path} ansible_python_interpreter=/usr/bin/python3 "
            f"ansible_ssh_common_args='-F {at.config}'\n"
        )
        env = {
            **self.env(at),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(at.directory / "acp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=1s",  # its default, but for the minute
        }
        env["ANSIBLE_LOCAL_TEMP"] = env["ANSIBLE_REMOTE_TEMP"] = str(at.directory / "ansible")
        return run(["ansible", "-i", inventory, "-m", "ping", "peer"], env=env)


class Plink(CommandLine):
    """plink, psftp, pscp."""

    name = "plink"
    program = "plink"

    def _login(self, at: Endpoint) -> Argv:
        return [
            "-batch",
            "-hostkey",
            at.host_key.fingerprint,
            "-i",
            at.key.ppk,
            "-P",
            str(at.port),
            "-l",
            at.user,
        ]

    def argv(
        self, at: Endpoint, *options: str | Path, command: str | bytes | None = None, terminal: bool = False
    ) -> Argv:
        """plink -ssh ... host command."""
        tail: Argv = [] if command is None else [command]
        pty: Argv = ["-t", "-no-antispoof"] if terminal else ["-T"] if command is not None else []
        return ["plink", "-ssh", *options, *pty, *self._login(at), at.host, *tail]

    def env(self, at: Endpoint) -> dict[str, str]:
        """PuTTY makes its directory only when told to save."""
        (at.directory / "putty" / "sessions").mkdir(parents=True, exist_ok=True)
        return super().env(at)

    def _saved(self, at: Endpoint, name: str, settings: str) -> list[str]:
        self.env(at)
        (at.directory / "putty" / "sessions" / name).write_text(settings)
        return ["-load", name]

    def send_env(self, at: Endpoint, env: Mapping[str, str]) -> list[str]:
        """PuTTY takes variables from a saved session only."""
        return self._saved(
            at, "env", "Environment=" + ",".join(f"{name}={value}" for name, value in env.items()) + "\n"
        )

    def rekeyed(self, at: Endpoint, command: str, stdin: bytes) -> Outcome:
        """So it does with the rekey limit."""
        load = self._saved(at, "rekey", "RekeyBytes=1M\n")
        return run(self.argv(at, *load, command=command), stdin=stdin, env=self.env(at))

    def remote_shell(self, at: Endpoint) -> str:
        """Rsync and git put a host name first; plink's is given here, so a wrapper drops theirs."""
        login = shlex.join(str(part) for part in self._login(at))
        return str(_wrapper(at, "plink", f'shift; exec plink -ssh {login} {at.host} "$@"'))

    def sftp(self, at: Endpoint, put: tuple[Path, str], get: tuple[str, Path]) -> Outcome:
        """psftp -b."""
        batch = at.directory / f"psftp.{at.name}"
        batch.write_text(f"put {put[0]} {put[1]}\nget {get[0]} {get[1]}\n")
        return run(["psftp", *self._login(at), "-b", batch, at.host], env=self.env(at))

    def scp(self, at: Endpoint, source: str, to: str, *, legacy: bool) -> Outcome:
        """pscp; its -scp is OpenSSH's -O."""
        source, to = (part.replace("peer:", f"{at.host}:") for part in (source, to))
        done = run(
            ["pscp", "-q", "-scp" if legacy else "-sftp", *self._login(at), source, to], env=self.env(at)
        )
        return Outcome(done.code, b"", done.err)

    def dynamic_forward(self, at: Endpoint, port: int, payload: bytes) -> bytes:
        """-D, asked with SOCKS5."""
        return dynamic(self, at, port, payload)

    def multiplexed(self, at: Endpoint, commands: Sequence[str]) -> Outcome:
        """All commands over one shared connection (-share), at the same time."""
        with self.background(at, "-share") as upstream:
            exists = ["plink", "-ssh", "-shareexists", "-P", str(at.port), "-l", at.user, at.host]
            ready = lambda: not upstream.running or run(exists, env=self.env(at)).code == 0  # noqa: E731
            eventually("plink's connection is shared", ready, within_s=LISTEN_S)
            assert upstream.running, upstream.text()
            return together([self.argv(at, "-share", "-T", command=one) for one in commands], self.env(at))

    def x11(self, at: Endpoint, display: str, authority: Path, command: str) -> Outcome:
        """-X."""
        env = {**self.env(at), "DISPLAY": display, "XAUTHORITY": str(authority)}
        return run(self.argv(at, "-X", "-T", command=command), env=env)


class Dbclient(CommandLine):
    """Dropbear's client, with OpenSSH's sftp and scp or rsync and git in front of it."""

    name = "dbclient"
    program = "dbclient"

    def _login(self, at: Endpoint) -> Argv:
        return ["-y", "-y", "-i", at.key.dropbear, "-p", str(at.port), "-l", at.user]

    def argv(
        self, at: Endpoint, *options: str | Path, command: str | bytes | None = None, terminal: bool = False
    ) -> Argv:
        """dbclient ... host command."""
        tail: Argv = [] if command is None else [command]
        return ["dbclient", *(["-t"] if terminal else []), *self._login(at), *options, at.host, *tail]

    def with_agent(self, at: Endpoint, agent: Agent, command: str) -> Outcome:
        """Without the line dbclient prints when the session's close comes before the agent channel's, as it may directly."""
        done = super().with_agent(at, agent, command)
        return replace(done, err=done.err.replace(b"dbclient: Waiting for other channels to close...\n", b""))

    def remote_shell(self, at: Endpoint) -> str:
        """A wrapper that drops the options and the host of whoever calls it, and keeps -s (subsystem)."""
        login = shlex.join(str(part) for part in self._login(at))
        line = f"""s=
while :; do case $1 in -s) s=-s; shift;; -l|-o|-p) shift 2;; --) shift; break;; -*) shift;; *) break;; esac; done
shift
exec dbclient {login} $s {at.host} "$@" """
        return str(_wrapper(at, "dbclient", line))

    def sftp(self, at: Endpoint, put: tuple[Path, str], get: tuple[str, Path]) -> Outcome:
        """OpenSSH's sftp on dbclient's subsystem channel."""
        batch = f"put {put[0]} {put[1]}\nget {get[0]} {get[1]}\n".encode()
        return run(
            ["sftp", "-q", "-S", self.remote_shell(at), "-b", "-", "peer"], stdin=batch, env=self.env(at)
        )

    def scp(self, at: Endpoint, source: str, to: str, *, legacy: bool) -> Outcome:
        """OpenSSH's scp on dbclient."""
        return run(
            ["scp", "-q", *(["-O"] if legacy else []), "-S", self.remote_shell(at), source, to],
            env=self.env(at),
        )


def dynamic(client: CommandLine, at: Endpoint, port: int, payload: bytes) -> bytes:
    """Send `payload` to the target's `port` through the client's SOCKS5 listener."""
    here = free_port()
    with client.background(at, "-D", f"{HOST}:{here}" if client.program == "ssh" else str(here)) as process:
        client._await_port(process, here)
        return through(lambda: socks5(here, port), payload)


def socks5(proxy: int, port: int) -> socket.socket:
    """Connect to a loopback port through a SOCKS5 proxy (RFC 1928)."""
    link = socket.create_connection((HOST, proxy), LISTEN_S)
    link.settimeout(LISTEN_S)
    link.sendall(b"\5\1\0")
    assert link.recv(2) == b"\5\0"
    link.sendall(b"\5\1\0\1" + socket.inet_aton(HOST) + port.to_bytes(2, "big"))
    answer = b""
    while len(answer) < 10:  # version, reply, reserved, type, address, port
        part = link.recv(10 - len(answer))
        assert part, answer
        answer += part
    assert answer[1] == 0, answer
    return link


def together(command_lines: Sequence[Argv], env: Mapping[str, str]) -> Outcome:
    """Run several clients at the same time; their outputs one after the other, their worst exit status."""
    started = [
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        for argv in command_lines
    ]
    ended = [one.communicate(timeout=RUN_S) for one in started]
    return Outcome(
        max(one.returncode for one in started),
        b"".join(out for out, _ in ended),
        b"".join(err for _, err in ended),
        {"codes": [one.returncode for one in started]},
    )


def _unix(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(path))
    return link
