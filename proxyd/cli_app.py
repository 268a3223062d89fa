"""What both command lines are made of: how errors end a run, the shared options, and how a session is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.shell_completion import CompletionItem

from proxyd.cli_output import FAILED, ID_SHOWN, MISUSED, Output
from proxyd.errors import ConfigError, ProxydError

if TYPE_CHECKING:
    from proxyd.config import Config
    from proxyd.control.client import Client

CONFIG_PLACES = (Path("proxyd.toml"), Path("/etc/proxyd/proxyd.toml"))
INTERRUPTED, PIPE_CLOSED = 130, 141  # as shells report SIGINT and SIGPIPE
COMPLETION_SECONDS = 2.0  # a person waits for the tab key
COMPLETION_LIMIT = 50


@dataclass(slots=True)
class Run:
    """One run of a command line: how it prints, which daemon it is about, and for which user at which address it asks."""

    output: Output
    config_path: Path | None = None
    socket: Path | None = None
    acting_for: tuple[str, str] | None = None

    def find_config(self) -> Path:
        """Say which configuration counts. Raises ConfigError when there is none."""
        named = self.config_path or (Path(env) if (env := os.environ.get("PROXYD_CONFIG")) else None)
        if named:
            return named
        for place in CONFIG_PLACES:
            if place.exists():
                return place
        places = ", ".join(["$PROXYD_CONFIG", *map(str, CONFIG_PLACES)])
        raise ConfigError(
            f"no configuration found ({places}): name one with --config, or make one with: proxyd init --dir DIR"
        )

    def config(self) -> Config:
        """Load the configuration. Raises ConfigError."""
        from proxyd.config import load

        return load(self.find_config())

    def client(self, **options: Any) -> Client:
        """Give the client of the daemon named by --socket, or by the configuration."""
        from proxyd.control.client import Client

        options |= {"acting_for": self.acting_for}
        if self.socket is not None:
            return Client(self.socket, **options)
        start = f"proxyd serve --config {self.find_config()}"
        return Client(self.config().control.socket, start=start, **options)

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Ask the daemon one command. Raises ControlError, ConfigError."""
        return self.client().call(name, **arguments)

    def ask(self, name: str, **arguments: Any) -> dict[str, Any] | None:
        """Ask the daemon one command; with --json, print the answer and give None: there is nothing more to say.

        Raises ControlError, ConfigError.
        """
        answer = self.call(name, **arguments)
        if not self.output.json:
            return answer
        self.output.document(answer)
        return None


class Command(click.Command):
    """A command that takes --json and --utc after its name as well as before it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [_json_option(), _utc_option()]


class CommandLine(click.Group):
    """A group that lists its commands in the order of their use, and ends every error in one line."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names as they were added."""
        del ctx
        return [name for name, command in self.commands.items() if not command.hidden]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for one that does not exist, suggest the nearest."""
        if ctx.resilient_parsing or self.get_command(ctx, args[0]):
            return super().resolve_command(ctx, args)
        import difflib

        near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.list_commands(ctx))}"
        raise click.UsageError(f"no command {args[0]!r}, {hint}", ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002  click's signature
        **extra: Any,
    ) -> Any:
        """Run, and exit with 0, 1 or 2 (module `cli`, Rule 1)."""
        words = list(sys.argv[1:] if args is None else args)
        name = prog_name or self.name or "proxyd"
        output = Output(name, json="--json" in words)
        extra.setdefault("obj", Run(output))
        if not standalone_mode:
            return super().main(words, name, complete_var, standalone_mode=False, **extra)
        try:
            status = super().main(words, name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except Exception as error:  # noqa: BLE001  sorted there; a bug is raised again
            _end(error, output)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)


def _end(error: Exception, output: Output) -> NoReturn:
    """End a run with what `error` means for its user; raises it again when it is a bug of ours."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        sys.exit(MISUSED)
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else output.program
        output.fail(
            f"{_first_lower(error.format_message()).rstrip('.')} (see: {path} --help)", "usage", MISUSED
        )
    if isinstance(error, click.ClickException):
        output.fail(error.format_message(), "failed", error.exit_code)
    if isinstance(error, click.Abort):
        output.fail("stopped; nothing was done", "stopped")
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        sys.exit(PIPE_CLOSED)
    if isinstance(error, ConfigError):
        output.fail(str(error), "config", MISUSED)
    if isinstance(error, ProxydError):
        code = str(getattr(error, "code", "failed"))
        output.fail(str(error), code, MISUSED if code == "usage" else FAILED)
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        output.fail(what, "failed")
    raise error


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


