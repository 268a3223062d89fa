"""Where a client connects to: the target itself, or proxyd in front of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tests.peers.keys import Key

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Endpoint:
    """Everything a client must know to log in; `directory` is for the client's own files."""

    name: str
    port: int
    user: str
    key: Key
    host_key: Key
    directory: Path
    host: str = HOST

    def with_user(self, user: str) -> Endpoint:
        """The same place, another login name."""
        return replace(self, user=user)

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file holding exactly this endpoint's host key."""
        path = self.directory / f"known_hosts.{self.port}"
        wanted = f"[{self.host}]:{self.port} {self.host_key.line}\n"
        if not path.exists() or path.read_text() != wanted:
            path.write_text(wanted)
        return path

    @property
    def config(self) -> Path:
        """An OpenSSH client configuration that knows nothing but this endpoint, as host `peer`."""
        path = self.directory / f"ssh_config.{self.port}.{self.user.replace('/', '_')}"
        wanted = (
            f"Host peer\n  HostName {self.host}\n  Port {self.port}\n  User {self.user}\n"
            f"Host *\n  IdentityFile {self.key.path}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
            f"  StrictHostKeyChecking yes\n  UpdateHostKeys no\n  ControlPath none\n  ConnectTimeout 20\n"
        )
        if not path.exists() or path.read_text() != wanted:
            path.write_text(wanted)
        return path
