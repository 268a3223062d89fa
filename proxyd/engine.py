"""What every protocol brings, and what it is given."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from proxyd.tokens import Tokens

if TYPE_CHECKING:
    from proxyd.access import Access, Permit
    from proxyd.admission import Admission
    from proxyd.config import Config
    from proxyd.errors import ProxydError
    from proxyd.governance.notices import Notice
    from proxyd.recorder.catalog import Catalog
    from proxyd.recorder.ledger import Ledger
    from proxyd.recorder.recorder import Recorder
    from proxyd.session import Login, Registry, Session


@dataclass(slots=True)
class Core:
    """The daemon's parts; `config` and `access` are replaced whole by a reload, the rest stays."""

    config: Config
    access: Access
    admission: Admission
    catalog: Catalog
    ledger: Ledger
    recorder: Recorder
    registry: Registry
    tokens: Tokens = field(default_factory=Tokens)
    tell: Callable[[Notice], None] | None = None  # have somebody notified; never waits


class Engine(Protocol):
    """One client connection of one protocol; the listener calls these in this order."""

    name: ClassVar[str]

    @property
    def failures(self) -> int:
        """How many proofs of identity failed so far."""

    async def greet(self) -> Login:
        """Find out who the client is; no target is touched. Under the grace deadline.

        Raises ClientError, as ProtocolBroken where the client sent what its protocol does not allow; Denied.
        """

    async def choose(self, login: Login) -> Permit | None:
        """Find out where they want to go, and whether they may; None when there is nothing more to do.

        Raises Denied.
        """

    async def serve(self, session: Session) -> None:
        """Dial the target, log in, relay; return when either side has ended. Raises TargetError and its kin."""

    async def refuse(self, error: ProxydError) -> None:
        """Say no in the protocol's own words."""

    async def aclose(self) -> None:
        """Close the client's side, whatever state it is in; never raises."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A client connection as accepted: the non-blocking socket and where it came from."""

    sock: socket.socket
    ip: str
    port: int


Converse = Callable[[Engine], Awaitable[None]]
"""Hold a whole conversation with one more engine: what `ssh -J` needs for its inner side."""

MakeEngine = Callable[[Caller, Converse], Engine]