# ---------------------------------------------------------------------------- options many commands share


def _into(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        run = ctx.find_object(Run)
        if value and run is not None:
            setattr(run.output if hasattr(run.output, name) else run, name, value)

    return keep


def _no_color(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001  click's signature
    if value and (run := ctx.find_object(Run)) is not None:
        run.output.color = False


def _json_option() -> click.Option:
    text = "Print one JSON document; of streams, one a line."
    return click.Option(["--json"], is_flag=True, expose_value=False, callback=_into("json"), help=text)


def _utc_option() -> click.Option:
    text = "Show times in UTC, not in local time."
    return click.Option(["--utc"], is_flag=True, expose_value=False, callback=_into("utc"), help=text)


_FILE = click.Path(path_type=Path, dir_okay=False)
take_config = click.option(
    "--config", type=_FILE, expose_value=False, callback=_into("config_path"), metavar="FILE",
    help="The configuration; else $PROXYD_CONFIG, ./proxyd.toml, /etc/proxyd/proxyd.toml.",
)  # fmt: skip
take_socket = click.option(
    "--socket", type=_FILE, expose_value=False, callback=_into("socket"), metavar="PATH",
    help="The control socket; else the one the configuration names.",
)  # fmt: skip
take_json = click.option(
    "--json", is_flag=True, expose_value=False, callback=_into("json"),
    help="Print one JSON document; of streams, one a line.",
)  # fmt: skip
take_utc = click.option(
    "--utc",
    is_flag=True,
    expose_value=False,
    callback=_into("utc"),
    help="Show times in UTC, not in local time.",
)
take_no_color = click.option(
    "--no-color", is_flag=True, expose_value=False, callback=_no_color, help="No colours; so does NO_COLOR."
)


# ---------------------------------------------------------------------------- what is named, completed


def offered(ctx: click.Context, command: str, **arguments: Any) -> list[dict[str, Any]]:
    """Give the rows a command of the daemon answers with under its own name; none when no daemon answers."""
    run = ctx.find_object(Run)
    if run is None:
        return []
    try:
        rows: list[dict[str, Any]] = run.client(deadline_s=COMPLETION_SECONDS).call(command, **arguments)[
            command
        ]
    except (ProxydError, OSError):
        return []
    return rows


def ids_of(
    rows: list[dict[str, Any]], incomplete: str, about: Callable[[dict[str, Any]], str]
) -> list[CompletionItem]:
    """Give the ids that begin so, as short as they are shown, each with what it is."""
    shown = max(ID_SHOWN, len(incomplete))
    return [
        CompletionItem(row["id"][:shown], help=about(row)) for row in rows if row["id"].startswith(incomplete)
    ]


class SessionName(click.ParamType[str]):
    """A session's id, or its beginning; completed with those the daemon knows."""

    name = "session"

    def __init__(self, *, live: bool = False) -> None:
        self._live = live

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take it as it is; the daemon knows which there are."""
        del param, ctx
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer sessions, newest first; nothing when no daemon answers."""
        del param
        state = "live" if self._live else ""
        rows = offered(ctx, "sessions", state=state, limit=COMPLETION_LIMIT)
        return ids_of(rows, incomplete, lambda row: f"{row['user']}@{row['target']} {row['state']}")


def session_argument(*, live: bool = False) -> Callable[[Any], Any]:
    """Take a SESSION argument."""
    return click.argument("session", type=SessionName(live=live), metavar="SESSION")


def who(session: dict[str, Any]) -> str:
    """Say whose session it is: alice on root@db1 (1a2b3c4d)."""
    return f"{session['user']} on {session['login']}@{session['target']} ({session['id'][:ID_SHOWN]})"
