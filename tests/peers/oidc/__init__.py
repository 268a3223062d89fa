"""A real OpenID Connect provider: panva's oidc-provider (npm, MIT, certified by the OpenID Foundation), with TLS.

It is installed once from its lock, and kept under build/; node is the one that bundles the console's scripts.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from joserfc.jwk import RSAKey

from tests.peers import nodejs
from tests.peers.endpoint import HOST
from tests.peers.nodejs import node
from tests.peers.process import Process, eventually, free_port

SOURCE = Path(__file__).parent
HOME = Path(__file__).parents[3] / "build" / "oidc-provider"
START_S = 60.0
SECRET = "canary-of-the-oidc-client"
CLIENT = "proxyd"


def installed() -> Path:
    """Give where it is, installed when it is not there yet; raises NotInstalled."""
    shutil.copy(SOURCE / "provider.js", nodejs.installed(SOURCE, HOME) / "provider.js")
    return HOME


class Oidc:
    """`with Oidc(directory, certificate, key, home) as provider:`; `home` is the console's address."""

    def __init__(self, directory: Path, certificate: Path, key: Path, home: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.certificate, self.key, self.home = directory, certificate, key, home
        self.port = free_port()
        self.signing = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
        self.process: Process | None = None
        self.starts = 0

    @property
    def issuer(self) -> str:
        """What it calls itself."""
        return f"https://{HOST}:{self.port}"

    def settings(self) -> dict[str, Any]:
        """The [console.oidc] of a console that uses it."""
        secret = self.directory / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        return {
            "issuer": self.issuer,
            "client_id": CLIENT,
            "client_secret": f"file:{secret}",
            "name": "the Provider",
            "ca": str(self.certificate),
        }

    def start(self) -> None:
        """Run it with the key it has now."""
        self.starts += 1
        told = {
            "issuer": self.issuer,
            "port": self.port,
            "certificate": str(self.certificate),
            "key": str(self.key),
            "keys": {"keys": [self.signing.as_dict(private=True)]},
            "client": {
                "client_id": CLIENT,
                "client_secret": SECRET,
                "redirect_uris": [f"{self.home}/sign-in/provider/back"],
                "post_logout_redirect_uris": [f"{self.home}/sign-in"],
                "backchannel_logout_uri": f"{self.home}/sign-in/provider/logout",
                "backchannel_logout_session_required": True,
                "response_types": ["code"],
                "grant_types": ["authorization_code"],
            },
        }
        argv = node("provider.js", json.dumps(told))
        log = self.directory / f"provider.{self.starts}.log"
        env = {**os.environ, "NODE_EXTRA_CA_CERTS": str(self.certificate)}  # it tells the console of logouts
        self.process = Process(argv, log=log, cwd=installed(), env=env)
        eventually("the provider is ready", self._is_ready, within_s=START_S)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.running, self.process.text()
        return "ready" in self.process.text()

    def stop(self) -> None:
        """End it; who was signed in there is forgotten."""
        if self.process is not None:
            self.process.stop()

    def rotate(self) -> None:
        """Have it sign with a new key, under a new name, and forget the old one."""
        self.stop()
        self.signing = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
