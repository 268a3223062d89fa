"""Throw-away SSH keys and certificates, in every format the clients read."""

from __future__ import annotations

import hashlib
import subprocess
from base64 import b64decode, b64encode
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path


class KeyKind(Enum):
    """Key types `ssh-keygen -t` knows."""

    ED25519 = "ed25519"
    ECDSA = "ecdsa"
    RSA = "rsa"


def _run(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


@dataclass(frozen=True)
class Key:
    """A private key file; the public half stands beside it as PATH.pub."""

    path: Path

    @classmethod
    def generate(cls, path: Path, kind: KeyKind = KeyKind.ED25519) -> Key:
        """Make a key without a passphrase at `path`."""
        _run("ssh-keygen", "-q", "-t", kind.value, "-N", "", "-C", path.name, "-f", path)
        return cls(path)

    @cached_property
    def line(self) -> str:
        """The public key as authorized_keys has it."""
        return self.path.with_name(self.path.name + ".pub").read_text().strip()

    @cached_property
    def fingerprint(self) -> str:
        """SHA256:... of the public key."""
        digest = hashlib.sha256(b64decode(self.line.split()[1])).digest()
        return "SHA256:" + b64encode(digest).decode().rstrip("=")

    @cached_property
    def ppk(self) -> Path:
        """The same key as PuTTY reads it."""
        made = self.path.with_name(self.path.name + ".ppk")
        if not made.exists():
            _run("puttygen", self.path, "-O", "private", "-o", made)
        return made

    @cached_property
    def dropbear(self) -> Path:
        """The same key as dropbear reads it."""
        made = self.path.with_name(self.path.name + ".dropbear")
        if not made.exists():
            _run("dropbearconvert", "openssh", "dropbear", self.path, made)
        return made

    def certify(self, subject: Key, *, principals: str, host: bool = False, validity: str = "+1h") -> Path:
        """Sign `subject`'s public key with this CA; returns the certificate file (PATH-cert.pub)."""
        public = subject.path.with_name(subject.path.name + ".pub")
        argv: list[str | Path] = ["ssh-keygen", "-q", "-s", self.path, "-I", "test", "-n", principals]
        _run(*argv, *(["-h"] if host else []), "-V", validity, public)
        return subject.path.with_name(subject.path.name + "-cert.pub")
