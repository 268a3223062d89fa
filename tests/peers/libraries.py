"""The clients that are libraries: paramiko and asyncssh, driven in this process."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
from paramiko.agent import AgentRequestHandler

from tests.peers.agent import Agent
from tests.peers.commandline import listens, socks5
from tests.peers.echo import CHUNK, through
from tests.peers.endpoint import HOST, Endpoint
from tests.peers.outcome import RUN_S, Client, Outcome
from tests.peers.process import eventually

REKEY_BYTES = 1 << 20


class Paramiko(Client):
    """paramiko.Transport and SFTPClient."""

    name = "paramiko"

    @contextmanager
    def transport(self, at: Endpoint) -> Iterator[paramiko.Transport]:
        """A logged-in connection; the host key is compared."""
        link = paramiko.Transport(socket.create_connection((at.host, at.port), 20))
        try:
            link.start_client(timeout=20)
            assert link.get_remote_server_key().get_base64() == at.host_key.line.split()[1]
            link.auth_publickey(at.user, paramiko.Ed25519Key.from_private_key_file(str(at.key.path)))
            yield link
        finally:
            link.close()
            link.join(10)

    def execute(
        self, at: Endpoint, command: str | bytes, stdin: bytes = b"", *, env: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run one command."""
        with self.transport(at) as link:
            return self.session(link, command, stdin, env=env)

    def session(
        self,
        link: paramiko.Transport,
        command: str | bytes,
        stdin: bytes = b"",
        *,
        env: Mapping[str, str] | None = None,
        before: Callable[[paramiko.Channel], object] | None = None,
    ) -> Outcome:
        """Run one command on a channel of `link`."""
        channel = link.open_session(timeout=20)
        channel.settimeout(RUN_S)
        if env:
            channel.update_environment(dict(env))
        if before:
            before(channel)
        channel.exec_command(command)  # type: ignore[arg-type]  # bytes are sent as they are
        sender = threading.Thread(target=self._send, args=(channel, stdin), daemon=True)
        sender.start()
        out, err = bytearray(), bytearray()
        errors = threading.Thread(target=self._drain, args=(channel.recv_stderr, err), daemon=True)
        errors.start()
        self._drain(channel.recv, out)
        errors.join(RUN_S)
        code = channel.recv_exit_status()
        sender.join(RUN_S)
        channel.close()
        return Outcome(code, bytes(out), bytes(err))

    @staticmethod
    def _send(channel: paramiko.Channel, stdin: bytes) -> None:
        with suppress(OSError):
            channel.sendall(stdin)
            channel.shutdown_write()

    @staticmethod
    def _drain(read: Callable[[int], bytes], into: bytearray) -> None:
        while data := read(CHUNK):
            into += data

    def rekeyed(self, at: Endpoint, command: str, stdin: bytes) -> Outcome:
        """The packetizer asks for new keys after REKEY_BYTES."""
        with self.transport(at) as link:
            link.packetizer.REKEY_BYTES = REKEY_BYTES
            return self.session(link, command, stdin)

    def terminal(self, at: Endpoint, command: str, dialogue: Callable[[paramiko.Channel], bytes]) -> Outcome:
        """Run one command on a pty of 31 rows x 97 columns; `dialogue` talks to it and gives what it saw."""
        with self.transport(at) as link:
            channel = link.open_session(timeout=20)
            channel.settimeout(20)
            channel.get_pty("xterm-256color", 97, 31)
            channel.exec_command(command)
            seen = dialogue(channel)
            code = channel.recv_exit_status()
            channel.close()
        return Outcome(code, seen)

    def sftp(self, at: Endpoint, put: tuple[Path, str], get: tuple[str, Path]) -> Outcome:
        """Put and get."""
        with self.transport(at) as link:
            files = paramiko.SFTPClient.from_transport(link)
            assert files
            files.put(str(put[0]), put[1])
            files.get(get[0], str(get[1]))
            files.close()
        return Outcome(0)

    def local_forward(self, at: Endpoint, port: int, payload: bytes) -> bytes:
        """A direct-tcpip channel."""
        with self.transport(at) as link:
            channel = link.open_channel("direct-tcpip", (HOST, port), (HOST, 40000), timeout=20)
            return through(lambda: channel, payload)  # type: ignore[arg-type,return-value]

    def remote_forward(self, at: Endpoint, target_port: int, port: int, payload: bytes) -> bytes:
        """A tcpip-forward request; every forwarded channel is joined to our port."""
        with self.transport(at) as link:
            link.request_port_forward(HOST, target_port, lambda channel, *_: _join(channel, port))
            return through(lambda: socket.create_connection((HOST, target_port), 20), payload)

    def with_agent(self, at: Endpoint, agent: Agent, command: str) -> Outcome:
        """paramiko's handler finds the agent in this process's environment."""
        before = os.environ.get("SSH_AUTH_SOCK")
        os.environ.update(agent.env)
        try:
            with self.transport(at) as link:
                return self.session(link, command, before=AgentRequestHandler)
        finally:
            del os.environ["SSH_AUTH_SOCK"]
            if before is not None:
                os.environ["SSH_AUTH_SOCK"] = before

    def multiplexed(self, at: Endpoint, commands: Sequence[str]) -> Outcome:
        """Sessions on one transport, at the same time."""
        with self.transport(at) as link:
            return _threaded([lambda one=one: self.session(link, one) for one in commands])

    def x11(self, at: Endpoint, display: int, cookie: str, command: str) -> Outcome:
        """x11-req with the real cookie; paramiko substitutes none."""
        with self.transport(at) as link:
            ask = lambda channel: channel.request_x11(  # noqa: E731
                auth_protocol="MIT-MAGIC-COOKIE-1",
                auth_cookie=cookie,
                handler=lambda opened, _: _join(opened, 6000 + display),
            )
            return self.session(link, command, before=ask)


