"""The forms a recording can be exported to, and how: `export` writes some, a process of its own makes the others."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from proxyd.errors import FormatError
from proxyd.recorder.queries import PROTOCOLS

CASTS: Final = ("asciicast", "asciicast2")
FILMS: Final = ("webm", "mp4")
APART: Final = (*FILMS, "pyrdp")  # made by a process of their own: they take a place among the jobs
FORMS: Final = (*CASTS, "jsonl", "csv")
EVERY: Final = (*FORMS, *APART)
DESKTOP: Final = "rdp"  # the protocol of sessions that have one
OF_DESKTOPS: Final = (*APART, "jsonl")
OF_TERMINALS: Final = (*CASTS, "jsonl", *FILMS)
OF_STATEMENTS: Final = ("jsonl", "csv")
SHORTEST_PAUSE_S: Final = 0.5  # a pause cut to less is no pause any more: who types stops as long
FASTEST: Final = 16  # as the player goes: faster, nobody can follow


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a recording is exported. `keys`: with what was typed; `channel`: of this one, not the first terminal.

    Of films: `pause_s`, a pause in which nothing happens takes so many seconds at most; `speed`, what is left goes by so
    many times as fast, and without its sound; `half`, pictures half as wide and high.
    """

    keys: bool = False
    channel: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] | None = None
    pause_s: Annotated[float, msgspec.Meta(ge=SHORTEST_PAUSE_S, le=86_400)] | None = None
    speed: Annotated[int, msgspec.Meta(ge=1, le=FASTEST)] = 1
    half: bool = False


def forms_of(protocol: str) -> tuple[str, ...]:
    """Give the forms a recording of `protocol` can be exported to, the usual one first."""
    if protocol == DESKTOP:
        return OF_DESKTOPS
    return OF_STATEMENTS if protocol in PROTOCOLS else OF_TERMINALS


def choose(form: str, protocol: str) -> str:
    """Give the form to write a recording of `protocol` in, the usual one for "". Raises FormatError if it can't be."""
    has_statements, has_desktop = protocol in PROTOCOLS, protocol == DESKTOP
    if form not in ("", *EVERY):
        raise FormatError(f"{form} is none of the forms a recording can be exported to: {', '.join(EVERY)}")
    if has_desktop and form not in ("", *OF_DESKTOPS):
        raise FormatError(f"a desktop is no terminal: export it as {', '.join(OF_DESKTOPS)}")
    if has_statements and form in CASTS:
        raise FormatError(f"a {protocol} session has statements and no screen: export it as jsonl or csv")
    if form in APART and has_statements:
        raise FormatError(
            f"{form} is a film of a screen, and a {protocol} session has statements: jsonl or csv"
        )
    if form == "pyrdp" and not has_desktop:
        raise FormatError(f"{form} is of desktops, and this is a session of {protocol or 'something else'}")
    if form == "csv" and not has_statements:
        raise FormatError(f"csv is a table of statements, and this is a session of {protocol or 'a screen'}")
    return form or (OF_DESKTOPS[0] if has_desktop else "jsonl" if has_statements else FORMS[0])


def settle(form: str, protocol: str, settings: Settings) -> str:
    """Give what `choose` does, for an export with these settings. Raises FormatError if it can't be."""
    chosen = choose(form, protocol)
    if protocol == DESKTOP and (settings.channel is not None or (settings.keys and chosen not in FILMS)):
        raise FormatError(f"{chosen} of a desktop is all of the session: it has no channels and no --input")
    if protocol in PROTOCOLS and (settings.channel is not None or settings.keys):
        raise FormatError(f"a {protocol} session has statements: it has no channels, and no keys but them")
    if settings.pause_s is not None and chosen not in FILMS:
        raise FormatError(f"{chosen} is no film: its pauses are cut by what plays it")
    if (settings.speed != 1 or settings.half) and chosen not in FILMS:
        raise FormatError(f"{chosen} is no film: it has neither a speed nor a size")
    return chosen
