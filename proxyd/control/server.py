"""The control socket's server: who connects, one request after the other, one firewall for each connection.

Rule 1: the kernel names the peer; someone who is no operator is answered one sentence and never read.
Rule 2: a connection holds at most one frame of input; half a frame has a deadline, silence another.
Rule 3: whatever a peer sends ends in a typed error for it, a count, and nothing for the others.
Rule 4: a stream ends at once when its client goes; one that takes nothing for STALL_SECONDS is cut. Only its
        own task ever waits for it.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import socket
import stat
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import trio

from proxyd import log, metrics
from proxyd.control.client import READ_BYTES, REQUEST_LIMIT, Code, ControlError, Frames, pack_frame
from proxyd.control.commands import COMMANDS, Answer, Command, Services, Streaming
from proxyd.control.permissions import Caller, acting_for, identify, peer_of
from proxyd.errors import ConfigError, FormatError, ProxydError
from proxyd.governance.rules import Forbidden
from proxyd.recorder.catalog import NotFound
from proxyd.recorder.reviews import NoRequest

CONNECTIONS = 64  # operators, consoles and scripts of one node; each costs a task and at most a frame
SOCKET_MODE = 0o660  # the daemon's user and group; who of them may do what, the operators say
BACKLOG = 64
FRAME_SECONDS = 10.0  # for the rest of a frame that has begun, and for the first one of a connection
IDLE_SECONDS = 300.0  # between two requests of one connection
ANSWER_SECONDS = 30.0  # for one command; the longest, a drop of a stuck session, takes 2 s and a seal
STALL_SECONDS = 60.0  # without any progress a viewer is gone, or stopped
PIECE_BYTES = 1 << 16  # what counts as progress of a slow viewer
REFUSAL_SECONDS = 5.0  # for a last sentence to someone we are done with
NAME_SHOWN = 64  # characters of a command's name in the log: it may be garbage
REQUEST_QUEUE = 16  # requests sent ahead of their answers; a client waits for each, a flood does not

_log = log.get("control")


class ControlServer:
    """Serves COMMANDS at one unix socket."""

    def __init__(self, services: Services, *, connections: int = CONNECTIONS) -> None:
        self._services = services
        self._limit = connections
        self._open = 0

    async def serve(self, *, task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen at the config's socket and serve until cancelled; gives the path once it accepts.

        Raises ConfigError when it can't listen there, or another daemon does.
        """
        path: Path = self._services.config.control.socket
        listening, inode = _bind(path)
        listener = trio.SocketListener(listening)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._connection, [listener])
                task_status.started(path)
        finally:
            _unbind(path, inode)

    async def _connection(self, stream: trio.SocketStream) -> None:
        """Serve one connection; the firewall around it. Never raises."""
        self._open += 1
        peer = _Peer(stream)
        try:
            async with stream:
                await self._serve_peer(peer)
        except trio.TooSlowError:
            _refused(Code.TIMEOUT, text=f"took nothing for {STALL_SECONDS:g} s")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone; that is its right
        except Exception:  # noqa: BLE001  a fault here must not end sessions
            _log.exception("fault in a control connection")
        finally:
            self._open -= 1

    async def _serve_peer(self, peer: _Peer) -> None:
        try:
            self._refuse_crowd()
            config = self._services.config
            caller = await self._identify(peer)
            while (message := await peer.receive()) is not None:
                if config is not self._services.config:  # a reload: others may be operators now
                    config = self._services.config
                    caller = await self._identify(peer)
                await self._answer(peer, caller, message)
        except (ControlError, FormatError) as error:
            refusal = _as_refusal(error)
            _refused(refusal.code, text=str(refusal))
            with trio.move_on_after(REFUSAL_SECONDS):
                await peer.send(_error_frame(refusal))

    def _refuse_crowd(self) -> None:
        if self._open > self._limit:
            raise ControlError(Code.BUSY, f"more than {self._limit} control connections; try again later")

    async def _identify(self, peer: _Peer) -> Caller:
        config = self._services.config
        uid, groups = peer_of(peer.stream.socket)
        return await trio.to_thread.run_sync(identify, config, uid, groups)

    async def _answer(self, peer: _Peer, caller: Caller, message: dict[str, Any]) -> None:
        """Do one request. What the command raises is its answer; the connection goes on after it."""
        number = message.get("id")
        request_id = number if isinstance(number, int) else None
        name = str(message.get("command"))[:NAME_SHOWN]
        try:
            request = request_of(message)
            if request.acting_for:
                caller = acting_for(self._services.config, caller, request.acting_for, request.address)
            command, arguments = command_of(request, caller)
            if command.stream is not None:
                await self._stream(peer, request.id, command.stream, caller, arguments)
            elif command.answer is not None:
                answer = await self._call(command.answer, caller, arguments)
                await peer.send({"id": request.id, "ok": answer})
        except _ViolationError:
            raise
        except ProxydError as error:
            refusal = _as_refusal(error)
            _refused(refusal.code, who=caller.name, command=name, text=str(refusal))
            await peer.send(_error_frame(refusal, request_id))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise
        except Exception:  # noqa: BLE001  a fault of one command: its asker is told, the others never know
            _log.exception("fault in a control command", command=name)
            fault = ControlError(Code.INTERNAL, "the daemon met a fault of its own; its log says which")
            await peer.send(_error_frame(fault, request_id))

    async def _call(self, answer: Answer, caller: Caller, arguments: Any) -> dict[str, Any]:
        with trio.move_on_after(ANSWER_SECONDS):
            return await answer(self._services, caller, arguments)
        raise ControlError(Code.TIMEOUT, f"not done within {ANSWER_SECONDS:g} s; it may still happen")

    async def _stream(
        self, peer: _Peer, request_id: int, stream: Streaming, caller: Caller, arguments: Any
    ) -> None:
        """Run a streaming command until it ends or its client goes, or sends where it must not."""

        async def send(frame: dict[str, Any]) -> None:
            await peer.send({"stream": request_id, **frame})

        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.until_heard, nursery.cancel_scope)
            try:
                await stream(self._services, caller, arguments, send)
            except (ProxydError, trio.BrokenResourceError, trio.TooSlowError) as error:
                failure = error  # raised outside, where no nursery wraps it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if peer.interrupted:
            raise _ViolationError(
                "bytes came while a stream was running: other commands take another connection"
            )
        await send({"end": {}})  # only now may the client ask again on this connection


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a frame from a client holds; `as` and `address`: the user it is for and where they are, as a console says."""

    id: int
    command: str
    arguments: dict[str, Any] = {}
    acting_for: str = msgspec.field(name="as", default="")
    address: str = ""


def request_of(message: dict[str, Any]) -> Request:
    """Read a frame as a request. Raises ControlError naming what is wrong with it."""
    try:
        return msgspec.convert(message, Request)
    except msgspec.ValidationError as error:
        raise ControlError(Code.FORMAT, f"not a request: {_plainly(error)}") from None


def command_of(request: Request, caller: Caller) -> tuple[Command, msgspec.Struct]:
    """Find the command asked for and read its arguments; raises ControlError, also when `caller` may not."""
    command = COMMANDS.get(request.command)
    if command is None:
        near = difflib.get_close_matches(request.command, COMMANDS, 1)
        hint = f": did you mean {near[0]}?" if near else f": there are {', '.join(COMMANDS)}"
        raise ControlError(Code.USAGE, f"unknown command {request.command[:NAME_SHOWN]!r}{hint}")
    caller.require(command.permission)
    try:
        return command, msgspec.convert(request.arguments, command.arguments)
    except msgspec.ValidationError as error:
        raise ControlError(Code.USAGE, f"{request.command}: {_plainly(error)}") from None


def _plainly(error: msgspec.ValidationError) -> str:
    """Say msgspec's sentence in the words of the command line."""
    text = str(error).replace("Object contains unknown field", "unknown argument")
    text = text.replace("Object missing required field", "missing argument")
    return re.sub(r" - at `\$\.(.*)`$", r" (argument `\1`)", text)


