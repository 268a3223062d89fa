"""The two command lines: `proxyd` runs the daemon, `proxyctl` asks it.

Rule 1: exit status 0 is done, 1 refused or failed, 2 wrong use or a broken configuration.
Rule 2: an error is one line, `PROGRAM: what happened, and what to do`, on standard error.
Rule 3: what a command needs is imported when it runs: help and completion answer at once.
"""

from __future__ import annotations

import click

from proxyd import (
    __version__,
    cli_daemon,
    cli_keeping,
    cli_own,
    cli_rdp,
    cli_recordings,
    cli_review,
    cli_sessions,
)
from proxyd.cli_app import CommandLine, Run, take_config, take_json, take_no_color, take_socket, take_utc

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=CommandLine, context_settings=SETTINGS)
@click.version_option(__version__, message="%(prog)s %(version)s")
def proxyd() -> None:
    """Record and control SSH and database sessions: users connect through it, and never see a target's credentials.

    First time: proxyd demo, or proxyd init --dir DIR. Operators use proxyctl.
    """


@click.group(cls=CommandLine, context_settings=SETTINGS)
@take_config
@take_socket
@take_json
@take_utc
@take_no_color
@click.version_option(__version__, message="%(prog)s %(version)s")
def proxyctl() -> None:
    """See and control the sessions of a running proxyd, replay and verify what it recorded.

    A SESSION is an id or the beginning of one; `proxyctl sessions` lists them.
    """


@proxyctl.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(run: Run, shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    bash:  eval "$(proxyctl completion bash)"              in ~/.bashrc
    zsh:   eval "$(proxyctl completion zsh)"               in ~/.zshrc
    fish:  proxyctl completion fish | source               in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        run.output.fail(f"no completion for {shell}", "usage")
    click.echo(found(proxyctl, {}, "proxyctl", "_PROXYCTL_COMPLETE").source())


cli_daemon.add_to(proxyd)
cli_sessions.add_to(proxyctl)
cli_recordings.add_to(proxyctl)
cli_review.add_to(proxyctl)
cli_keeping.add_to(proxyctl)
cli_rdp.add_to(proxyctl)
cli_own.add_to(proxyctl)
proxyctl.add_command(proxyctl.commands.pop("completion"))  # last in the help, as the least asked for
