"""The login screen of one client: what it shows goes out, what its user does comes in, until there is an answer.

Rule 1: whoever does nothing for IDLE_S is told so and sent away, and so is who is not done within the listener's grace.
Rule 2: nothing of what is typed here is recorded, logged or kept: an answer takes it away, a check forgets it.
Rule 3: after MAX_ATTEMPTS wrong proofs the connection ends, as any failed login does, and counts as one.
Rule 4: a user that is not there is answered as one with a wrong password is.

MS-RDPBCGR 1.3.1.1; the handover to the target, 1.3.1.3, is `crossing`'s.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import trio
from PIL import ImageChops

from proxyd.errors import ClientError
from proxyd.protocols.rdp import loginpicture, painting
from proxyd.protocols.rdp.gcc import Early
from proxyd.protocols.rdp.hosting import Host, Stage
from proxyd.protocols.rdp.loginpicture import BACKGROUND, Drawn
from proxyd.protocols.rdp.loginscreen import Answer, Chosen, Code, Credentials, Left, LoginScreen, Row, View
from proxyd.protocols.rdp.painting import ALIGN, DEPTH_16, DEPTH_32
from proxyd.protocols.rdp.share import ErrorInfo
from proxyd.protocols.rdp.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxyd.access import Permit
    from proxyd.protocols.rdp.front import Front
    from proxyd.protocols.rdp.gcc import ClientCore
    from proxyd.protocols.rdp.hosting import Did
    from proxyd.protocols.rdp.loginscreen import Spot
    from proxyd.protocols.rdp.proof import Proofs
    from proxyd.protocols.rdp.talk import Talk
    from proxyd.protocols.rdp.updates import Bitmap
    from proxyd.session import Login

IDLE_S: Final = 45.0  # of a user who does nothing; shorter than the default grace, so that they are told why
READ_S: Final = 20.0  # for a sentence that ends the connection
MAX_ATTEMPTS: Final = 3  # as many as Windows and xrdp let a user try before they end the connection
T = TypeVar("T", Credentials, Code, Chosen)
WRONG: Final = "Wrong user name or password."
WRONG_CODE: Final = "That code is not right."


class Named(NamedTuple):
    """Who has logged in, and what they wrote for it: a login and a target may be in it."""

    written: str
    login: Login


class Lobby:
    """One client's login screen, from its Demand Active on."""

    def __init__(self, talk: Talk, front: Front, core: ClientCore, proxy: str, user: str) -> None:
        """`proxy`: the name its users know this one by; `user`: what the client said it is."""
        self._talk, self._front, self._proxy = talk, front, proxy
        depth = DEPTH_32 if core.early & Early.WANT_32BPP_SESSION else DEPTH_16  # as its session will be
        self._host = Host(core.width, core.height, depth)
        self._screen = LoginScreen(user, core.layout)
        self._place = loginpicture.place(self._host.width, self._host.height, core.scale)
        self._drawn: Drawn | None = None
        self._shown: View | None = None

    # ------------------------------------------------------------------ what is asked

    async def open(self) -> None:
        """Finish the client's connection sequence; raises ClientError, WireError."""
        self._host.begin()
        self._flush()
        while self._host.stage is not Stage.ACTIVE:
            await self._more()

    async def log_in(self, proofs: Proofs) -> Named:
        """Ask until the user has proven who they are; raises ClientError, WireError."""
        self._screen.ask_login()
        while True:
            asked = await self._answer(Credentials)
            await self.wait("Checking your password.")
            name = proofs.access.parse_username(asked.user).user
            proof = await proofs.said(name, asked.password, behind=False, asks=True)
            del asked
            if proof is not None:
                break
            self._wrong()
            self._screen.ask_login(WRONG)
        login = await self.code(proofs, name) if proof.missing else self._front.logged_in(name, proof)
        return Named(self._screen.user, login)

    async def code(self, proofs: Proofs, name: str) -> Login:
        """Ask for the one-time code of a user whose password was right; raises ClientError, WireError."""
        self._screen.ask_code()
        while (proof := await proofs.code(name, (await self._answer(Code)).digits)) is None:
            self._wrong()
            self._screen.ask_code(WRONG_CODE)
        return self._front.logged_in(name, proof)

    def _wrong(self) -> None:
        self._front.count()
        if self._front.failures >= MAX_ATTEMPTS:
            self._front.fail()

    async def choose(self, permits: Sequence[Permit]) -> Permit:
        """Ask which of these it is to be; raises ClientError, WireError."""
        self._screen.ask_target([_row(permit) for permit in permits])
        return permits[(await self._answer(Chosen)).row]

    async def wait(self, text: str) -> None:
        """Say what is done now; raises ClientError."""
        self._screen.wait(text)
        await self._paint()

    async def tell(self, text: str) -> None:
        """Say why the connection ends, for READ_S or until the user has read it."""
        self._screen.tell(text)
        with trio.move_on_after(READ_S), contextlib.suppress(ClientError, WireError):
            await self._paint()
            while not isinstance(await self._act(), Left):
                await self._paint()

    # ------------------------------------------------------------------ what comes and goes

    async def _answer(self, kind: type[T]) -> T:
        """Wait for an answer of this kind; ClientError when the user leaves."""
        while True:
            await self._paint()
            answer = await self._act()
            if isinstance(answer, Left):
                self._front.say(ErrorInfo.LOGOFF_BY_USER)
                raise ClientError("The user left at the login screen.")
            if isinstance(answer, kind):
                return answer

    async def _act(self) -> Answer | None:
        did = await self._more()
        if did.repaint:
            self._drawn = self._shown = None
        for event in did.events:
            if (answer := self._screen.feed(event, self._at)) is not None:
                return answer  # what comes behind it was done to a screen that is gone
        return None

    def _at(self, x: int, y: int) -> Spot | None:
        return None if self._drawn is None else self._drawn.at(x, y)

    async def _more(self) -> Did:
        """Take one more frame."""
        with trio.move_on_after(IDLE_S):
            await trio.lowlevel.checkpoint()
            did = self._host.take(await self._talk.frame(fast=True))
            self._flush()
            if self._host.stage is Stage.LEFT:
                raise ClientError("The client left at the login screen.")
            return did
        self._front.say(ErrorInfo.IDLE_TIMEOUT)
        raise ClientError("Nobody used the login screen.")

    def _flush(self) -> None:
        out, self._host.out = self._host.out, []
        if out:
            self._talk.send(b"".join(out))

    async def _paint(self) -> None:
        """Show what has changed, once all that is here has been taken; waits while the client does not read."""
        view = self._screen.view
        if view == self._shown or self._talk.waiting:
            return
        drawn = await trio.to_thread.run_sync(
            loginpicture.draw, view, self._place, self._proxy, self._screen.keyboard
        )
        self._host.paint(self._news(drawn))
        self._drawn, self._shown = drawn, view
        self._flush()
        with trio.move_on_after(IDLE_S):
            await self._talk.stream.drain()

    def _news(self, drawn: Drawn) -> Iterator[Bitmap]:
        """Give what differs from what the client shows."""
        box = (0, 0, drawn.picture.width, drawn.picture.height)
        if self._drawn is None:
            yield from painting.backdrop(BACKGROUND, self._host.width, self._host.height, self._host.depth)
        elif changed := ImageChops.difference(self._drawn.picture, drawn.picture).getbbox():
            left, right = changed[0] // ALIGN * ALIGN, -(-changed[2] // ALIGN) * ALIGN
            box = (left, changed[1], right, changed[3])
        else:
            return
        yield from painting.strips(
            drawn.picture.crop(box), drawn.left + box[0], drawn.top + box[1], self._host.depth
        )


def _row(permit: Permit) -> Row:
    said = permit.target.description
    return Row(permit.target.name, f"as {permit.account}" + (f" - {said}" if said else ""))
