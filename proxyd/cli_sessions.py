"""`proxyctl`'s commands about sessions: list, show, watch, block, unblock, message, drop; and about the daemon itself."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from click.shell_completion import CompletionItem

from proxyd.cli_app import Command, CommandLine, Run, SessionName, offered, session_argument, who
from proxyd.cli_output import ID_SHOWN, Column, Output, duration, size

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Moment(click.ParamType[float]):
    """A time: 2h (ago), today, yesterday, 14:00, 2026-11-21, "2026-11-21 14:00", ISO 8601 with an offset."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Give seconds since 1970."""
        text = str(value).strip().lower()
        run = ctx.find_object(Run) if ctx else None
        now = datetime.now(UTC) if run and run.output.utc else datetime.now(UTC).astimezone()
        if ago := re.fullmatch(r"(\d+)\s*([smhdw])(?: ago)?", text):
            return time.time() - int(ago[1]) * UNITS[ago[2]]
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        with suppress(KeyError):
            return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[
                text
            ].timestamp()
        if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", text):
            text = f"{now:%Y-%m-%d} {text:0>5}" if len(text) < 6 else f"{now:%Y-%m-%d} {text:0>8}"
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{value!r} is no time: 2h, yesterday, 14:00, 2026-11-21 or 2026-11-21T14:00", param, ctx
            )
        if when.tzinfo is None and run and run.output.utc:
            when = when.replace(tzinfo=UTC)
        return when.timestamp()


def add_to(group: CommandLine) -> None:
    """Add these commands, in the order the help shows them."""
    for command in (sessions, show, watch, block, unblock, blocked, message, drop, status, reload, users):
        group.add_command(command)
    group.add_command(_hidden_alias())


def _hidden_alias() -> click.Command:
    return Command("list", params=list(sessions.params[:-2]), callback=sessions.callback,
                                     help=sessions.help, hidden=True)  # fmt: skip


@click.command(cls=Command)
@click.option("--user", default="", help="Of this user; a glob, as 'dba-*'.")
@click.option("--target", default="", help="To this target; a glob.")
@click.option("--protocol", default="", help="Of this protocol, as ssh.")
@click.option("--state", type=click.Choice(["live", "ended", "recovered", "failed"]), help="In this state.")
@click.option(
    "--reviewed/--not-reviewed", default=None, help="Marked by a reviewer; or ended, and waiting for one."
)
@click.option("--since", type=Moment(), help="Alive after this: 2h, yesterday, 14:00, 2026-11-21.")
@click.option("--until", type=Moment(), help="Begun before this.")
@click.option(
    "--limit", default=100, type=click.IntRange(1, 10_000), metavar="N", help="At most so many; else 100."
)
@click.pass_obj
def sessions(run: Run, /, **wanted: Any) -> None:
    """List sessions, live and ended, newest first (also: list)."""
    asked = {name: value for name, value in wanted.items() if value not in ("", None)}
    if (answer := run.ask("sessions", **asked)) is None:
        return
    filtered = any(value not in ("", None) for name, value in wanted.items() if name != "limit")
    empty = "No such session." if filtered else "No sessions yet."
    run.output.table(_session_columns(run.output), answer["sessions"], empty)


def _session_columns(output: Output) -> list[Column]:
    return [
        Column("ID", lambda row: row["id"][:ID_SHOWN]),
        Column("STATE", _state_of, keep=8),
        Column("USER", lambda row: row["user"], keep=8),
        Column("TARGET", lambda row: f"{row['login']}@{row['target']}", keep=7),
        Column("TYPE", lambda row: row["protocol"], keep=1),
        Column("FROM", lambda row: row["user_ip"], keep=2),
        Column("STARTED", lambda row: output.time(row["started_at"], short=True), keep=6),
        Column("TIME", lambda row: duration(_seconds_of(row)), keep=5, right=True),
        Column("SIZE", lambda row: size(row["size"] or 0), keep=3, right=True),
        Column("NOTES", _notes_of, keep=4),
    ]


def _state_of(row: Mapping[str, Any]) -> str:
    return "blocked" if row["blocked"] else str(row["state"])


def _seconds_of(row: Mapping[str, Any]) -> float:
    return float((row["ended_at"] or time.time()) - row["started_at"])


def _notes_of(row: Mapping[str, Any]) -> str:
    notes = []
    if row["findings"]:
        notes.append(f"{row['findings']} finding{'s' if row['findings'] > 1 else ''}")
    if row["viewers"]:
        notes.append(f"{row['viewers']} watching")
    if row.get("reason") and row["reason"] != "closed":
        notes.append(_ended_by(row))
    if row.get("reviewed_by"):
        notes.append("reviewed")
    if row.get("purged_at"):
        notes.append("purged")
    return ", ".join(notes)


