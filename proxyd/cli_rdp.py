"""`proxyctl rdp-file` and `rdp-revoke`: session tokens, and the files that clients open with them.

Rule 1: a token is printed once, where nobody else reads it, and is kept nowhere; the file has it only where that was
        asked for.
Rule 2: no file is replaced unasked, before a token is issued for it; it is for your eyes only (0600).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from proxyd.cli_app import Command, CommandLine, Run, offered
from proxyd.cli_output import duration
from proxyd.errors import ProxydError

LIFETIME = 300.0  # seconds of a token whose lifetime nobody named, as `tokens` has it
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def add_to(group: CommandLine) -> None:
    """Add these commands."""
    for command in (rdp_file, rdp_revoke):
        group.add_command(command)


class Seconds(click.ParamType[float]):
    """A length of time: 90, 90s, 10m, 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Give seconds; the daemon knows how many may be asked for."""
        match = re.fullmatch(r"(\d+)([smh]?)", str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is no length of time: 90, 90s, 10m or 1h", param, ctx)
        return float(int(match[1]) * UNITS[match[2]])


class UserName(click.ParamType[str]):
    """A user of the proxy, completed with those the daemon knows."""

    name = "user"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer users; nothing when no daemon answers."""
        del param
        names = (row["name"] for row in offered(ctx, "users"))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class TargetName(click.ParamType[str]):
    """A target, completed with those of the configuration that speak RDP."""

    name = "target"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer targets; nothing when the configuration can't be read here."""
        del param
        run = ctx.find_object(Run)
        try:
            targets = run.config().targets if run else {}
        except (ProxydError, OSError):
            return []
        found = [name for name, target in targets.items() if target.protocol == "rdp"]
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]


@click.command("rdp-file", cls=Command, short_help="Write a .rdp file with a session token for a user.")
@click.argument("user", type=UserName(), metavar="USER")
@click.option("--target", required=True, type=TargetName(), metavar="NAME", help="Where it leads.")
@click.option(
    "--login", default="", metavar="NAME", help="The account there; needed where there are several."
)
@click.option("--lifetime", default="5m", type=Seconds(), metavar="TIME", show_default=True,
              help="How long it opens a session; at most 1h.")  # fmt: skip
@click.option("-o", "--output", "path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where to; else USER-TARGET.rdp.")  # fmt: skip
@click.option("--with-token", is_flag=True, help="Put the token into the file: FreeRDP then asks nothing.")
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.pass_obj
def rdp_file(
    run: Run, user: str, *, target: str, login: str, lifetime: float, path: Path | None, with_token: bool, force: bool
) -> None:  # fmt: skip
    """Write a .rdp file and print a session token: the password with which USER opens it, once or again.

    The token is good for USER and this target alone, for five minutes; once a session is open, for its reconnects too, until
    ten minutes behind its end. It stands for USER's password and second factor: give it to them and nobody else.

    mstsc asks for the token when the file is opened; FreeRDP does too, unless it is --with-token.
    """
    place = free_path(path, f"{user}-{target}.rdp", force=force)
    answer = run.call("rdp-file", user=user, target=target, login=login, lifetime=lifetime)
    hand_over(run, answer, place, with_token=with_token, lifetime=lifetime)


def free_path(path: Path | None, name: str, *, force: bool = False) -> Path:
    """Give where a file goes: `path`, else `name`. Raises ProxydError where something is there already."""
    path = path or Path(re.sub(r"[^\w.-]", "_", name))
    if path.exists() and not force:
        raise ProxydError(f"{path} exists: add --force to replace it, or name another with -o")
    return path


def hand_over(
    run: Run, answer: dict[str, Any], path: Path, *, with_token: bool, lifetime: float = LIFETIME
) -> None:
    """Write the file, and print the token once (Rule 1)."""
    from proxyd.cli_recordings import write_private
    from proxyd.rdp_file import render

    write_private(
        path, [render(answer["address"], answer["username"], answer["token"] if with_token else "")]
    )
    if run.output.json:
        run.output.document(answer | {"path": str(path), "in_file": with_token})
        return
    run.output.line(f"{path}: {answer['username']} at {answer['address']}")
    where = "; the file has it too" if with_token else ""
    run.output.line(f"Token, good for {duration(lifetime)}{where}: {answer['token']}")


@click.command("rdp-revoke", cls=Command, short_help="End the session tokens of a user.")
@click.argument("user", type=UserName(), metavar="USER")
@click.option("--target", default="", type=TargetName(), metavar="NAME", help="Only those for this target.")
@click.pass_obj
def rdp_revoke(run: Run, user: str, target: str) -> None:
    """End the session tokens of USER at once; sessions they opened go on, but do not come back by them."""
    if (answer := run.ask("rdp-revoke", user=user, target=target)) is None:
        return
    run.output.line(
        f"Ended: {answer['revoked']} session tokens of {user}{f' for {target}' if target else ''}."
    )
