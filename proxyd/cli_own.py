"""`proxyctl own ...`: what people do for themselves; and what operators do for others' sign-ins and factors (`users`).

Rule 1: passwords and codes are asked for on the terminal, or read from standard input; never taken as an argument.
Rule 2: a secret that is answered is printed once, where nobody else reads it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from proxyd.cli_app import Command, CommandLine, Run
from proxyd.cli_output import Column
from proxyd.cli_rdp import UserName, free_path, hand_over
from proxyd.errors import ProxydError


def add_to(group: CommandLine) -> None:
    """Add these commands."""
    group.add_command(own)
    users = group.commands["users"]
    assert isinstance(users, click.Group)  # noqa: S101 - cli_sessions made it
    users.add_command(recovery_code)
    users.add_command(unenrol)
    users.add_command(signed_in)
    users.add_command(sign_out)


@click.group(cls=CommandLine, short_help="What you may reach, and what you log in with.")
def own() -> None:
    """See what you may reach and how, and set up what you log in with.

    It is for operators whose entry of [[control.operators]] says which user they are. In the console: "My access".
    """


@own.command("access")
@click.pass_obj
def access(run: Run) -> None:
    """List what you may reach, with the commands that do it, and by what you know the proxy."""
    if (answer := run.ask("access")) is None:
        return
    for row in answer["targets"]:
        run.output.line(f"{row['target']} ({row['protocol']}) as {row['login']}")
        for way in row["ways"]:
            run.output.line(f"  {way['name']}: {way['command']}")
    if not answer["targets"]:
        run.output.remark("there is nothing you may reach now; ask for a grant")
    for name, front in answer["fronts"].items():
        shown = ", ".join(front["fingerprints"]) or f"SHA256 {front['sha256']}"
        run.output.line(f"{name} at {front['host']}:{front['port']} shows {shown}")


@own.command("keys")
@click.pass_obj
def keys(run: Run) -> None:
    """List your SSH keys."""
    if (answer := run.ask("access")) is None:
        return
    columns = [
        Column("FINGERPRINT", lambda row: row["fingerprint"], keep=20),
        Column("TYPE", lambda row: row["kind"], keep=8),
        Column("COMMENT", lambda row: row["comment"], keep=6),
        Column(
            "ADDED",
            lambda row: run.output.time(row["added_at"]) if row["own"] else "by configuration",
            keep=8,
        ),
        Column("LAST USED", lambda row: run.output.time(row["used_at"]) if row["used_at"] else "-", keep=8),
    ]
    run.output.table(columns, answer["keys"], "You have no SSH keys.")


@own.command("add-key")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE.pub")
@click.pass_obj
def add_key(run: Run, file: Path) -> None:
    """Add an SSH key of yours: the public half, FILE.pub."""
    with file.open("rb") as opened:
        line = opened.read(8192).decode(errors="replace")
    answer = run.call("own-key-add", line=line, **_again(run))
    _said(run, answer, f"Added: {answer['fingerprint']}")


@own.command("remove-key")
@click.argument("fingerprint", metavar="SHA256:...")
@click.pass_obj
def remove_key(run: Run, fingerprint: str) -> None:
    """Remove an SSH key you added."""
    answer = run.call("own-key-remove", fingerprint=fingerprint, **_again(run))
    _said(run, answer, f"Removed: {answer['fingerprint']}")


@own.command("authenticator")
@click.pass_obj
def authenticator(run: Run) -> None:
    """Set up an authenticator, in place of any other: print its secret, then take its first code."""
    begun = run.call("own-totp", **_again(run))
    click.echo(f"Type this into your authenticator: {begun['secret']}\n{begun['uri']}", err=True)
    code = _asked("The code it shows now", hidden=False)
    answer = run.call("own-totp-confirm", code=code)
    _said(run, answer, "It counts from now on. " + _codes(answer))


@own.command("passkeys")
@click.pass_obj
def list_passkeys(run: Run) -> None:
    """List your security keys and passkeys; you add one in the console, on "My access"."""
    if (answer := run.ask("access")) is None:
        return
    columns = [
        Column("NAME", lambda row: row["name"], keep=8),
        Column("FINGERPRINT", lambda row: row["fingerprint"], keep=20),
        Column("FOR", lambda row: row["place"], keep=6),
        Column("ADDED", lambda row: run.output.time(row["added_at"]), keep=8),
        Column("LAST USED", lambda row: run.output.time(row["used_at"]) if row["used_at"] else "-", keep=8),
    ]
    run.output.table(columns, answer["passkeys"], "You have no security keys.")


@own.command("remove-passkey")
@click.argument("fingerprint", metavar="SHA256:...")
@click.pass_obj
def remove_passkey(run: Run, fingerprint: str) -> None:
    """Remove a security key of yours; one of several, or beside an authenticator."""
    answer = run.call("own-passkey-remove", fingerprint=fingerprint, **_again(run))
    _said(run, answer, f"Removed: {answer['name']} ({answer['fingerprint']})")


@own.command("recovery-codes")
@click.pass_obj
def recovery_codes(run: Run) -> None:
    """Make new recovery codes, in place of the old ones."""
    answer = run.call("own-recovery", **_again(run))
    _said(run, answer, _codes(answer))


@own.command("rdp-file")
@click.argument("target", metavar="TARGET")
@click.option(
    "--login", default="", metavar="NAME", help="The account there; needed where there are several."
)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where to; else TARGET.rdp.")  # fmt: skip
@click.option("--with-token", is_flag=True, help="Put the token into the file: FreeRDP then asks nothing.")
@click.pass_obj
def own_rdp_file(run: Run, target: str, *, login: str, path: Path | None, with_token: bool) -> None:
    """Write a .rdp file for yourself and print a token, good for one session within five minutes."""
    place = free_path(path, f"{target}.rdp")
    answer = run.call("own-desktop", target=target, login=login, **_again(run))
    hand_over(run, answer, place, with_token=with_token)


@click.command("recovery-code", cls=Command)
@click.argument("user", type=UserName(), metavar="USER")
@click.pass_obj
def recovery_code(run: Run, user: str) -> None:
    """Print a recovery code for USER: with their password it signs them in to the console once, without a second factor.

    There they set up an authenticator. Give it to them and nobody else.
    """
    if (answer := run.ask("recovery-code", user=user)) is not None:
        run.output.line(answer["code"])


@click.command("unenrol", cls=Command)
@click.argument("user", type=UserName(), metavar="USER")
@click.option("--passkeys", "alone", is_flag=True, help="Their security keys and passkeys alone.")
@click.pass_obj
def unenrol(run: Run, user: str, *, alone: bool) -> None:
    """Take away all USER has set up: keys, authenticator, recovery codes; what the configuration gives them stays.

    Where they have lost a security key, and nothing else, --passkeys takes those away and leaves the rest.
    """
    if (answer := run.ask("unenrol", user=user, what="passkeys" if alone else "all")) is not None:
        device = " and an authenticator" if answer["totp"] else ""
        run.output.line(
            f"Removed of {user}: {answer['keys']} SSH keys, {answer['passkeys']} security keys{device}."
        )


@click.command("signed-in", cls=Command)
@click.pass_obj
def signed_in(run: Run) -> None:
    """List who is signed in to the console, since when, from where, and when they last asked for something."""
    if (answer := run.ask("sign-ins")) is None:
        return
    columns = [
        Column("NUMBER", lambda row: row["number"], keep=16),
        Column("USER", lambda row: row["user"], keep=8),
        Column("FROM", lambda row: row["address"], keep=9),
        Column("SINCE", lambda row: run.output.time(row["began_at"]), keep=8),
        Column("LAST REQUEST", lambda row: run.output.time(row["seen_at"]), keep=8),
        Column("BROWSER", lambda row: row["agent"], keep=8),
    ]
    run.output.table(columns, answer["sign_ins"], "Nobody is signed in to the console.")


@click.command("sign-out", cls=Command)
@click.argument("user", type=UserName(), metavar="USER")
@click.argument("number", default="", metavar="[NUMBER]")
@click.pass_obj
def sign_out(run: Run, user: str, number: str) -> None:
    """Sign USER out of the console, in the one browser that `signed-in` gives NUMBER, or in all."""
    if (answer := run.ask("sign-out", user=user, number=number)) is not None:
        run.output.line(f"{answer['ended']} of {user} signed out.")


def _said(run: Run, answer: Mapping[str, Any], text: str) -> None:
    if run.output.json:
        run.output.document(dict(answer))
    else:
        run.output.line(text)


def _codes(answer: Mapping[str, Any]) -> str:
    return "\n".join(
        ["Each of these signs you in to the console once, with your password:", *answer["codes"]]
    )


def _again(run: Run) -> dict[str, str]:
    """Ask for what a change takes (Rule 1)."""
    has = run.call("access")
    password = _asked("Password", hidden=True) if has["password"] else ""
    code = ""
    if has["totp"]["has"] or has["passkeys"]:  # a security key answers browsers alone
        code = _asked("One-time code" if has["totp"]["has"] else "Recovery code", hidden=False)
    return {"password": password, "code": code}


def _asked(prompt: str, *, hidden: bool) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(prompt, hide_input=hidden, err=True))
    if not (line := sys.stdin.readline().rstrip("\r\n")):
        raise ProxydError(
            f"{prompt.lower()} is asked for: type it, or send it on standard input, one line each"
        )
    return line
