"""Notifications against a real mail server and a real web server: who is told what, what is tried again, what is bounded."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from proxyd import notifications
from proxyd.config import Mail, Notify, User, Webhook
from proxyd.delivery import Undelivered, mail
from proxyd.governance.notices import SUBJECT_LIMIT, Event, Notice
from proxyd.metrics import REGISTRY
from proxyd.notifications import QUEUE, Notifier
from tests.peers.mailbox import PASSWORD, USER, Hooks, Mailbox, mail_server, web_server
from tests.peers.mariadb import Authority

SESSION = "1a2b3c4d" + "0" * 24
LINK = "https://console.example/"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for name, text in (("smtp", PASSWORD + "\n"), ("hook", "canary-of-the-hook")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@pytest.fixture
def box(authority: Authority) -> Iterator[tuple[Mailbox, str]]:
    mailbox = Mailbox()
    with mail_server(mailbox, authority.certificate, authority.key) as address:
        yield mailbox, address


def through(address: str, authority: Authority, secrets: Path, **fields: Any) -> Mail:
    given = {"server": address, "sender": "proxyd@example.org", "ca": authority.ca, "user": USER,
             "password": f"file:{secrets / 'smtp'}"} | fields  # fmt: skip
    return Mail(**given)


def configuration(**users: str) -> Any:
    roles = {"alice": ["PAM Administrator"], "carl": ["PAM Administrator"]}
    known = {name: User(name=name, email=email, roles=roles.get(name, [])) for name, email in users.items()}
    return SimpleNamespace(users=known, node="node1", control=SimpleNamespace(operators=[], roles=[]))


def notice(
    event: Event = Event.VIDEO_READY,
    title: str = "the webm is ready",
    people: tuple[str, ...] = ("ann",),
    session: str = SESSION,
) -> Notice:
    return Notice(event, 1000.0, session, title, people, {"size": "3 MB"})


@asynccontextmanager
async def telling(
    config: Any,
    *,
    smtp: Mail | None = None,
    hooks: tuple[Webhook, ...] = (),
    waits: tuple[float, ...] = (0.01,),
) -> AsyncIterator[Notifier]:
    notifier = Notifier(Notify(link=LINK, mail=smtp, webhooks=list(hooks)), lambda: config, waits=waits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.run)
        yield notifier
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not true():
            await trio.sleep(0.01)


def counted(way: str, result: str) -> float:
    return REGISTRY.get_sample_value("proxyd_notifications_total", {"protocol": way, "result": result}) or 0.0


@pytest.mark.mission("M13")
async def test_a_mail_arrives_with_its_link_over_tls(
    box: tuple[Mailbox, str], authority: Authority, secrets: Path
) -> None:
    mailbox, address = box
    async with telling(
        configuration(ann="ann@example.org"), smtp=through(address, authority, secrets)
    ) as notifier:
        notifier.tell(notice())
        await until(lambda: mailbox.mails)
    ((to, message, encrypted),) = mailbox.mails
    assert (to, encrypted, mailbox.logins) == (["ann@example.org"], True, [USER.encode()])
    assert message["Subject"] == "[proxyd] the webm is ready"
    assert (message["From"], message["Auto-Submitted"]) == ("proxyd@example.org", "auto-generated")
    assert f"https://console.example/sessions/{SESSION}" in message.get_content()
    assert "size: 3 MB" in message.get_content()


async def test_alarms_go_to_who_watches_over_all_and_the_rest_does_not(
    box: tuple[Mailbox, str], authority: Authority, secrets: Path
) -> None:
    mailbox, address = box
    config = configuration(ann="ann@example.org", nomail="")
    smtp = through(address, authority, secrets, to=["soc@example.org"])
    async with telling(config, smtp=smtp) as notifier:
        notifier.tell(notice(people=("nomail", "gone")))  # for nobody who has an address
        notifier.tell(notice(Event.REQUEST_DECIDED))
        notifier.tell(notice(Event.FINDING, people=()))
        notifier.tell(notice(Event.RECORDING_FAILED, people=()))
        await until(lambda: len(mailbox.mails) == 3)
    assert [to for to, _, _ in mailbox.mails] == [
        ["ann@example.org"],
        ["soc@example.org"],
        ["soc@example.org"],
    ]


async def test_text_of_users_starts_no_header(
    box: tuple[Mailbox, str], authority: Authority, secrets: Path
) -> None:
    mailbox, address = box
    async with telling(
        configuration(ann="ann@example.org"), smtp=through(address, authority, secrets)
    ) as notifier:
        notifier.tell(notice(title="eve\r\nBcc: all@example.org\r\n\r\n\x1b[2J" + "x" * 500))
        await until(lambda: mailbox.mails)
    ((to, message, _),) = mailbox.mails
    assert to == ["ann@example.org"]
    assert message["Bcc"] is None
    assert message["Subject"].startswith(r"[proxyd] eve\r\nBcc: all@example.org\r\n\r\n\x1b[2J")
    assert len(message["Subject"]) == SUBJECT_LIMIT


async def test_what_is_refused_now_is_tried_again_and_for_good_is_not(
    box: tuple[Mailbox, str], authority: Authority, secrets: Path
) -> None:
    mailbox, address = box
    mailbox.refusals = ["451 later", "452 full", "554 never"]
    failed = counted("smtp", "failed")
    config = configuration(ann="ann@example.org")
    async with telling(config, smtp=through(address, authority, secrets)) as notifier:
        notifier.tell(notice(title="first"))  # later, later, never
        notifier.tell(notice(title="second", session="2" * 32))
        await until(lambda: mailbox.mails)
    assert mailbox.refusals == []
    assert counted("smtp", "failed") == failed + 1
    assert [message["Subject"] for _, message, _ in mailbox.mails] == ["[proxyd] second"]


async def test_a_server_without_tls_or_with_another_certificate_gets_nothing(
    authority: Authority, secrets: Path, tmp_path: Path
) -> None:
    mailbox = Mailbox()
    other = Authority(tmp_path / "other")
    failing = [(None, None, authority), (other.certificate, other.key, authority)]
    for certificate, key, trusted in failing:
        with mail_server(mailbox, certificate, key) as address:
            with pytest.raises(Undelivered) as refusal:
                await trio.to_thread.run_sync(
                    mail, through(address, trusted, secrets), PASSWORD, ["ann@example.org"], "s", "t"
                )
            assert PASSWORD not in str(refusal.value)
    assert (mailbox.mails, mailbox.logins) == ([], [])


async def test_mail_waits_for_a_server_that_is_not_there_yet(
    authority: Authority, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox, tries = Mailbox(), []

    def tried(*words: Any) -> None:
        tries.append(words)
        mail(*words)

    monkeypatch.setattr(notifications, "mail", tried)
    with mail_server(mailbox, authority.certificate, authority.key) as address:
        port = int(address.rpartition(":")[2])
    config = configuration(ann="ann@example.org")
    async with telling(config, smtp=through(address, authority, secrets), waits=(0.2,)) as notifier:
        notifier.tell(notice())
        await until(lambda: len(tries) > 1)
        with mail_server(mailbox, authority.certificate, authority.key, port=port):
            await until(lambda: mailbox.mails)


async def test_a_webhook_is_signed_and_gets_what_it_asked_for(authority: Authority, secrets: Path) -> None:
    hooks = Hooks(answers=[503, 204])
    with web_server(hooks, authority.certificate, authority.key) as url:
        hook = Webhook(
            url=url, secret=f"file:{secrets / 'hook'}", ca=authority.ca, events=["critical-finding"]
        )
        async with telling(configuration(), hooks=(hook,)) as notifier:
            notifier.tell(notice())
            notifier.tell(notice(Event.FINDING, people=()))
            await until(lambda: len(hooks.posted) == 2)
    for path, signature, body in hooks.posted:  # the first answer was 503: the same once more
        at, digest = (part.partition("=")[2] for part in signature.split(","))
        assert hmac.new(b"canary-of-the-hook", f"{at}.".encode() + body, hashlib.sha256).hexdigest() == digest
        assert path == "/hook?x=1"
        told = json.loads(body)
        assert (told["event"], told["session"], told["node"]) == ("critical-finding", SESSION, "node1")
        assert told["link"] == f"https://console.example/sessions/{SESSION}"
        assert "canary" not in body.decode()


async def test_a_dead_destination_holds_up_no_other_and_nobody_who_tells(
    authority: Authority, secrets: Path
) -> None:
    hooks = Hooks()
    dropped = counted("smtp", "dropped")
    with web_server(hooks, authority.certificate, authority.key) as url:
        hook = Webhook(url=url, secret=f"file:{secrets / 'hook'}", ca=authority.ca)
        dead = through("127.0.0.1:1", authority, secrets)
        async with telling(
            configuration(ann="ann@example.org"), smtp=dead, hooks=(hook,), waits=(60.0,)
        ) as notifier:
            notifier.tell(notice())
            await until(lambda: hooks.posted)
            for number in range(QUEUE + 100):
                notifier.tell(notice(session=f"{number:032x}"))  # never waits, never raises
            assert counted("smtp", "dropped") - dropped in (99.0, 100.0)
    assert counted("smtp", "dropped") - dropped >= QUEUE  # and what waited at the end is counted too


async def test_one_session_rings_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, box: tuple[Mailbox, str], authority: Authority, secrets: Path
) -> None:
    mailbox, address = box
    clock = [0.0]
    monkeypatch.setattr(notifications.time, "monotonic", lambda: clock[0])
    smtp = through(address, authority, secrets, to=["soc@example.org"])
    async with telling(configuration(), smtp=smtp) as notifier:
        for _ in range(100):
            notifier.tell(notice(Event.FINDING, people=()))
        clock[0] += notifications.QUIET_S
        notifier.tell(notice(Event.FINDING, people=()))
        await until(lambda: len(mailbox.mails) == 2)
        notifier.tell(notice(Event.FINDING, people=(), session="9" * 32))
        await until(lambda: len(mailbox.mails) == 3)


def test_those_who_decide_are_told_but_for_who_asks() -> None:
    config = configuration(ann="ann@example.org", alice="alice@example.org", carl="carl@example.org")
    assert Notifier(Notify(), lambda: config).deciders("alice") == ("carl",)
    assert Notifier(Notify(), lambda: config).deciders("ann") == ("alice", "carl")
