"""`proxyctl`'s commands about who sees a session, and what they say of it: auditors, views; comments; requests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from proxyd.cli_app import Command, CommandLine, Run, ids_of, offered, session_argument
from proxyd.cli_output import ID_SHOWN, Column, duration, position
from proxyd.cli_recordings import Place
from proxyd.cli_sessions import UNITS, Moment

STATUSES = ("pending", "approved", "denied", "expired", "revoked")


class Coming(Moment):
    """A time to come: 4h (from now), 18:00, 2026-11-21, "2026-11-21 14:00", ISO 8601 with an offset."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Give seconds since 1970."""
        if within := re.fullmatch(r"(?:in )?\+?(\d+)\s*([smhdw])", str(value).strip().lower()):
            return time.time() + int(within[1]) * UNITS[within[2]]
        return super().convert(value, param, ctx)


class RequestName(click.ParamType[str]):
    """A request's id, or its beginning; completed with those the daemon shows."""

    name = "request"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer requests, newest first; nothing when no daemon answers."""
        del param
        return ids_of(
            offered(ctx, "requests"),
            incomplete,
            lambda row: f"{row['person']} for {row['session'][:ID_SHOWN]}, {row['status']}",
        )


def add_to(group: CommandLine) -> None:
    """Add these commands, in the order the help shows them."""
    for command in (auditors, views, comment, comments, review, request, requests, approve, deny, revoke):
        group.add_command(command)


@click.command(cls=Command, short_help="Show or set who may audit a session.")
@session_argument()
@click.option(
    "--set",
    "people",
    metavar="USER,...",
    help="These users and nobody else; '' lets all who have the permission.",
)
@click.pass_obj
def auditors(run: Run, session: str, people: str | None) -> None:
    """Show who may audit a session, or set it.

    A session with auditors is watched, replayed, read, searched and exported by them alone, and only as their roles let
    them; one without, by whoever's roles do.
    """
    if people is None:
        if (answer := run.ask("auditors", session=session)) is not None:
            names = ", ".join(answer["auditors"]) or "whoever has the permission"
            run.output.line(f"Auditors of {answer['session'][:ID_SHOWN]}: {names}.")
        return
    wanted = [name.strip() for name in people.split(",") if name.strip()]
    if (answer := run.ask("set-auditors", session=session, people=wanted)) is None:
        return
    names = ", ".join(answer["auditors"]) or "whoever has the permission"
    run.output.line(f"Auditors of {answer['session'][:ID_SHOWN]}: {names}.")
    for name in answer["powerless"]:
        run.output.remark(f"{name} has no role that lets them see a session: see proxyctl users list")


@click.command(cls=Command, short_help="List who saw a session: how, when, which seconds.")
@session_argument()
@click.pass_obj
def views(run: Run, session: str) -> None:
    """List who saw a session: live, replayed, its log, found by a search, exported; when, which seconds, from where.

    It is what the ledger says: each entry is signed, and none can be taken out unnoticed (proxyctl verify --all).
    """
    if (answer := run.ask("views", session=session)) is None:
        return
    columns = [
        Column("WHO", lambda row: row["who"]),
        Column("HOW", lambda row: row["kind"], keep=8),
        Column("WHEN", lambda row: run.output.time(row["at"]), keep=8),
        Column("SECONDS", _seconds_of, keep=7),
        Column("FROM", whence, keep=6),
        Column("REQUEST", lambda row: (row.get("request") or "")[:ID_SHOWN], keep=4),
    ]
    run.output.table(columns, answer["views"], "Nobody saw it.")


def _seconds_of(view: Mapping[str, Any]) -> str:
    if view.get("first") is None:
        return duration(view["seconds"]) if view.get("seconds") else ""
    first, last = (position(round(view[name] * 1e6)) for name in ("first", "last"))
    return first if first == last else f"{first} - {last}"


def whence(view: Mapping[str, Any]) -> str:
    """Say from where someone saw a session: by a console and from which address, or at this machine."""
    if not view.get("via"):
        return "this machine"
    return f"{view['address']} by {view['via']}" if view.get("address") else str(view["via"])


@click.command(cls=Command, short_help="Say something of a session, or of a moment of it.")
@session_argument()
@click.argument("text")
@click.option(
    "--at", "at_us", type=Place(), metavar="TIME", help="Pinned to this moment: 83s, 1:23; else to none."
)
@click.pass_obj
def comment(run: Run, session: str, text: str, at_us: int | None) -> None:
    """Keep a TEXT with a session, or with a moment of it: the console's player shows it there.

    Those read it who may see the session. It stays as it is, and is in the ledger.
    """
    pinned = {} if at_us is None else {"at": at_us / 1e6}
    if (answer := run.ask("comment", session=session, text=text, **pinned)) is None:
        return
    one = answer["comment"]
    where = "" if one["at_us"] is None else f" at {position(one['at_us'])}"
    run.output.line(f"Kept with session {one['session'][:ID_SHOWN]}{where}.")


@click.command(cls=Command, short_help="List what was said of a session, and who reviewed it.")
@session_argument()
@click.pass_obj
def comments(run: Run, session: str) -> None:
    """List what was said of a session, with the moment it is about, and each mark of review; the oldest first."""
    if (answer := run.ask("comments", session=session)) is None:
        return
    columns = [
        Column("WHEN", lambda row: run.output.time(row["at"]), keep=7),
        Column("WHO", lambda row: row["person"], keep=8),
        Column("AT", lambda row: "" if row["at_us"] is None else position(row["at_us"]), right=True),
        Column("MARK", lambda row: row["mark"], keep=8),
        Column("TEXT", lambda row: row["text"], fold=20, most=80),
    ]
    run.output.table(columns, answer["comments"], "Nothing was said of it.")


@click.command(cls=Command, short_help="Mark a session as reviewed.")
@session_argument()
@click.option("--text", default="", help="What is to be said of it; kept with the session.")
@click.option("--undo", is_flag=True, help="Take the mark back: somebody is to look again.")
@click.pass_obj
def review(run: Run, session: str, *, text: str, undo: bool) -> None:
    """Mark a session that has ended as reviewed; `sessions --not-reviewed` lists those that wait.

    Nobody reviews a session of their own.
    """
    if (answer := run.ask("review", session=session, text=text, done=not undo)) is None:
        return
    name = answer["comment"]["session"][:ID_SHOWN]
    run.output.line(f"Session {name} waits for review again." if undo else f"Reviewed: {name}.")


@click.command(cls=Command, short_help="Ask to see a session.")
@session_argument()
@click.option("--justification", required=True, help="Why you need to see it.")
@click.option("--reason", default="", help="One of those the configuration lists, if it does.")
@click.option("--code", default="", help="The ticket's code, where one is needed.")
@click.option(
    "--from",
    "starts_at",
    type=Coming(),
    metavar="TIME",
    help="Access starts: 2h (from now), 14:00; else now.",
)
@click.option(
    "--until",
    "ends_at",
    type=Coming(),
    required=True,
    metavar="TIME",
    help="Access ends: 4h (from now), 18:00.",
)
@click.pass_obj
def request(
    run: Run,
    session: str,
    *,
    justification: str,
    reason: str,
    code: str,
    starts_at: float | None,
    ends_at: float,
) -> None:
    """Ask to see a session, where that takes approval: others decide, and it counts for you and that time only."""
    asked: dict[str, Any] = {
        "justification": justification,
        "reason": reason,
        "code": code,
        "ends_at": ends_at,
    }
    if starts_at is not None:
        asked["starts_at"] = starts_at
    if (answer := run.ask("request", session=session, **asked)) is None:
        return
    one = answer["request"]
    wait = "another user has" if one["needed"] == 1 else f"{one['needed']} other users have"
    run.output.line(
        f"Asked: request {one['id'][:ID_SHOWN]} for session {one['session'][:ID_SHOWN]}, {_window(run, one)}."
    )
    run.output.line(f"It waits until {wait} approved it: proxyctl requests")


@click.command(cls=Command, short_help="List requests to see sessions.")
@click.option("--session", default="", metavar="SESSION", help="For this session.")
@click.option("--user", default="", help="Of this user; who may decide sees everybody's.")
@click.option("--status", type=click.Choice(STATUSES), help="That are this now.")
@click.option(
    "--limit", default=100, type=click.IntRange(1, 10_000), metavar="N", help="At most so many; else 100."
)
@click.pass_obj
def requests(run: Run, /, **wanted: Any) -> None:
    """List requests to see sessions, newest first: your own, and everybody's for who may decide."""
    asked = {name: value for name, value in wanted.items() if value not in ("", None)}
    if (answer := run.ask("requests", **asked)) is None:
        return
    columns = [
        Column("ID", lambda row: row["id"][:ID_SHOWN]),
        Column("STATUS", _status_of, keep=9),
        Column("USER", lambda row: row["person"], keep=8),
        Column("SESSION", lambda row: row["session"][:ID_SHOWN], keep=8),
        Column("ACCESS", lambda row: _window(run, row), keep=7),
        Column("REASON", lambda row: row["reason"], keep=5),
        Column("CODE", lambda row: row["code"], keep=3),
        Column("DECIDED", _decided_by, keep=4),
        Column("JUSTIFICATION", lambda row: row["justification"], keep=6, fold=20, most=60),
    ]
    run.output.table(columns, answer["requests"], "No requests.")


