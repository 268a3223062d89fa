"""What people and programs are told about: seven events, in words for a mail and as a map for a webhook.

Rule 1: a notice names sessions, users, targets and what was said of them; nothing that was typed or shown in one.
Rule 2: text from users and targets can't act: it holds no control character and starts no header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proxyd.characters import visible

ID_SHOWN = 8
SUBJECT_LIMIT = 150  # characters: what mail programs show of one


class Event(StrEnum):
    """What happened; `reason` in the configuration's `events` names these."""

    VIDEO_READY = "video-ready"
    VIDEO_FAILED = "video-failed"  # or whatever else was to be made of a recording
    REQUEST_WAITS = "request-waits"
    REQUEST_DECIDED = "request-decided"
    FINDING = "critical-finding"
    RECORDING_FAILED = "recording-failed"
    CREDENTIAL = "credential-changed"  # what a user logs in with


ALARMS = frozenset(
    {Event.FINDING, Event.RECORDING_FAILED}
)  # nobody asked for them: they go to who watches over all


@dataclass(frozen=True, slots=True)
class Notice:
    """One event of a session (its whole id; "": of none), for these users.

    `title`: a sentence, `details`: what else there is to say.
    `page`: the console's page it is about, "": that of the session.
    """

    event: Event
    at: float
    session: str
    title: str
    people: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    page: str = ""

    def link(self, base: str) -> str:
        """Give the address of its page in the console; "" without one."""
        page = self.page or (f"/sessions/{self.session}" if self.session else "")
        return f"{base.rstrip('/')}{page}" if base and page else ""

    def subject(self) -> str:
        """Give the subject of a mail."""
        return f"[proxyd] {visible(self.title)}"[:SUBJECT_LIMIT]

    def text(self, node: str, base: str) -> str:
        """Give the text of a mail."""
        lines = [visible(self.title), ""]
        lines += [f"{name}: {visible(value)}" for name, value in self.details.items() if value]
        lines += [f"session: {self.session}"] * bool(self.session) + [f"node: {node}"]
        lines += ["", link] if (link := self.link(base)) else []
        return "\n".join(lines) + "\n"

    def document(self, node: str, base: str) -> dict[str, Any]:
        """Give what a webhook gets."""
        told = {
            "event": self.event.value,
            "at": self.at,
            "node": node,
            "session": self.session,
            "title": self.title,
        }
        return told | {"people": list(self.people), "details": dict(self.details), "link": self.link(base)}
