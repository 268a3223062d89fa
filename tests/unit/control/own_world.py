"""What a daemon gives its users' own commands: real rules, ledger and file, a clock of the test's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pyotp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxyd.access import Access, hash_password
from proxyd.config import SelfService, load
from proxyd.control import owning
from proxyd.control.client import Code, ControlError
from proxyd.control.owning import Confirm, Pending
from proxyd.control.permissions import Caller
from proxyd.control.proving import Again
from proxyd.enrolled import NAME, Enrolled
from proxyd.fronts import Front
from proxyd.passkeys import Ceremonies
from proxyd.recorder.keys import Signer
from proxyd.recorder.ledger import Ledger
from proxyd.setup import initialise
from proxyd.tokens import Tokens
from tests.peers.daemon import toml

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)
STEP = 30
LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDnc7DzHVBLN+NySiIAdcHYtO5V5IrfN5sx4MLi6YJP"
ADDRESS = "192.0.2.7"


def caller(name: str) -> Caller:
    return Caller(name, 0, name, (), via="console", address=ADDRESS)


ALICE, DAVE, KAY = caller("alice"), caller("dave"), caller("kay")
ROOT = Caller("root", 0, "", ("PAM Administrator",))
CONSOLE = Caller("console", 0, "", ("Console",))


class World(SimpleNamespace):
    """What the daemon gives, with a clock of the test's own."""

    def settle(self) -> None:
        self.access = self.access.renewed(self.configured)
        self.config = msgspec.structs.replace(self.config, users=self.access.users)

    def allow(self, **what: bool) -> None:
        self.configured = msgspec.structs.replace(self.configured, self_service=SelfService(**what))
        self.config = msgspec.structs.replace(self.config, self_service=SelfService(**what))
        self.settle()

    def code(self, secret: str) -> str:
        """A code of a step nobody has used."""
        self.now += STEP
        return pyotp.TOTP(secret).at(int(self.now))

    def actions(self, kind: str = "credential") -> list[str]:
        return [entry.fields.get("action", "") for entry in self.ledger.entries(kind)]


@contextmanager
def made(tmp_path: Path) -> Iterator[World]:
    """alice has a password, dave an authenticator of the configuration's too, kay a chain without passwords, nora a key."""
    begun = initialise(tmp_path / "p", ssh_port=0, metrics_port=0)
    seed = tmp_path / "seed"
    seed.write_text(pyotp.random_base32())
    seed.chmod(0o600)
    account = {"password": "env:NOWHERE"}
    targets = {
        "web1": {"address": "192.0.2.1:22", "accounts": {"root": account}},
        "shop": {"address": "192.0.2.1:5432", "protocol": "postgres", "accounts": {"app": account}},
        "desk": {"address": "192.0.2.1:3389", "protocol": "rdp", "accounts": {"svc": account}},
        "else": {"address": "192.0.2.1:22", "accounts": {"root": account}},
    }
    settings = {
        "listen": {"rdp": {"certificate": "keys/tls.crt", "key": "keys/tls.key"}},
        "users": {
            "alice": {"password": HASH},
            "dave": {"password": HASH, "totp": f"file:{seed}", "source": ["192.0.2.0/24"]},
            "kay": {"password": HASH, "factors": ["publickey+totp"]},
            "nora": {"keys": [LINE]},
        },
        "targets": targets,
        "grants": [
            {"users": ["alice", "dave", "kay"], "targets": ["web1", "shop", "desk"], "accounts": ["*"]}
        ],
    }
    with begun.config.open("a") as file:
        file.write(toml(settings))
    config = load(begun.config)
    world = World(
        configured=config, config=config, now=float(int(time.time())), seed=seed.read_text(), notices=[]
    )
    world.enrolled = Enrolled(tmp_path / NAME)
    world.access = Access(config, lambda: world.now, enrolled=world.enrolled)
    world.tokens, world.pending = Tokens(), Pending(lambda: world.now)
    world.ceremonies = Ceremonies(lambda: world.now)
    world.fronts = {
        "ssh": Front("ssh", "proxy", 22, keys=(LINE,)),
        "rdp": Front("rdp", "proxy", 3389, certificate="PEM", sha256="aa:bb"),
    }
    world.notifier = SimpleNamespace(tell=lambda notice, again="": world.notices.append((notice, again)))
    with Ledger(tmp_path / "ledger", Signer(Ed25519PrivateKey.generate()), "node1") as world.ledger:
        yield world


def new_key() -> str:
    public = Ed25519PrivateKey.generate().public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + " me@laptop"


async def enrol(world: World, who: Caller = ALICE, code: str = "") -> tuple[str, list[str]]:
    secret = (await owning.totp_begin(world, who, Again(PASSWORD, code)))["secret"]
    return secret, (await owning.totp_confirm(world, who, Confirm(world.code(secret))))["codes"]


async def refused(code: Code, match: str, waiting: Any) -> None:
    with pytest.raises(ControlError, match=match) as refusal:
        await waiting
    assert refusal.value.code is code