def _ended_by(row: Mapping[str, Any]) -> str:
    return f"{row['reason']} by {row['by']}" if row.get("by") else str(row["reason"])


@click.command(cls=Command, short_help="Show everything known of one session.")
@session_argument()
@click.pass_obj
def show(run: Run, session: str) -> None:
    """Show everything known of one session: who, where, when, findings, who watched."""
    if (answer := run.ask("show", session=session)) is None:
        return
    run.output.facts(_facts_of(answer, run.output))


def _facts_of(answer: Mapping[str, Any], output: Output) -> list[tuple[str, str]]:
    """Give the fields of the mission's session page (M10), and what belongs to them."""
    row = answer["session"]
    channels = ", ".join(f"{count} {name}" for name, count in (row.get("channels") or {}).items())
    facts = [
        ("ID", row["id"]),
        ("State", _state_of(row)),
        ("Start", output.time(row["started_at"])),
        ("End", output.time(row["ended_at"]) if row["ended_at"] else ""),
        ("Type", row["protocol"]),
        ("Host", f"{row['host']} ({row['target']})"),
        ("Username", row["login"]),
        ("Error message", row.get("error", "")),
        ("User", row["user"]),
        ("User IP", row["user_ip"]),
        ("Logged in by", row["how"]),
        ("Size", size(row["size"] or 0)),
        ("Time", duration(_seconds_of(row))),
        ("Input, output", f"{size(row['input_bytes'] or 0)}, {size(row['output_bytes'] or 0)}"),
        ("Ended", _ended_by(row) if row.get("reason") else ""),
        ("Channels", channels),
        ("Findings", _findings_of(answer)),
    ]
    facts += [("", f"{found['severity']}: {found['text']}") for found in answer["found"]]
    if block := answer["block"]:
        facts.append(
            ("Blocked", f"by {block['by']} on {output.time(block['at'])}  {block['reason']}".rstrip())
        )
    if row.get("reviewed_at"):
        facts.append(("Reviewed", f"by {row['reviewed_by']} on {output.time(row['reviewed_at'])}"))
    if auditors := answer.get("auditors"):
        facts.append(("Auditors", ", ".join(auditors)))
    if hold := answer.get("hold"):
        facts.append(("Held", f"by {hold['by']} since {output.time(hold['at'])}: {hold['reason']}"))
    if row.get("purged_at"):
        facts.append(("Purged", f"{output.time(row['purged_at'])}: {row['purged_why']}"))
    return facts + [
        ("Watched by" if index == 0 else "", text) for index, text in enumerate(views_of(answer, output))
    ]


def _findings_of(answer: Mapping[str, Any]) -> str:
    row = answer["session"]
    if row["findings"] and not answer["found"]:
        return f"{row['findings']}; see: proxyctl log {row['id'][:ID_SHOWN]}"
    return str(row["findings"] or "none")


def views_of(answer: Mapping[str, Any], output: Output) -> list[str]:
    """Say who saw a session, each in a line; a live one also who watches now."""
    now = answer["session"]["viewers"]
    lines = [f"{now} watching now"] if now else []
    for view in answer["views"]:
        lasted = f", {duration(view['seconds'])}" if view.get("seconds") else ""
        lines.append(f"{view['who']} ({view['kind']}) on {output.time(view['at'])}{lasted}")
    return lines


@click.command(cls=Command, short_help="Watch a live session: its screen, desktop, or statements.")
@session_argument(live=True)
@click.option(
    "--channel", type=click.IntRange(min=0), metavar="N", help="Show this channel, not the first terminal."
)
@click.pass_obj
def watch(run: Run, session: str, channel: int | None) -> None:
    """Watch a live session as its user sees it, from any moment to its end; of a database session the statements.

    A desktop is drawn with half blocks: it takes a terminal with true colour, the larger the better.
    Keys: q leaves, b blocks the user's input, u unblocks it, d drops the session, r repaints.
    Into a pipe goes the raw output; with --json every record, one a line, or what changed on a desktop.
    """
    from proxyd.cli_desktop import live_desktop
    from proxyd.cli_queries import scene_of, view_of
    from proxyd.cli_view import Watching, watch_plainly
    from proxyd.terminal import showing

    client = run.client()
    if desktop := live_desktop(client, session):
        from proxyd.cli_look import watch_desktop

        if watch_desktop(run, desktop):
            run.output.remark("the session has ended")
        return
    end = None
    with client.stream("watch", session=session) as stream:
        if run.output.json:
            from proxyd.cli_recordings import print_records

            print_records(record for frame in stream for record in frame.get("records", ()))
            return
        with showing() as screen:
            if screen is None:
                end = watch_plainly(stream, lambda session: scene_of(session, channel), sys.stdout.buffer)
            else:
                end = Watching(client, session, view_of(run.output, channel)).show(stream, screen)
    if end is not None:
        run.output.remark(f"the session has ended: {_ended_by(end)}")


