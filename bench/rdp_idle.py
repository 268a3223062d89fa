"""`python -m bench.rdp_idle PORT USER PASSWORD COUNT`: open so many desktops, say `up`, wait for the end of standard input."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from tests.peers.rdp.raw import RawClient

AT_ONCE = 8  # logins at the same time


def main() -> None:
    """Log in, and do nothing."""
    port, user, password, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        clients = list(
            pool.map(
                lambda _: RawClient(port, user, password).negotiate().confer().log_in().activate(),
                range(count),
            )
        )
    print("up", flush=True)
    sys.stdin.read()
    for client in clients:
        client.close()


if __name__ == "__main__":
    main()
