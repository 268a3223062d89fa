"""One channel through the proxy, from the client to the target: its two halves, and how it is recorded.

Rule 1: client input passes the gate, goes on the tape, and only then to the target; target output goes on the tape,
        and only then to the client.
Rule 2: a terminal or a command is recorded byte for byte; a file transfer as events; a forward as its ends and sizes.
Rule 3: a transfer or a forward that lost bytes at a closed gate is closed when the gate opens: half a stream is a lie.
Rule 4: a channel runs one thing, as RFC 4254, 6.5 has it: what is recorded of it is judged once, by what it runs.
Rule 5: where rules apply, a command waits for them, and so does each Enter in a terminal; elsewhere none of it runs.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncssh.constants import EXTENDED_DATA_STDERR

from proxyd.config_values import DESKTOP_CHANNELS
from proxyd.gate import REVOKED
from proxyd.protocols.ssh import transfers
from proxyd.protocols.ssh.channel import RelayChannel, settled
from proxyd.protocols.ssh.ruled import Ruled
from proxyd.protocols.ssh.wire import (
    WireError,
    describe_open,
    describe_request,
    pty_request,
    window_change,
)
from proxyd.recorder.record import Kind

if TYPE_CHECKING:
    from proxyd.protocols.ssh.relay import Relay

UNREAD_NOTICES = 64 * 1024
"""Bytes a client may leave unread on a channel before it is told nothing more there: each refused request tells."""

RESIZE_BYTES = 16  # RFC 4254, 6.7: a longer one would carry a message past a closed gate

ONE_THING = "This channel runs a command already."
NOT_A_SESSION = "Only a session takes requests."
MALFORMED = "The request is malformed."
NO_TERMINAL = "Your certificate does not allow a terminal."
NEEDS_TERMINAL = "The rules for this target need a terminal to read your commands: ask for one with ssh -t."
TRANSFERS_ONLY = "Your grant allows file transfers only, and this is none."

_STARTERS = {"shell": "shell", "exec": "exec", "subsystem": "exec"}
_NEEDS = {"x11-req": "x11", "auth-agent-req@openssh.com": "agent"}
_KEEPALIVE = "keepalive@openssh.com"
_LOST_CODE = 255  # what ssh itself exits with when the connection failed


class Line:
    """A channel of a session, `number` on its tape."""

    def __init__(self, relay: Relay, number: int, kind: str) -> None:
        self.relay = relay
        self.number = number
        self.kind = kind
        self.tape = relay.session.tape
        self.gate = relay.session.gate
        self.near: RelayChannel
        self.far: RelayChannel | None = None
        self.pty = False
        self.passed_bytes = 0
        self.output_bytes = 0
        self._cut_bytes = 0
        self._eof_held = False
        self._runs = False
        self._transfers_only = False
        self._turned_away = ""
        self._ruled = Ruled(self)
        self._closed = 0
        self._status: int | None = None
        self._watch: transfers.Watch | None = None
        self._sniffed = {True: b"", False: b""}
        self._record_input = self._terminal_input
        self._record_output = self._terminal_output
        if kind != "session":
            self._record_input = self._forward_input
            self._record_output = self._forward_output

    @property
    def interactive(self) -> bool:
        """Tell whether input thrown away leaves the rest of it meaningful (rule 3)."""
        return self.kind == "session" and self._watch is None

    def open_record(self, body: bytes) -> None:
        """Put the opening on the tape."""
        self.tape.add(
            Kind.CHANNEL,
            {"event": "open", "type": self.kind, **_described(describe_open, self.kind, body)},
            self.number,
        )

    # ------------------------------------------------------------------ data, rule 1

    def from_client(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002 - clients send no extended data
        """Gate, record and forward what the client sent."""
        if self.gate.closed:
            self.refuse(data)
            return
        self._record_input(data)
        self.passed_bytes += len(data)
        if self.far is not None:
            self.far.write(data)

    def from_target(self, data: bytes, datatype: int | None) -> None:
        """Record and forward what the target sent."""
        self._record_output(data, datatype)
        self.output_bytes += len(data)
        self.near.write(data, datatype)

    def refuse(self, data: bytes) -> None:
        """Record and count input that is thrown away."""
        self.gate.refused_bytes += len(data)
        if self.interactive:
            self.tape.add(Kind.REFUSED, data, self.number)
        else:
            self._cut_bytes += len(data)

    # ------------------------------------------------------------------ how it is recorded, rule 2

    def _terminal_input(self, data: bytes) -> None:
        self.tape.add(Kind.INPUT, data, self.number)

    def _terminal_output(self, data: bytes, datatype: int | None) -> None:
        self.tape.add(
            Kind.ERROR_OUTPUT if datatype == EXTENDED_DATA_STDERR else Kind.OUTPUT, data, self.number
        )

    def _transfer_input(self, data: bytes) -> None:
        watch = self._watch
        assert watch is not None  # noqa: S101 - this is chosen when there is one
        watch.from_client(data)
        if watch.broken:
            self._record_whole(watch)
            self._terminal_input(data)

    def _transfer_output(self, data: bytes, datatype: int | None) -> None:
        watch = self._watch
        assert watch is not None  # noqa: S101 - this is chosen when there is one
        if datatype == EXTENDED_DATA_STDERR:
            self.tape.add(Kind.ERROR_OUTPUT, data, self.number)
            return
        watch.from_target(data)
        if watch.broken:
            self._record_whole(watch)
            self._terminal_output(data, datatype)

    def _record_whole(self, watch: transfers.Watch) -> None:
        """Record byte for byte from now on: what claimed to be a transfer is none."""
        self._record_input, self._record_output = self._terminal_input, self._terminal_output
        if watch.held_input:
            self._terminal_input(watch.held_input)
        if watch.held_output:
            self._terminal_output(watch.held_output, None)
        self._pretended()

    def _pretended(self) -> None:
        """Close what is no transfer, where nothing else is granted; the bytes that gave it away go nowhere."""
        if not self._transfers_only:
            return
        self.tell(TRANSFERS_ONLY)
        if self.far is not None:
            self.far.abort()
        self.near.close()

    def _forward_input(self, data: bytes) -> None:
        self._sniff(data, from_client=True)

    def _forward_output(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002 - one signature for both kinds
        self._sniff(data, from_client=False)

    def _sniff(self, data: bytes, *, from_client: bool) -> None:
        seen = self._sniffed[from_client]
        if len(seen) >= transfers.SNIFF_BYTES:
            return
        self._sniffed[from_client] = seen = seen + data[: transfers.SNIFF_BYTES - len(seen)]
        if transfers.sniff(seen) == "ssh" and not self.relay.ssh_in_forward:
            self.relay.ssh_in_forward = True
            self.relay.session.finding(
                "ssh-in-forward", "high", f"An SSH connection runs inside a {self.kind} channel, unrecorded."
            )

    def emit(self, event: transfers.Event) -> None:
        """Put a transfer, or what is wrong with one, on the tape."""
        if isinstance(event, transfers.Transfer):
            self.tape.add(Kind.TRANSFER, event.as_map(), self.number)
        else:
            self.relay.session.finding(event.code, event.severity, event.text)

    # ------------------------------------------------------------------ requests

    def request(self, half: RelayChannel, name: str, body: bytes, wants_reply: bool) -> asyncio.Future[bool]:  # noqa: FBT001
        """Judge, record and relay a channel request; the future holds the other side's answer."""
        loop = half._loop
        if name == _KEEPALIVE:
            return settled(loop, granted=False)
        fields = _request(name, body)
        if half.near and (refusal := self._refusal(name, body, fields)):
            if self._is_final(name, refusal):
                self._runs = True
                self.turn_away(name, fields, refusal)
                return settled(loop, granted=True)
            self._note_refused(name, fields, refusal)
            self.tell(refusal)
            return settled(loop, granted=False)
        if half.near and name == "exec" and self.relay.policy.active:
            self._runs = True
            return self._ruled.hold(body, fields, wants_reply=wants_reply)
        return self.pass_request(half, name, body, fields, wants_reply=wants_reply)

    def pass_request(
        self, half: RelayChannel, name: str, body: bytes, fields: dict[str, Any], *, wants_reply: bool
    ) -> asyncio.Future[bool]:
        """Record and relay a request that may pass."""
        self._note_request(half, name, body, fields)
        other = half.other
        if other is None:
            return settled(half._loop, granted=False)
        answer = other.ask(name, body, wants_reply=wants_reply)
        if half.near and name in _STARTERS:
            self._runs = True
            answer.add_done_callback(self._start_answered)
        return answer

    def turn_away(self, name: str, fields: dict[str, Any], refusal: str) -> None:
        """Record a start that is refused for good; `started` tells the client why."""
        self._note_refused(name, fields, refusal)
        self._turned_away = refusal

    def _note_refused(self, name: str, fields: dict[str, Any], refusal: str) -> None:
        self.tape.add(
            Kind.REQUEST, {"name": name, "side": "client", "refused": refusal, **fields}, self.number
        )
        self.gate.refused_requests += self.gate.closed

    def _is_final(self, name: str, refusal: str) -> bool:
        """Tell whether a refused start leaves nothing to ask for; PuTTY's scp tries the subsystem, then a command.

        OpenSSH leaves on the failure of its start, often before it has printed what came just ahead of it.
        """
        if self.kind != "session" or self._runs or refusal is MALFORMED:
            return False
        return name in ("shell", "exec") or (name == "subsystem" and "exec" not in self.relay.channels)

    def _start_answered(self, answer: asyncio.Future[bool]) -> None:
        """Forget a start the target has refused: PuTTY goes on to ask for the next best thing (rule 4)."""
        if answer.cancelled() or answer.exception() is not None or not answer.result():
            self._runs = self._transfers_only = False
            self._watch = None
            self._record_input, self._record_output = self._terminal_input, self._terminal_output

    def _refusal(self, name: str, body: bytes, fields: dict[str, Any]) -> str:
        """Give the sentence a client's request is refused with; empty when it may pass."""
        if self.gate.closed and not (name == "window-change" and len(body) == RESIZE_BYTES):
            return REVOKED
        if self.kind != "session":
            return NOT_A_SESSION
        if "malformed" in fields:
            return MALFORMED
        if self._runs and name in _STARTERS:
            return ONE_THING
        if name == "pty-req" and not self.relay.may_have_terminal:
            return NO_TERMINAL
        if name == "shell" and not self.pty and self.relay.policy.decides:
            return NEEDS_TERMINAL
        return self._missing_grant(name, fields)

    def _missing_grant(self, name: str, fields: dict[str, Any]) -> str:
        needed = _STARTERS.get(name) or _NEEDS.get(name)
        if name == "subsystem" and fields.get("subsystem") == "sftp":
            needed = "sftp"
        if needed == "exec" and "exec" not in self.relay.channels and "sftp" in self.relay.channels:
            needed = self._needed_by_command(name, fields)
        if name in _NEEDS and needed in self.relay.channels:
            self.relay.asked.add(_NEEDS[name])
        if needed and needed not in self.relay.channels:
            allowed = ", ".join(sorted(self.relay.channels.difference(DESKTOP_CHANNELS))) or "nothing"
            return f"Your grant on {self.relay.session.target} allows {allowed}, but not {needed}."
        return ""

    def _needed_by_command(self, name: str, fields: dict[str, Any]) -> str:
        """Tell what an exec needs: file transfers by scp or rsync come with `sftp`."""
        command = fields.get("command", b"")
        if name == "exec" and isinstance(command, bytes):
            classified = transfers.classify("exec", command, self.emit)
            if classified.watch is not None:
                return "sftp"
        return "exec"

    def _note_request(self, half: RelayChannel, name: str, body: bytes, fields: dict[str, Any]) -> None:
        side = "client" if half.near else "target"
        if name == "window-change" and len(body) == RESIZE_BYTES:
            self.relay.resized(self, *_size(window_change, body))
            return
        if name == "exit-status" and "status" in fields:
            self._status = fields["status"]
            self.tape.add(Kind.EXIT, fields, self.number)
            return
        if name == "exit-signal" and "signal" in fields:
            self.tape.add(Kind.EXIT, {"signal": fields["signal"]}, self.number)
            return
        self.tape.add(Kind.REQUEST, {"name": name, "side": side, **fields}, self.number)
        if not half.near:
            return
        if name == "pty-req":
            self._note_pty(body)
        elif name in ("exec", "subsystem"):
            self._watch_transfer(name, fields)

    def _note_pty(self, body: bytes) -> None:
        try:
            pty = pty_request(body)
        except WireError:
            return
        self.pty = True
        self.near.limit_ahead()
        self._ruled.watch_typing(partial(Line.from_client, self, datatype=None))
        self.relay.resized(self, pty.columns, pty.rows)

    def _watch_transfer(self, name: str, fields: dict[str, Any]) -> None:
        """Turn a file transfer's bytes into events, unless the target wants bodies recorded."""
        command = fields.get("command", b"") if name == "exec" else str(fields.get("subsystem", "")).encode()
        classified = transfers.classify("exec" if name == "exec" else "subsystem", command, self.emit)
        if classified.finding is not None:
            self.emit(classified.finding)
        if classified.watch is None:
            return
        self._watch = classified.watch
        self._transfers_only = "exec" not in self.relay.channels
        if self.relay.session.permit.target.file_bodies:
            self._record_input, self._record_output = self._both_input, self._both_output
        else:
            self._record_input, self._record_output = self._transfer_input, self._transfer_output

    def _both_input(self, data: bytes) -> None:
        self._terminal_input(data)
        if self._watch is not None:
            self._watch.from_client(data)
            if self._watch.broken:
                self._pretended()

    def _both_output(self, data: bytes, datatype: int | None) -> None:
        self._terminal_output(data, datatype)
        if self._watch is not None and datatype is None:
            self._watch.from_target(data)
            if self._watch.broken:
                self._pretended()

    # ------------------------------------------------------------------ start and end

    def started(self) -> None:
        """Let both halves flow: the target has accepted the shell, command or subsystem.

        A start that was refused for good is granted, told why, and ends: the client prints that.
        """
        if self._turned_away:
            self._turn_away()
            return
        self.near.begin()
        if self.far is not None:
            self.far.begin()

    def _turn_away(self) -> None:
        self.tell(self._turned_away)
        self._exit_lost()
        self.close()

    def eof(self, half: RelayChannel) -> None:
        """Pass on the end of one direction; a client's waits at a closed gate."""
        if half.near and self.gate.closed:
            self._eof_held = True
            return
        if half.near and self._ruled.keeps_end(partial(self.eof, half)):
            return
        if half.other is not None:
            half.other.write_eof()

    def throw_away(self) -> int:
        """Throw away what waits for the target's window at a gate that has shut; give how many bytes."""
        if self.far is None:
            return 0
        dropped = self.far.discard()
        self.passed_bytes -= dropped
        if not self.interactive:
            self._cut_bytes += dropped
        self._eof_held = self.far.take_back_eof() or self._eof_held
        return dropped + self._ruled.throw_away()

    def gate_opened(self) -> None:
        """Refuse what came while it was shut and still waits, then go on, or close what can't (rule 3)."""
        if waiting := self.near.take_waiting():
            self.refuse(waiting)
        if self._cut_bytes:
            self.tell("The transfer was cut by the block")
            self.close()
        elif self._eof_held and self.far is not None:
            self._eof_held = False
            self.far.write_eof()

    def lost(self) -> None:
        """Say that the target's connection has broken: this channel closes without what it was to say last."""
        self.tell(f"{self.relay.session.target} closed the connection")

    def half_closed(self, half: RelayChannel) -> None:
        """Close the other half once it is flushed; the second time, end the line."""
        self._closed += 1
        other = half.other
        if self._closed == 1 and other is not None:
            other.leave()
            return
        self._end()

    def _end(self) -> None:
        if self._watch is None:
            self._told()
        else:
            self._watch.close(self._status, self._told)

    def _told(self) -> None:
        """Put the end on the tape, after the last event of a transfer."""
        if self._cut_bytes:
            self.tape.add(
                Kind.OMITTED, {"why": "refused", "input": self._cut_bytes, "output": 0}, self.number
            )
        watch = self._watch
        bodies = self.relay.session.permit.target.file_bodies
        if watch is not None and not bodies and (watch.omitted_input or watch.omitted_output):
            omitted = {"why": "file body", "input": watch.omitted_input, "output": watch.omitted_output}
            self.tape.add(Kind.OMITTED, omitted, self.number)
        self.tape.add(
            Kind.CHANNEL,
            {"event": "close", "type": self.kind, "input": self.passed_bytes, "output": self.output_bytes},
            self.number,
        )
        self.relay.line_ended(self)

    def close(self) -> None:
        """Close both halves, flushed."""
        self.near.close()
        if self.far is not None:
            self.far.close()

    # ------------------------------------------------------------------ what proxyd itself says

    def tell(self, text: str) -> bool:
        """Show the user one line on this channel, and tell whether it was; forwards have nowhere to show it."""
        if self.kind != "session" or not self.near.is_open():
            return False
        if self.near.get_write_buffer_size() > UNREAD_NOTICES:
            return False
        self.tape.add(Kind.NOTICE, text, self.number)
        if self.pty:
            self.near.write(f"\r\n{text}\r\n".encode())
        else:
            self.near.write(f"{text}\n".encode(), EXTENDED_DATA_STDERR)
        return True

    def part(self, text: str) -> None:
        """Say goodbye on this channel, ahead of whatever still waits there."""
        self.near.discard()
        self.tell(text)
        if self.kind == "session" and self.near.is_open():
            self._exit_lost()

    def _exit_lost(self) -> None:
        self.near.ask("exit-status", _LOST_CODE.to_bytes(4, "big"), wants_reply=False)


def _request(name: str, body: bytes) -> dict[str, Any]:
    return _described(describe_request, name, body)


def _described(describe: Any, name: str, body: bytes) -> dict[str, Any]:
    """Describe for the tape; what can't be parsed is relayed all the same, and said so."""
    try:
        fields: dict[str, Any] = describe(name, body)
    except WireError:
        return {"malformed": True, "rest": body}
    return fields


def _size(parse: Any, body: bytes) -> tuple[int, int]:
    try:
        columns, rows = parse(body)
    except WireError:
        return 0, 0
    return columns, rows