@click.command(cls=Command, short_help="Block a live session's input.")
@session_argument(live=True)
@click.option("--reason", default="", help="Why; kept in the recording and the ledger.")
@click.pass_obj
def block(run: Run, session: str, reason: str) -> None:
    """Block a live session's input: what its user types goes nowhere, and they may start no new session there."""
    if (answer := run.ask("block", session=session, reason=reason)) is None:
        return
    run.output.line(f"Blocked: {answer['user']} on {answer['target']} ({answer['session'][:ID_SHOWN]}).")
    if not answer.get("settled", True):
        run.output.remark(
            "the target has not confirmed yet what it got before the block; nothing passes since"
        )


class BlockedName(SessionName):
    """A session, or USER@TARGET of the list of blocked users."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Offer blocked users, then live sessions."""
        names: list[Any] = []
        for entry in offered(ctx, "blocked"):
            name = f"{entry['user']}@{entry['target']}"
            if name.startswith(incomplete):
                names.append(CompletionItem(name, help=f"blocked by {entry['by']}"))
        return names + super().shell_complete(ctx, param, incomplete)


@click.command(cls=Command, short_help="Release a blocked session or user.")
@click.argument("whom", type=BlockedName(live=True), metavar="SESSION|USER@TARGET")
@click.pass_obj
def unblock(run: Run, whom: str) -> None:
    """Release a blocked session, or a user from the list of blocked users."""
    if (answer := run.ask("unblock", whom=whom)) is None:
        return
    run.output.line(f"Released: {answer['user']} on {answer['target']}.")
    if answer["held"]:
        ids = ", ".join(name[:ID_SHOWN] for name in answer["held"])
        run.output.line(f"Still held, so no new sessions of theirs: {ids}.")


@click.command(cls=Command, short_help="List the blocked users.")
@click.pass_obj
def blocked(run: Run) -> None:
    """List the users who are blocked from starting sessions."""
    if (answer := run.ask("blocked")) is None:
        return
    columns = [
        Column("USER", lambda row: row["user"]),
        Column("TARGET", lambda row: row["target"]),
        Column("BY", lambda row: row["by"], keep=8),
        Column("SINCE", lambda row: run.output.time(row["at"]), keep=7),
        Column("REASON", lambda row: row["reason"], keep=6),
    ]
    run.output.table(columns, answer["blocked"], "Nobody is blocked.")


@click.command(cls=Command, short_help="Show the user of a live session a text.")
@session_argument(live=True)
@click.argument("text")
@click.pass_obj
def message(run: Run, session: str, text: str) -> None:
    """Show the user of a live session a TEXT: drawn over a desktop, in a terminal, as PostgreSQL's notice.

    It is in the recording and in the ledger. MySQL has no way to show one, nor has an SSH session without a terminal or
    command. psql shows it with the next statement's result.
    """
    if (answer := run.ask("message", session=session, text=text)) is None:
        return
    run.output.line(f"Shown to {answer['user']} on {answer['target']} ({answer['session'][:ID_SHOWN]}).")