class _ViolationError(FormatError):
    """The peer broke the rules of the socket in a way that ends the connection."""


class _Peer:
    """One connection: frames in, frames out, deadlines on both."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.interrupted = False
        self._frames = Frames(REQUEST_LIMIT)
        self._queue: deque[dict[str, Any]] = deque()
        self._idle_seconds = FRAME_SECONDS  # until it has said something at all

    async def receive(self) -> dict[str, Any] | None:
        """Wait for the next request; None when the peer has no more, or was silent for too long.

        Raises FormatError for what is no frame, ControlError when a frame takes too long.
        """
        deadline = trio.current_time() + self._idle_seconds
        while not self._queue:
            began = self._frames.partial
            with trio.CancelScope(deadline=deadline) as scope:
                data = await self._read()
            if scope.cancelled_caught and not (self._frames.partial or self._idle_seconds == FRAME_SECONDS):
                return None
            if scope.cancelled_caught:
                raise ControlError(Code.TIMEOUT, f"no whole request within {FRAME_SECONDS:g} s")
            if not data and self._frames.partial:
                raise FormatError("the connection ended inside a frame")
            if not data:
                return None
            self._queue.extend(self._frames.feed(data))
            if len(self._queue) > REQUEST_QUEUE:
                raise FormatError(f"more than {REQUEST_QUEUE} requests without waiting for an answer")
            if self._frames.partial and not began:
                deadline = min(deadline, trio.current_time() + FRAME_SECONDS)
        self._idle_seconds = IDLE_SECONDS
        return self._queue.popleft()

    async def until_heard(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the peer closes, or sends anything."""
        self.interrupted = bool(self._queue) or bool(await self._read())
        scope.cancel()

    async def send(self, frame: dict[str, Any]) -> None:
        """Send one frame, however large. Raises TooSlowError after STALL_SECONDS without progress."""
        data = memoryview(pack_frame(frame))
        for start in range(0, len(data), PIECE_BYTES):
            with trio.fail_after(STALL_SECONDS):
                await self.stream.send_all(data[start : start + PIECE_BYTES])

    async def _read(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(READ_BYTES))
        except trio.BrokenResourceError:  # it was reset, or closed with our answer unread
            return b""


