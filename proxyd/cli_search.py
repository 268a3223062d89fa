"""`proxyctl search`: the daemon says in which sessions and when; what stands there is read here, with the identity.

Rule 1: whatever a session showed, it stands behind its time and source, on one line, without control characters.
Rule 2: without an identity, while a session lives, or where a recording can't be read, the hit stays without its text.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click

from proxyd.cli_app import Command, Run, who
from proxyd.cli_output import ID_SHOWN, clean, position
from proxyd.cli_recordings import open_recording, take_identity
from proxyd.cli_sessions import Moment
from proxyd.errors import FormatError, ProxydError
from proxyd.search import SOURCES

if TYPE_CHECKING:
    from proxyd.search.query import Query, Span

SOURCE_WIDE = max(map(len, SOURCES))
BEFORE_S = 2  # that a replay begins before what was found
LEAST_ROOM = 30  # characters of text on the narrowest terminal
POSITION_WIDE = 11  # 10:02:03.000
SINCE = "Typed or shown after this: 2h, yesterday, 14:00, 2026-11-21."


class Sources(click.ParamType[list[str]]):
    """Where to search: some of SOURCES, with commas."""

    name = "where"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Give their names."""
        if isinstance(value, list):
            return value
        names = [name.strip() for name in str(value).split(",") if name.strip()]
        for name in names:
            if name not in SOURCES:
                self.fail(f"{name!r} is none of {', '.join(SOURCES)}", param, ctx)
        return names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Offer those that are not there yet."""
        del ctx, param
        said, comma, rest = incomplete.rpartition(",")
        left = [name for name in SOURCES if name not in said.split(",") and name.startswith(rest)]
        return [click.shell_completion.CompletionItem(f"{said}{comma}{name}") for name in left]


@click.command(cls=Command, short_help="Find words that were typed and shown.")
@click.argument("words", nargs=-1, required=True, metavar="TEXT...")
@click.option("--in", "sources", type=Sources(), default=[], metavar="WHERE,...",
              help=f"Only there: {', '.join(SOURCES)}.")  # fmt: skip
@click.option("--user", default="", help="Of this user; a glob, as 'dba-*'.")
@click.option("--target", default="", help="To this target; a glob.")
@click.option("--protocol", default="", help="Of this protocol, as ssh.")
@click.option("--since", type=Moment(), help=SINCE)
@click.option("--until", type=Moment(), help="Typed or shown before this.")
@click.option(
    "--limit", default=50, type=click.IntRange(1, 1000), metavar="N", help="At most so many; else 50."
)
@click.option("--each", default=5, type=click.IntRange(0, 1000), metavar="N",
              help="At most so many of one session; else 5. 0: no bound.")  # fmt: skip
@click.option("--no-text", is_flag=True, help="Only say where; open no recording.")
@take_identity
@click.pass_obj
def search(
    run: Run, /, words: tuple[str, ...], *, no_text: bool, identity: Path | None, **wanted: Any
) -> None:
    """Find words that were typed, shown, run and answered, the newest session first.

    All words must stand in one command, statement or line of a screen; "quoted" ones side by side; pass* fits what begins
    so; OR and NOT in capitals do what they say. Options stand before the words that begin with a -.
    """
    text = " ".join(words)
    query = _query(text)
    key = None if no_text else _identity(run, identity)
    asked = {name: value for name, value in wanted.items() if value not in ("", None, [])}
    answer = run.call("search", text=text, **asked)
    texts = _texts(run, answer, key) if key is not None else {}
    if run.output.json:
        _print_json(run, answer, texts, query)
        return
    _print(run, answer, texts, query)
    if key is None and not no_text and answer["hits"]:
        run.output.remark("the texts are in the recordings: --identity FILE names what opens them")


def _query(text: str) -> Query:
    from proxyd.search.query import QueryError, parse

    try:
        return parse(text)
    except QueryError as error:
        raise click.UsageError(str(error)) from None


def _identity(run: Run, identity: Path | None) -> Path | None:
    """Find the identity file, if there is one that can be read; one that was named must be. Raises ProxydError."""
    key = identity or run.config().recording.identity
    if key is not None and os.access(key, os.R_OK):
        return key
    if identity is not None:
        raise ProxydError(f"the identity file {identity} can't be read by you: recordings open only with it")
    return None


def _texts(run: Run, answer: Mapping[str, Any], key: Path) -> dict[tuple[str, int], str]:
    """Read what was found (rule 2)."""
    from proxyd.control.client import ControlError
    from proxyd.search.snippet import read

    texts: dict[tuple[str, int], str] = {}
    ended = [hit for hit in answer["hits"] if not hit["live"]]
    for session, group in itertools.groupby(ended, key=itemgetter("session")):
        hits = list(group)
        numbers, moments = {hit["number"] for hit in hits}, [hit["at_us"] for hit in hits]
        span = {"first_us": min(moments), "last_us": max(moments)}
        try:
            found = read(open_recording(run, "search", session, key, **span).recording.sidecar(), numbers)
        except FormatError as error:
            run.output.remark(
                f"{session[:ID_SHOWN]}: {error}; proxyd index {session[:ID_SHOWN]} makes it anew"
            )
            continue
        except ControlError as error:  # it was purged meanwhile, or may not be seen
            run.output.remark(f"{session[:ID_SHOWN]}: {error}")
            continue
        texts |= {(session, number): text.text for number, text in found.items()}
    return texts


def _print_json(
    run: Run, answer: Mapping[str, Any], texts: Mapping[tuple[str, int], str], query: Query
) -> None:
    from proxyd.search.snippet import snippet

    hits = []
    for hit in answer["hits"]:
        text = texts.get((hit["session"], hit["number"]))
        found = None if text is None else snippet(text, query)
        shown = {
            "snippet": found.text if found else None,
            "spans": [list(span) for span in found.spans] if found else [],
        }
        hits.append(dict(hit) | shown)
    run.output.document({"hits": hits, "more": answer["more"], "seconds": answer["seconds"]})


def _print(run: Run, answer: Mapping[str, Any], texts: Mapping[tuple[str, int], str], query: Query) -> None:
    """Print the hits below their sessions (rule 1)."""
    from proxyd.search.snippet import snippet

    output = run.output
    if not answer["hits"]:
        output.line("Nothing found.")
        return
    for place, (session, hits) in enumerate(itertools.groupby(answer["hits"], key=itemgetter("session"))):
        mine = list(hits)
        if place:
            output.line()
        click.echo(_styled(run, _about(run, mine[0]), bold=True))
        for hit in sorted(mine, key=lambda hit: hit["number"]):
            text = texts.get((session, hit["number"]))
            found = snippet(text, query, _room()) if text is not None else None
            head = f"  {position(hit['at_us']):>{POSITION_WIDE}}  {hit['source']:<{SOURCE_WIDE}}"
            click.echo(f"{head}  {_marked(run, found.text, found.spans)}" if found else head.rstrip())
    output.line()
    if answer["more"]:
        output.line("There is more: --limit and --each show it, --in, --user, --target, --since narrow it.")
    output.line(f"See one: {_way_to(answer['hits'][0])}")


def _about(run: Run, hit: Mapping[str, Any]) -> str:
    began = run.output.time(hit["started_at"])
    return ", ".join(
        [who({**hit, "id": hit["session"]}), hit["protocol"], began, *(["live"] if hit["live"] else [])]
    )


def _way_to(hit: Mapping[str, Any]) -> str:
    """Say how to see the moment of a hit."""
    session, seconds = hit["session"][:ID_SHOWN], hit["at_us"] // 1_000_000
    if hit["live"]:
        return f"proxyctl watch {session}"
    if hit["protocol"] == "rdp":
        return f"proxyctl screenshot {session} --at {seconds} -o {session}.png"
    return f"proxyctl replay {session} --from {max(seconds - BEFORE_S, 0)}"


def _room() -> int:
    """Give the characters of text that fit on a line of the terminal; into a pipe go as many as a snippet has."""
    from proxyd.search.snippet import ELLIPSIS, WIDE

    if not sys.stdout.isatty():
        return WIDE
    gutter = 2 + POSITION_WIDE + 2 + SOURCE_WIDE + 2 + 2 * len(ELLIPSIS)
    return max(get_terminal_size().columns - gutter, LEAST_ROOM)


def _marked(run: Run, text: str, spans: Sequence[Span]) -> str:
    """Mark what was found."""
    parts, at = [], 0
    for begin, end in spans:
        parts += [clean(text[at:begin]), _styled(run, text[begin:end], bold=True, fg="yellow")]
        at = end
    return "".join([*parts, clean(text[at:])])


def _styled(run: Run, text: str, **style: Any) -> str:
    plain = not run.output.color or bool(os.environ.get("NO_COLOR"))
    return clean(text) if plain else click.style(clean(text), **style)
