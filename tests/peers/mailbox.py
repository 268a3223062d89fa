"""A real mail server (aiosmtpd) with STARTTLS and a password, and a real web server that takes webhooks."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

USER, PASSWORD = "proxyd", "canary-of-the-mail-server"


@dataclass
class Mailbox:
    """What came, and what the server is to answer: `refusals` are its next answers, else it takes the mail."""

    refusals: list[str] = field(default_factory=list)
    mails: list[tuple[list[str], EmailMessage, bool]] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.refusals:
            return self.refusals.pop(0)
        message = message_from_bytes(envelope.original_content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append((list(envelope.rcpt_tos), message, session.ssl is not None))
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        return AuthResult(success=(data.login, data.password) == (USER.encode(), PASSWORD.encode()))


@contextmanager
def mail_server(box: Mailbox, certificate: Path | None, key: Path | None, *, port: int = 0) -> Iterator[str]:
    """Run a mail server; with a certificate it wants STARTTLS and a login. Gives its address."""
    options: dict[str, Any] = {}
    if certificate is not None and key is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        options = {
            "tls_context": context,
            "require_starttls": True,
            "auth_required": True,
            "authenticator": box.authenticate,
        }
    controller = Controller(box, hostname="127.0.0.1", port=port or _free(), **options)
    controller.start()
    try:
        yield f"127.0.0.1:{controller.port}"
    finally:
        controller.stop()
        with (
            warnings.catch_warnings()
        ):  # aiosmtpd leaves the transports of clients that went to the collector
            warnings.simplefilter("ignore", ResourceWarning)
            del controller
            gc.collect()


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Hooks:
    """What was posted, and what the server is to answer: `answers` are its next statuses, else 204."""

    answers: list[int] = field(default_factory=list)
    posted: list[tuple[str, str, bytes]] = field(default_factory=list)


@contextmanager
def web_server(hooks: Hooks, certificate: Path, key: Path) -> Iterator[str]:
    """Run a web server behind TLS; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hooks.posted.append((self.path, self.headers["Proxyd-Signature"], body))
            self.send_response(hooks.answers.pop(0) if hooks.answers else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/hook?x=1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