def _error_frame(error: ControlError, request_id: int | None = None) -> dict[str, Any]:
    return {"id": request_id, "error": {"code": str(error.code), "message": str(error)}}


def _as_refusal(error: ProxydError) -> ControlError:
    """Give any of our errors the code its client acts on."""
    if isinstance(error, ControlError):
        return error
    if isinstance(error, NotFound):
        return ControlError(Code.NOT_FOUND, f"{error}; see: proxyctl sessions")
    if isinstance(error, Forbidden):
        return ControlError(Code.DENIED, str(error))
    if isinstance(error, NoRequest):
        return ControlError(Code.NOT_FOUND, str(error))
    return ControlError(Code.FORMAT if isinstance(error, FormatError) else Code.REFUSED, str(error))


def _refused(code: Code, **what: str) -> None:
    metrics.CONTROL_REFUSED.labels(reason=str(code)).inc()
    _log.info("control refused", why=str(code), **what)  # "code" is a field that is redacted


def _bind(path: Path) -> tuple[trio.socket.SocketType, int]:
    """Listen at `path`, replacing the socket a dead daemon left; atomically, with its mode set before.

    Gives the inode too, for `_unbind`.
    """
    fresh = path.with_name(path.name + ".new")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        _refuse_taken(path)
        fresh.unlink(missing_ok=True)
        listening.bind(str(fresh))
        fresh.chmod(SOCKET_MODE)
        listening.listen(BACKLOG)
        inode = fresh.lstat().st_ino
        fresh.rename(path)
        return trio.socket.from_stdlib_socket(listening), inode
    except OSError as error:
        listening.close()
        raise ConfigError(f"can't listen at {path}: {error.strerror or error}") from None
    except ConfigError:
        listening.close()
        raise


def _unbind(path: Path, inode: int) -> None:
    """Take our socket away, unless a daemon that took over has put its own there."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()


def _refuse_taken(path: Path) -> None:
    """Raise ConfigError when something else than a dead socket is at `path`."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"can't listen at {path}: something else is there, and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)  # a living daemon's kernel answers at once
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
    raise ConfigError(f"can't listen at {path}: another daemon does")
