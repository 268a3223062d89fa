"""Real servers and clients the end-to-end tests and the benchmarks run against.

Rule 1: nothing here imitates a peer: sshd, ssh, plink, dbclient, rsync, git and ansible are the programs, paramiko and
        asyncssh are the libraries; where a test needs a *broken* peer, the tap breaks a real one's bytes.
Rule 2: every instance lives in a directory and on loopback ports of its own, so workers never meet.
Rule 3: every process is its own group, killed with the test that started it, and dies with the test run.
"""

from __future__ import annotations

from tests.peers.agent import Agent
from tests.peers.clients import CLIENTS, Client, Outcome
from tests.peers.daemon import Control, Proxyd
from tests.peers.echo import EchoServer
from tests.peers.endpoint import Endpoint
from tests.peers.keys import Key, KeyKind
from tests.peers.process import Process, eventually, free_port
from tests.peers.pyssh import PySshd
from tests.peers.sshd import Sshd
from tests.peers.tap import Tap
from tests.peers.terminal import Terminal

__all__ = [
    "CLIENTS",
    "Agent",
    "Client",
    "Control",
    "EchoServer",
    "Endpoint",
    "Key",
    "KeyKind",
    "Outcome",
    "Process",
    "Proxyd",
    "PySshd",
    "Sshd",
    "Tap",
    "Terminal",
    "eventually",
    "free_port",
]
