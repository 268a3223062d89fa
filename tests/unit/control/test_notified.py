"""What is asked and decided at the control socket arrives at a real mail server, for whom it concerns and nobody else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from proxyd.config import Mail, Notify, Review, User, Webhook
from proxyd.notifications import Notifier
from tests.peers.mailbox import Hooks, Mailbox, mail_server, web_server
from tests.peers.mariadb import Authority

SESSION_ID = "1a2b3c4d" + "0" * 24
ROLES = {
    "ann": "PAM Auditor",
    "alice": "PAM Administrator",
    "carl": "PAM Administrator",
    "oli": "PAM Operator",
}


async def ask_as(wire: Any, user: str, command: str, /, **arguments: Any) -> dict[str, Any]:
    await wire.send({"id": 7, "command": command, "arguments": arguments} | ({"as": user} if user else {}))
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


@pytest.mark.mission("M13")
async def test_who_asked_for_a_video_is_told_that_it_is_ready_or_failed_and_of_no_other_end(
    played: Any, connect: Any, tmp_path: Path
) -> None:
    mailbox, hooks, authority = Mailbox(), Hooks(), Authority(tmp_path / "tls")
    (secret := tmp_path / "hook").write_text("canary-of-the-hook")
    secret.chmod(0o600)
    played.operate_as("Console", "System Administrator", name="web")
    played.config.users = {"ann": User(name="ann", roles=["PAM Auditor"], email="ann@example.org")}
    played.end(played.begin())
    asked = {"session": SESSION_ID, "form": "webm"}
    file = {"sha256": "ab" * 32, "size": 7, "duration_us": 1}
    with (
        mail_server(mailbox, None, None) as address,
        web_server(hooks, authority.certificate, authority.key) as url,
    ):
        smtp = Mail(server=address, sender="proxyd@example.org", tls="off", to=["soc@example.org"])
        hook = Webhook(url=url, secret=f"file:{secret}", ca=authority.ca, events=["video-failed"])
        settings = Notify(link="https://console.example", mail=smtp, webhooks=[hook])
        played.notifier = Notifier(settings, lambda: played.config)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(played.notifier.run)
            wire = await connect()
            failed, cancelled, ready = [(await ask_as(wire, "ann", "export-ask", **asked))["export"]["id"] for _ in range(3)]  # fmt: skip
            await at_work(await connect(), "export-resume", "ann", job=failed)
            await ask_as(wire, "ann", "export-end", job=failed, error="the recording shows no screen")
            await ask_as(wire, "ann", "export-cancel", job=cancelled)
            await at_work(await connect(), "export-resume", "ann", job=ready)
            await ask_as(wire, "ann", "export-sign", job=ready, **file)
            await ask_as(wire, "ann", "export-end", job=ready)
            own = await at_work(
                await connect(), "export-job", "", **asked, path="/x"
            )  # of no user of the proxy
            await ask_as(wire, "", "export-end", job=own, error="the disk is full")
            await until(mailbox, 2)
            with trio.fail_after(30):
                while not hooks.posted:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert [(to, message["Subject"]) for to, message, _ in mailbox.mails] == [
        (["ann@example.org"], f"[proxyd] the webm of session {SESSION_ID[:8]} could not be made"),
        (["ann@example.org"], f"[proxyd] the webm of session {SESSION_ID[:8]} is ready"),
    ]
    text = mailbox.mails[0][1].get_content()
    for said in (
        "why: the recording shows no screen",
        f"ask for it again on the session's page, or with proxyctl export {SESSION_ID} --format webm -o FILE",
        f"tell an administrator its number: {failed}",
        f"https://console.example/exports/{failed}",
    ):
        assert said in text
    ((_, _, body),) = hooks.posted
    told = json.loads(body)
    assert (told["event"], told["people"], told["session"]) == ("video-failed", ["ann"], SESSION_ID)


async def at_work(wire: Any, command: str, user: str, **arguments: Any) -> str:
    """Be the maker of an export, until the connection goes; gives its number."""
    await wire.send({"id": 7, "command": command, "arguments": arguments} | ({"as": user} if user else {}))
    first, then = await wire.answer(), await wire.answer()
    assert "go" in then, then
    return str(first["job"])
