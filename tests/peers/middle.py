"""A man in the middle of PostgreSQL's TLS: a certificate of the right CA and name, and a key that is not the server's.

What passes it has trusted the certificate alone; SCRAM-SHA-256-PLUS does not pass it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.endpoint import HOST
from tests.peers.mariadb import Authority

SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
CHUNK = 1 << 16
PATIENCE_S = 10.0  # one login's, each way


class Middle:
    """Ends TLS and begins it again towards `server`, a port to be set before anybody comes."""

    def __init__(self) -> None:
        self.server = 0
        self.listener = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self.listener.getsockname()[1]}"
        self._front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._back = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._back.check_hostname, self._back.verify_mode = False, ssl.CERT_NONE
        # A server's TLS 1.3 tickets would make its socket readable with nothing in it.
        self._back.maximum_version = ssl.TLSVersion.TLSv1_2
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(PATIENCE_S)

    def certified_by(self, authority: Authority, directory: Path) -> None:
        """Take a certificate that says it is the server's."""
        certificate, key = authority.client("localhost", directory)
        self._front.load_cert_chain(certificate, key)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                self._relay(client)

    def _relay(self, client: socket.socket) -> None:
        """Relay one connection, one after another: a login is a dialogue."""
        with client, socket.create_connection((HOST, self.server), PATIENCE_S) as server:
            client.settimeout(PATIENCE_S)
            assert client.recv(len(SSL_REQUEST), socket.MSG_WAITALL) == SSL_REQUEST
            client.sendall(b"S")
            server.sendall(SSL_REQUEST)
            assert server.recv(1) == b"S"
            with (
                self._front.wrap_socket(client, server_side=True) as near,
                self._back.wrap_socket(server) as far,
            ):
                while True:
                    ready, _, _ = select.select([near, far], [], [], PATIENCE_S)
                    for end, other in ((near, far), (far, near)):
                        if end in ready and not self._pass(end, other):
                            return
                    if not ready:
                        return

    @staticmethod
    def _pass(end: ssl.SSLSocket, other: ssl.SSLSocket) -> bool:
        data = end.recv(CHUNK)
        while end.pending():
            data += end.recv(CHUNK)
        if data:
            other.sendall(data)
        return bool(data)
