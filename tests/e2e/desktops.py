"""Desktops behind a proxyd and the ways in: what the larger tests of RDP begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from proxyd.access import hash_password
from proxyd.protocols.rdp.loginpicture import BACKGROUND, draw, place
from proxyd.protocols.rdp.loginscreen import LoginScreen
from proxyd.recorder.record import Kind
from proxyd.verifiers import nt_hash
from tests.peers.daemon import Proxyd
from tests.peers.endpoint import HOST
from tests.peers.process import eventually, free_port
from tests.peers.rdp.freerdp import Client, FreeRdp
from tests.peers.rdp.shadow import Shadow
from tests.peers.rdp.tls import Identity
from tests.peers.rdp.x11 import SIZE, Picture
from tests.peers.rdp.xrdp import Xrdp

Desktop = Xrdp | Shadow
NODE = "node1"  # as the daemon of tests is called
ALICE, BOB = "Alice's pass", "Bob's-Pass-2"  # alice logs in by the password of Client Info, bob by NLA


@dataclass
class Front:
    """A proxyd before desktops."""

    proxyd: Proxyd
    identity: Identity
    port: int

    def client(self, directory: Path, user: str, password: str, **more: Any) -> FreeRdp:
        """An xfreerdp that takes proxyd's certificate alone."""
        return FreeRdp(directory, self.port, user, password, fingerprint=self.identity.fingerprint, **more)

    def bodies(self, session: str, kind: Kind) -> list[Any]:
        """What a sealed recording holds of a kind."""
        return [record.body for record in self.proxyd.recording(session).records() if record.kind is kind]

    def shot(self, session: str, directory: Path, *more: str) -> Picture:
        """A picture of a session as proxyctl draws it."""
        made = directory / "shot.png"
        told = self.proxyd.ctl("screenshot", session, "-o", str(made), "--force", *more).data
        image = Image.open(made)
        assert image.size == (told["width"], told["height"])
        assert told["unread"] == 0
        return Picture(*image.size, image.convert("RGB").tobytes())


def account(directory: Path, name: str, target: Desktop, *, port: int = 0) -> dict[str, Any]:
    """Give a target's configuration; `port`: of a tap before it."""
    secret = directory / f"{name}.password"
    secret.write_text(target.password)
    secret.chmod(0o600)
    return {
        "protocol": "rdp",
        "address": f"{HOST}:{port}" if port else target.address,
        "tls": "verify-full",
        "tls_ca": str(target.identity.ca),
        "accounts": {target.user: {"password": f"file:{secret}"}},
    }


@contextmanager
def front(
    directory: Path,
    targets: Mapping[str, Mapping[str, Any]],
    prepare: Callable[[Proxyd], None] = lambda _: None,
    **listen: Any,
) -> Iterator[Front]:
    """Serve these targets to alice and bob; `listen`: more of the listener's settings, `prepare`: of all others."""
    proxyd, identity, port = Proxyd(directory / "p"), Identity(directory / "front"), free_port()
    identity.key.chmod(0o600)
    proxyd.settings["listen"]["rdp"] = {
        "address": f"{HOST}:{port}",
        "certificate": str(identity.certificate),
        "key": str(identity.key),
        **listen,
    }
    proxyd.settings["targets"] = dict(targets)
    proxyd.user("alice", password=hash_password(ALICE))
    proxyd.user("bob", nt_hash=nt_hash(BOB))
    proxyd.grant(users=["alice", "bob"])
    prepare(proxyd)
    with proxyd:
        yield Front(proxyd, identity, port)


# ---------------------------------------------------------------------------------------------- the login screen


def login_screen(user: str, message: str = "") -> LoginScreen:
    """The screen that asks for user and password."""
    screen = LoginScreen(user)
    screen.ask_login(message)
    return screen


def drawn(screen: LoginScreen, size: tuple[int, int] = SIZE, percent: int = 100) -> Picture:
    """What a client shows of a login screen."""
    made = draw(screen.view, place(*size, percent), NODE, screen.keyboard)
    picture = Image.new("RGB", size, BACKGROUND)
    picture.paste(made.picture, (made.left, made.top))
    return Picture(*size, picture.tobytes())


def shows(client: Client, screen: LoginScreen, **more: Any) -> None:
    """Wait until the client shows this, every pixel of it."""
    wanted = drawn(screen, client.size, **more)
    last = [0]

    def alike() -> bool:
        last[0] = client.screen.picture().differing(wanted)
        return not last[0]

    try:
        eventually("the client shows the login screen", alike, within_s=20)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last[0]} pixels differ") from None