def _join(channel: paramiko.Channel, port: int) -> None:
    """Join a channel to a loopback port in a thread of its own: paramiko's transport thread must not wait."""

    def pump() -> None:
        with suppress(OSError), socket.create_connection((HOST, port), 20) as link:
            back = threading.Thread(
                target=_copy, args=(link.recv, channel.sendall, channel.shutdown_write), daemon=True
            )
            back.start()
            _copy(channel.recv, link.sendall, lambda: link.shutdown(socket.SHUT_WR))
            back.join(RUN_S)
            channel.close()

    threading.Thread(target=pump, daemon=True).start()


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], object], end: Callable[[], object]) -> None:
    with suppress(OSError):
        while data := read(CHUNK):
            write(data)
        end()


def _threaded(calls: Sequence[Callable[[], Outcome]]) -> Outcome:
    results: list[Outcome | None] = [None] * len(calls)

    def one(index: int) -> None:
        results[index] = calls[index]()

    threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(RUN_S)
    done = [result for result in results if result is not None]
    assert len(done) == len(calls)
    return Outcome(
        max(result.code or 0 for result in done),
        b"".join(result.out for result in done),
        b"".join(result.err for result in done),
        {"codes": [result.code for result in done]},
    )


class Asyncssh(Client):
    """asyncssh.connect and what hangs on it."""

    name = "asyncssh"

    @asynccontextmanager
    async def connection(self, at: Endpoint, **options: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """A logged-in connection; the host key is compared."""
        settings: dict[str, Any] = {
            "username": at.user,
            "client_keys": [str(at.key.path)],
            "known_hosts": str(at.known_hosts),
            "config": [],
            "agent_path": None,
            "login_timeout": 60,
            **options,
        }
        async with asyncssh.connect(at.host, at.port, **settings) as link:
            yield link
        await link.wait_closed()

    def _run(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(RUN_S):
                return await work

        return asyncio.run(bounded())

    @staticmethod
    def _outcome(done: asyncssh.SSHCompletedProcess) -> Outcome:
        signal = done.exit_signal[0] if done.exit_signal else None
        return Outcome(
            done.exit_status, bytes(done.stdout or b""), bytes(done.stderr or b""), {"signal": signal}
        )  # type: ignore[arg-type]

    def execute(
        self, at: Endpoint, command: str | bytes, stdin: bytes = b"", *, env: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run one command."""
        assert isinstance(command, str)

        async def work() -> Outcome:
            async with self.connection(at) as link:
                return self._outcome(await link.run(command, input=stdin, encoding=None, env=dict(env or {})))

        return self._run(work())

    def rekeyed(self, at: Endpoint, command: str, stdin: bytes) -> Outcome:
        """rekey_bytes."""

        async def work() -> Outcome:
            async with self.connection(at, rekey_bytes=REKEY_BYTES) as link:
                return self._outcome(await link.run(command, input=stdin, encoding=None))

        return self._run(work())

    def signalled(self, at: Endpoint, command: str, ready: bytes, send: Callable[[Any], None]) -> Outcome:
        """Call `send` with the process once the command says `ready`."""

        async def work() -> Outcome:
            async with self.connection(at) as link:
                process = await link.create_process(command, encoding=None)
                seen = await process.stdout.readuntil(ready)
                send(process)
                done = self._outcome(await process.wait())
            return Outcome(done.code, seen + done.out, done.err, done.more)

        return self._run(work())

    def terminal(self, at: Endpoint, command: str, first: bytes, then: Callable[[Any], None]) -> Outcome:
        """Run one command on a pty of 31 x 97; call `then` with the process once `first` was shown."""

        async def work() -> Outcome:
            async with self.connection(at) as link:
                process = await link.create_process(
                    command, encoding=None, term_type="xterm-256color", term_size=(97, 31)
                )
                seen = await process.stdout.readuntil(first)
                then(process)
                done = self._outcome(await process.wait())
            return Outcome(done.code, seen + done.out, done.err)

        return self._run(work())

    def sftp(self, at: Endpoint, put: tuple[Path, str], get: tuple[str, Path]) -> Outcome:
        """Put and get."""

        async def work() -> Outcome:
            async with self.connection(at) as link, link.start_sftp_client() as files:
                await files.put(str(put[0]), put[1])
                await files.get(get[0], str(get[1]))
            return Outcome(0)

        return self._run(work())

    def scp(self, at: Endpoint, source: str, to: str, *, legacy: bool) -> Outcome:
        """asyncssh.scp speaks the old protocol only."""
        assert legacy

        async def work() -> Outcome:
            async with self.connection(at) as link:
                ends = [
                    (link, part.removeprefix("peer:")) if part.startswith("peer:") else part
                    for part in (source, to)
                ]
                await asyncssh.scp(ends[0], ends[1])
            return Outcome(0)

        return self._run(work())

    def _forwarded(
        self,
        at: Endpoint,
        listen: Callable[[Any], Any],
        connect: Callable[[int], socket.socket],
        payload: bytes,
    ) -> bytes:
        async def work() -> bytes:
            async with self.connection(at) as link:
                listener = await listen(link)
                got = await asyncio.to_thread(through, lambda: connect(listener.get_port()), payload)
                listener.close()
                await listener.wait_closed()
                return got

        return self._run(work())

    def local_forward(self, at: Endpoint, port: int, payload: bytes) -> bytes:
        """forward_local_port."""
        return self._forwarded(at, lambda link: link.forward_local_port(HOST, 0, HOST, port), _tcp, payload)

    def remote_forward(self, at: Endpoint, target_port: int, port: int, payload: bytes) -> bytes:
        """forward_remote_port."""
        return self._forwarded(
            at,
            lambda link: link.forward_remote_port(HOST, target_port, HOST, port),
            lambda _: _tcp(target_port),
            payload,
        )

    def dynamic_forward(self, at: Endpoint, port: int, payload: bytes) -> bytes:
        """forward_socks."""
        return self._forwarded(
            at, lambda link: link.forward_socks(HOST, 0), lambda here: socks5(here, port), payload
        )

    def unix_forwards(
        self, at: Endpoint, target: Path, listen_there: Path, here: Path, payload: bytes
    ) -> Outcome:
        """forward_local_path and forward_remote_path."""
        way_in = at.directory / f"in.{at.name}.asyncssh"

        async def work() -> Outcome:
            async with self.connection(at) as link:
                first = await link.forward_local_path(str(way_in), str(target))
                second = await link.forward_remote_path(str(listen_there), str(here))
                outward = await asyncio.to_thread(through, lambda: _unix(way_in), payload)
                inward = await asyncio.to_thread(through, lambda: _unix(listen_there), payload)
                for listener in (first, second):
                    listener.close()
                    await listener.wait_closed()
            return Outcome(0, outward, inward)

        return self._run(work())

    def with_agent(self, at: Endpoint, agent: Agent, command: str) -> Outcome:
        """agent_forwarding."""

        async def work() -> Outcome:
            async with self.connection(at, agent_path=str(agent.socket), agent_forwarding=True) as link:
                return self._outcome(await link.run(command, encoding=None))

        return self._run(work())

    def multiplexed(self, at: Endpoint, commands: Sequence[str]) -> Outcome:
        """Sessions on one connection, at the same time."""

        async def work() -> Outcome:
            async with self.connection(at) as link:
                done = await asyncio.gather(*(link.run(one, encoding=None) for one in commands))
            results = [self._outcome(one) for one in done]
            codes = [one.code or 0 for one in results]
            return Outcome(max(codes), b"".join(one.out for one in results), b"", {"codes": codes})

        return self._run(work())

    def x11(self, at: Endpoint, display: str, authority: Path, command: str) -> Outcome:
        """x11_forwarding."""

        async def work() -> Outcome:
            async with self.connection(at) as link:
                return self._outcome(
                    await link.run(
                        command,
                        encoding=None,
                        x11_forwarding=True,
                        x11_display=display,
                        x11_auth_path=str(authority),
                    )
                )

        return self._run(work())


def _tcp(port: int) -> socket.socket:
    eventually(f"port {port} accepts", lambda: listens(port))
    return socket.create_connection((HOST, port), 20)


def _unix(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(path))
    return link


def readable(link: Any, within_s: float) -> bool:
    """Whether a socket or channel has something to read within `within_s` seconds."""
    return bool(select.select([link], [], [], within_s)[0])