@click.command(cls=Command, short_help="End a live session at once.")
@session_argument(live=True)
@click.option("--reason", default="", help="Why; kept in the recording and the ledger.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(run: Run, session: str, *, reason: str, yes: bool) -> None:
    """End a live session at once; its user sees "You have been disconnected"."""
    if not yes:
        if run.output.json or not sys.stdin.isatty():
            raise click.UsageError("nobody here to confirm the drop: add --yes")
        found = run.call("show", session=session)["session"]
        click.confirm(f"Drop the session of {who(found)}?", abort=True, err=True)
        session = found["id"]
    if (answer := run.ask("drop", session=session, reason=reason)) is None:
        return
    run.output.line(f"Dropped: {answer['user']} on {answer['target']} ({answer['session'][:ID_SHOWN]}).")


@click.command(cls=Command)
@click.pass_obj
def status(run: Run) -> None:
    """Show how the daemon is, and what you may do."""
    if (answer := run.ask("status")) is None:
        return
    live, disk, you = answer["sessions"], answer["recording"], answer["caller"]
    kinds = ", ".join(f"{count} {name}" for name, count in live["by_protocol"].items())
    seen = f"{live['blocked']} blocked, {live['viewers']} watching"
    free = f"{size(disk['free_bytes'])} free" if "free_bytes" in disk else "its disk can't be read"
    short = disk.get("free_bytes", 0) < disk["reserve_bytes"]
    warning = f", under the reserve of {size(disk['reserve_bytes'])}: no new sessions" if short else ""
    run.output.facts(
        [
            ("Node", f"{answer['node']}, proxyd {answer['version']}, process {answer['pid']}"),
            ("Up", f"{duration(answer['uptime_seconds'])}, since {run.output.time(answer['started_at'])}"),
            ("Configuration", answer["config"]),
            ("Sessions", f"{live['live']} live{f' ({kinds})' if kinds else ''}, {seen}"),
            ("Blocked users", str(answer["blocked_users"])),
            ("Recordings", f"{disk['directory']}: {disk['open']} open, {free}{warning}"),
            ("You", f"{you['name']} (uid {you['uid']}), {', '.join(you['roles']) or 'no role'}"),
            ("You may", ", ".join(you["permissions"])),
        ]
    )  # fmt: skip


@click.command(cls=Command, short_help="Read users, targets and grants again.")
@click.pass_obj
def reload(run: Run) -> None:
    """Let the daemon read users, targets and grants again; live sessions go on."""
    if (answer := run.ask("reload")) is None:
        return
    run.output.line(f"Reloaded: {answer['message']}.")


@click.group(cls=CommandLine)
def users() -> None:
    """List users, and make password hashes for them."""


@users.command("list")
@click.pass_obj
def list_users(run: Run) -> None:
    """List who may log in to the proxy, and how."""
    if (answer := run.ask("users")) is None:
        return
    columns = [
        Column("USER", lambda row: row["name"]),
        Column("ROLES", lambda row: ", ".join(row["roles"]), keep=8),
        Column("PASSWORD", lambda row: "yes" if row["password"] else "-", keep=5),
        Column("KEYS", lambda row: row["keys"] or "-", keep=6, right=True),
        Column("TOTP", lambda row: "yes" if row["totp"] else "-", keep=5),
        Column("PASSKEYS", lambda row: row["passkeys"] or "-", keep=8, right=True),
        Column("FACTORS", lambda row: ", ".join(row["factors"]), keep=4),
        Column("FROM", lambda row: ", ".join(row["source"]), keep=3),
    ]
    run.output.table(columns, answer["users"], "No users: add [users.NAME] to the configuration.")


@users.command("hash-password")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password from standard input, one line.")
@click.option(
    "--databases", is_flag=True, help="Also what PostgreSQL, MySQL, MariaDB and RDP clients prove it with."
)
@click.pass_obj
def hash_password(run: Run, *, from_stdin: bool, databases: bool) -> None:
    """Print the argon2id hash of a password, for a user's `password` in the configuration.

    With --databases, the lines of [users.NAME] for that and for database and RDP clients, which prove a password
    without sending it. Keep those that are needed: who reads one can guess, and from the last three quickly.
    """
    from proxyd import access

    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt="Once more", err=True)
    if not password:
        raise click.UsageError("an empty password is none")
    hashed = access.hash_password(password)
    if databases:
        _print_verifiers(run.output, hashed, password)
        return
    if run.output.json:
        run.output.document({"hash": hashed})
    run.output.line(hashed)


def _print_verifiers(output: Output, hashed: str, password: str) -> None:
    """Print what the configuration holds of one password, each line with what it is for."""
    from proxyd import verifiers

    made = {
        "password": (hashed, "SSH, and database and RDP clients that send it inside TLS"),
        "scram": (verifiers.scram(password), "PostgreSQL clients"),
        "mysql_native": (verifiers.mysql_native(password), "MySQL and MariaDB clients"),
        "mariadb_ed25519": (
            verifiers.mariadb_ed25519(password),
            "MariaDB clients that use the ed25519 plugin",
        ),
        "nt_hash": (verifiers.nt_hash(password), "RDP clients that prove it by Network Level Authentication"),
    }
    if output.json:
        output.document({name: value for name, (value, _) in made.items()})
    for name, (value, what) in made.items():
        output.line(f"# {what}")
        output.line(f'{name} = "{value}"')
