"""Floods a console with first pages, each over a connection of its own: `python -m bench.flood PORT SECONDS ADDRESSES`.

It stands for other machines: it is nicer than anything it floods, and comes from so many loopback addresses in turn. When it
ends it prints how many pages it got, and how many connections it did not.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
import time

HOST = "127.0.0.1"
THREADS = 4
NICE = 19


def main() -> None:
    """Flood."""
    port, seconds, addresses = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    os.nice(NICE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    until, answered, refused = time.monotonic() + seconds, [0] * THREADS, [0] * THREADS
    request = f"GET /sign-in HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode()

    def flood(mine: int) -> None:
        number = mine
        while time.monotonic() < until:
            number += THREADS
            place = (f"127.1.{number % addresses // 250}.{number % addresses % 250 + 1}", 0)
            try:
                plain = socket.create_connection((HOST, port), 10, place)
                with plain, context.wrap_socket(plain) as secure:
                    secure.sendall(request)
                    while secure.recv(65536):
                        pass
                answered[mine] += 1
            except OSError:
                refused[mine] += 1

    threads = [threading.Thread(target=flood, args=(mine,)) for mine in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(answered), sum(refused))


if __name__ == "__main__":
    main()
