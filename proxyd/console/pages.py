"""The pages: templates filled in, each value made harmless twice over.

Rule 1: whatever a template prints is escaped for HTML; only what was escaped here is ever marked as safe.
Rule 2: text from sessions, users and files shows its control and direction characters as what they are.
Rule 3: a template that asks for what it was not given is an error, not an empty place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup, escape

from proxyd.characters import UNSAFE, visible
from proxyd.cli_output import ID_SHOWN, duration, position, size
from proxyd.console.assets import Assets

PROTOCOLS: Mapping[str, str] = {"ssh": "SSH", "postgres": "PostgreSQL", "mysql": "MySQL", "rdp": "RDP"}


class Pages:
    """The templates of the console."""

    def __init__(self, assets: Assets) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("proxyd.console"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_harmless,
            auto_reload=False,
        )
        self._environment.globals |= {"asset": assets.address, "protocols": PROTOCOLS, "now": time.time}
        shown: dict[str, Callable[[Any], str]] = {
            "size": size,
            "duration": duration,
            "position": position,
            "moment": moment,
            "iso": iso,
            "short": lambda text: str(text)[:ID_SHOWN],
            "protocol": lambda name: PROTOCOLS.get(name, name),
            "lines": lines,
        }
        self._environment.filters.update(shown)

    def render(self, name: str, **values: Any) -> str:
        """Fill in a template."""
        return self._environment.get_template(name).render(**values)


def _harmless(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def moment(at: float | None) -> str:
    """Write a time as people read it, in UTC; a script shows it in the viewer's own zone."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at is not None else "-"


def iso(at: float | None) -> str:
    """Write a time for machines."""
    return datetime.fromtimestamp(at or 0, UTC).isoformat(timespec="seconds")


def lines(text: str) -> Markup:
    """Write text of several lines, for an element that keeps them."""
    shown = UNSAFE.sub(lambda match: match[0] if match[0] in "\n\t" else visible(match[0]), text)
    return Markup(escape(shown))  # noqa: S704  it is escaped