def _status_of(one: Mapping[str, Any]) -> str:
    approved = sum(decision["verdict"] == "approve" for decision in one["decisions"])
    return (
        f"pending {approved}/{one['needed']}"
        if one["status"] == "pending" and one["needed"] > 1
        else str(one["status"])
    )


def _decided_by(one: Mapping[str, Any]) -> str:
    words = {"approve": "approved", "deny": "denied", "revoke": "revoked"}
    return ", ".join(f"{words[decision['verdict']]} by {decision['person']}" for decision in one["decisions"])


def _window(run: Run, one: Mapping[str, Any]) -> str:
    return f"{run.output.time(one['starts_at'], short=True)} to {run.output.time(one['ends_at'], short=True)}"


def _decision(name: str, done: str, short: str, text: str) -> click.Command:
    """Make the command of one verdict: they differ in their words only."""

    @click.pass_obj
    def decide(run: Run, request: str, comment: str) -> None:
        if (answer := run.ask(name, request=request, comment=comment)) is None:
            return
        one = answer["request"]
        session = one["session"][:ID_SHOWN]
        run.output.line(
            f"{done}: request {one['id'][:ID_SHOWN]} of {one['person']} for session {session}, {_window(run, one)}."
        )
        if one["status"] == "pending":
            have = sum(decision["verdict"] == "approve" for decision in one["decisions"])
            run.output.line(f"{have} of {one['needed']} have approved it.")

    callback: Callable[..., Any] = click.option("--comment", default="", help="Why; kept with the request.")(
        decide
    )
    callback = click.argument("request", type=RequestName(), metavar="REQUEST")(callback)
    return click.command(name, cls=Command, short_help=short, help=text)(callback)


approve = _decision(
    "approve", "Approved", "Approve somebody's request to see a session.",
    "Approve somebody else's request to see a session; nobody approves their own.",
)  # fmt: skip
deny = _decision(
    "deny", "Denied", "Deny somebody's request to see a session.",
    "Deny somebody else's request to see a session, for good: they may ask anew.",
)  # fmt: skip
revoke = _decision(
    "revoke", "Revoked", "Take back an approval, or a request of your own.",
    "Take back an approval, or a request of your own; a live view it let begin ends at once.",
)  # fmt: skip
