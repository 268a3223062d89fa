"""The commands of `proxyd`: serve, console, init, check, demo; `index` is cli_index's part."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxyd.cli_app import Command, CommandLine, Run, take_config
from proxyd.cli_output import FAILED

FALLBACK_SSH_PORT, FALLBACK_METRICS_PORT = 2222, 9322  # unprivileged, and free on most machines


def add_to(group: CommandLine) -> None:
    """Add these commands, in the order the help shows them."""
    from proxyd.cli_index import index

    for command in (serve, console, init, check, index, demo):
        group.add_command(command)


@click.command(short_help="Run the daemon.")
@take_config
@click.pass_obj
def serve(run: Run) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C; SIGHUP reloads."""
    from proxyd import daemon

    daemon.serve(run.find_config())


@click.command(short_help="Run the web console.")
@take_config
@click.pass_obj
def console(run: Run) -> None:
    """Run the web console in the foreground, until SIGTERM or Ctrl-C; SIGHUP reads users again.

    It asks the daemon at the control socket for whoever has signed in, and opens recordings with the identity that
    [recording] names. Where it listens, [console] says.
    """
    from proxyd.console import main

    main.run(run.find_config())


@click.command(cls=Command, short_help="Make a state directory, keys and a configuration.")
@click.option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR",
              help="Where everything goes; what is there already stays.")  # fmt: skip
@click.option("--ssh-port", type=click.IntRange(0, 65535), default=FALLBACK_SSH_PORT, show_default=True,
              help="Where users connect; 0 lets the system choose at each start.")  # fmt: skip
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=FALLBACK_METRICS_PORT, show_default=True,
              help="Where Prometheus scrapes.")  # fmt: skip
@click.pass_obj
def init(run: Run, directory: Path, ssh_port: int, metrics_port: int) -> None:
    """Make a state directory, keys and a commented configuration; never overwrites anything."""
    from proxyd import setup

    made = setup.initialise(directory, ssh_port=ssh_port, metrics_port=metrics_port)
    if run.output.json:
        run.output.document({"config": str(made.config), "created": [str(path) for path in made.created]})
        return
    for path in made.created:
        run.output.line(f"made  {path}")
    if not made.created:
        run.output.line(f"Everything is there already: {made.config}")
    run.output.line()
    run.output.line(f"Next: add users, targets and grants to {made.config}, then")
    run.output.line(f"  proxyd check --config {made.config}")
    run.output.line(f"  proxyd serve --config {made.config}")


@click.command(cls=Command, short_help="Check a configuration and what it names.")
@take_config
@click.pass_obj
def check(run: Run) -> None:
    """Check a configuration: the file itself, the keys it names, its directories, what nobody can use."""
    from proxyd.cli_check import findings

    config = run.config()
    found = list(findings(config))
    failed = any(finding.severity == "error" for finding in found)
    if run.output.json:
        run.output.document({"ok": not failed, "findings": [finding._asdict() for finding in found]})
    for finding in found:
        run.output.line(f"{finding.severity}: {finding.where}: {finding.text}")
    if not found:
        counts = ((config.users, "users"), (config.targets, "targets"), (config.grants, "grants"))
        run.output.line(
            f"{config.path} is good: {', '.join(f'{len(some)} {name}' for some, name in counts)}."
        )
    if failed:
        sys.exit(FAILED)


@click.command(short_help="Show it all on this machine.")
@click.option("--once", is_flag=True, help="End after the first session, instead of staying up.")
@click.option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where to; kept. Else a temporary directory, removed at the end.")  # fmt: skip
def demo(*, once: bool, directory: Path | None) -> None:
    """Show it all on this machine: targets, the daemon, real SSH and database sessions, and what was recorded."""
    from proxyd import demo as demonstration

    sys.exit(demonstration.run(once=once, directory=directory))
