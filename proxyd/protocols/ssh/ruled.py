"""What the rules of the configuration hold up on one line: the start of a command, and each Enter in a terminal.

Rule 1: a command is asked of the target only when it may run; one that may not ends as any other refused start does.
Rule 2: the client gets the target's own answer, in its place: output and close may come with it, and must not overtake.
Rule 3: where no rule applies nothing here runs: the line's own methods stay where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxyd.gate import REVOKED
from proxyd.protocols.ssh.channel import settled
from proxyd.protocols.ssh.typed import Typist

if TYPE_CHECKING:
    from proxyd.protocols.ssh.line import Line


class Ruled:
    """The rules' part of a line."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._typist: Typist | None = None

    # ------------------------------------------------------------------ commands

    def hold(self, body: bytes, fields: dict[str, Any], *, wants_reply: bool) -> asyncio.Future[bool]:
        """Keep an exec request until it is judged; give what its answer will be."""
        loop = self._line.near._loop
        held: asyncio.Future[bool] = loop.create_future()
        self._line.relay.start(self._judge_command(held, body, fields, wants_reply=wants_reply))
        return held if wants_reply else settled(loop, granted=False)

    async def _judge_command(
        self, held: asyncio.Future[bool], body: bytes, fields: dict[str, Any], *, wants_reply: bool
    ) -> None:
        line = self._line
        command = bytes(fields.get("command", b"")).decode("utf-8", "backslashreplace")
        refusal = await line.relay.refused_by_rule(command)
        if held.cancelled() or not line.near.is_open():
            return
        granted = True
        if refusal := refusal or (REVOKED if line.gate.closed else ""):
            line.turn_away("exec", fields, refusal)
            held.set_result(True)
        else:
            answer = line.pass_request(line.near, "exec", body, fields, wants_reply=wants_reply)
            self._answer_instead(held, answer)
            granted = wants_reply or answer.result()  # what nobody asked to know is known at once
        if not wants_reply and granted:
            line.started()

    def _answer_instead(self, held: asyncio.Future[bool], answer: asyncio.Future[bool]) -> None:
        """Put the target's answer where the client's request waits for its own (rule 2)."""
        near = self._line.near
        for place, (one, name) in enumerate(near._waiting):
            if one is held:
                near._waiting[place] = (answer, name)
                answer.add_done_callback(near._answer_in_order)

    # ------------------------------------------------------------------ typed lines

    def watch_typing(self, forward: Callable[[bytes], None]) -> None:
        """Have what is typed in this terminal judged from now on; `forward` is the line's own way (rule 3)."""
        line = self._line
        if self._typist is None and line.relay.policy.active:
            self._typist = Typist(forward, line.refuse, self._judge_line, line.relay.start, self._pause)
            line.from_client = self._from_client  # type: ignore[method-assign]
            line.near._take = self._from_client

    def keeps_end(self, end: Callable[[], None]) -> bool:
        """Keep the end of input while a typed line waits; `end` is called behind it."""
        if self._typist is None or not self._typist.busy:
            return False
        self._typist.then = end
        return True

    def throw_away(self) -> int:
        """Throw away what waits at a gate that has shut; give how many bytes."""
        return 0 if self._typist is None else self._typist.throw_away()

    def _from_client(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002 - as Line.from_client
        if self._line.gate.closed:
            self._line.refuse(data)
        elif self._typist is not None:
            self._typist.typed(data)

    async def _judge_line(self, typed: str, unsure: bool) -> str:  # noqa: FBT001 - Typist's signature
        refusal = await self._line.relay.refused_by_rule(typed, unsure=unsure)
        if refusal:
            self._line.tell(refusal)
        return refusal

    def _pause(self, paused: bool) -> None:  # noqa: FBT001 - a state
        near = self._line.near
        if near.get_connection_or_none() is None:
            return
        if paused:
            near.pause_reading()
        else:
            near._update_reading()
