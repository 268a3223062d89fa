"""The five clients of the matrix."""

from __future__ import annotations

from tests.peers.commandline import Dbclient, OpenSSH, Plink
from tests.peers.libraries import Asyncssh, Paramiko
from tests.peers.outcome import Client, Outcome

CLIENTS: tuple[Client, ...] = (OpenSSH(), Paramiko(), Plink(), Dbclient(), Asyncssh())

__all__ = ["CLIENTS", "Asyncssh", "Client", "Dbclient", "OpenSSH", "Outcome", "Paramiko", "Plink"]
