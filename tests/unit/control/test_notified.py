"""What is asked and decided at the control socket arrives at a real mail server, for whom it concerns and nobody else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from proxyd.config import Mail, Notify, Review, User
from proxyd.notifications import Notifier
from tests.peers.mailbox import Mailbox, mail_server

SESSION_ID = "1a2b3c4d" + "0" * 24
ROLES = {
    "ann": "PAM Auditor",
    "alice": "PAM Administrator",
    "carl": "PAM Administrator",
    "oli": "PAM Operator",
}


async def ask_as(wire: Any, user: str, command: str, /, **arguments: Any) -> dict[str, Any]:
    await wire.send({"id": 7, "command": command, "arguments": arguments, "as": user})
    answer = await wire.answer()
    assert answer is not None
    assert "ok" in answer, answer
    return dict(answer["ok"])


async def until(mailbox: Mailbox, count: int) -> None:
    with trio.fail_after(30):
        while len(mailbox.mails) < count:
            await trio.sleep(0.01)


@pytest.mark.mission("M9")
async def test_who_decides_is_told_of_a_request_and_who_asked_of_its_decision(
    played: Any, connect: Any, tmp_path: Path
) -> None:
    mailbox = Mailbox()
    played.operate_as("Console", name="web")
    played.config.users = {
        name: User(name=name, roles=[role], email=f"{name}@example.org") for name, role in ROLES.items()
    }
    played.config.review = Review(approval=True)
    played.end(played.begin())
    with mail_server(mailbox, None, None) as address:
        smtp = Mail(server=address, sender="proxyd@example.org", tls="off", to=["soc@example.org"])
        played.notifier = Notifier(Notify(link="https://console.example", mail=smtp), lambda: played.config)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(played.notifier.run)
            wire = await connect()
            window = {"ends_at": time.time() + 600}
            names = [
                (
                    await ask_as(
                        wire, "ann", "request", session=SESSION_ID, justification="a complaint", **window
                    )
                )["request"]["id"]
                for _ in range(2)
            ]
            await until(mailbox, 2)
            await ask_as(wire, "alice", "approve", request=names[0], comment="go on")
            await ask_as(wire, "carl", "deny", request=names[1])
            await until(mailbox, 4)
            await ask_as(wire, "ann", "revoke", request=names[0])  # who withdraws knows
            nursery.cancel_scope.cancel()
    told = [(sorted(to), message["Subject"], message.get_content()) for to, message, _ in mailbox.mails]
    for to, subject, text in told[:2]:
        assert to == ["alice@example.org", "carl@example.org"]
        assert subject == "[proxyd] ann asks to see the session of alice on root@db1"
        assert "justification: a complaint" in text
        assert f"https://console.example/sessions/{SESSION_ID}" in text
    assert [to for to, _, _ in told[2:]] == [["ann@example.org"]] * 2
    assert [subject.rpartition(" ")[2] for _, subject, _ in told[2:]] == ["approved", "denied"]
    assert "comment: go on" in told[2][2]
    assert len(told) == 4
