"""Whether somebody listens on a port, read from the kernel: a connection to look would be a client to the server."""

from __future__ import annotations

from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTEN = "0A"  # TCP_LISTEN, include/net/tcp_states.h


def listening(port: int) -> bool:
    """Whether any local address of that port is listened on, IPv4 or IPv6."""
    for table in TABLES:
        if table.exists():
            for line in table.read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == LISTEN and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False
