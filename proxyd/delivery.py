"""Handing a notice over: by SMTP, or to a webhook with a signature; each call waits for the other side, in a thread.

Rule 1: nothing goes out in clear where TLS is configured: a server that offers none, or whose certificate does not fit, gets
        nothing.
Rule 2: what the other side refuses for good raises Refused; all else may be tried again, and raises Undelivered.
Rule 3: a webhook can tell that we sent it, when, and that it is whole: HMAC-SHA-256 over time and body.
Rule 4: an error names no secret and nothing of what was to be said.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxyd.config_values import split_address
from proxyd.errors import ProxydError

if TYPE_CHECKING:
    from proxyd.config import Mail

PATIENCE_S: Final = 20.0  # for one answer of the other side
SIGNATURE: Final = "Proxyd-Signature"
GONE_FOR_GOOD: Final = frozenset(
    {400, 401, 403, 404, 405, 410, 413, 422}
)  # asked again, they would say the same


class Undelivered(ProxydError):
    """A notice was not handed over; it may be tried again."""


class Refused(ProxydError):
    """The other side does not want this notice, and would not want it later."""


def mail(settings: Mail, password: str, to: Sequence[str], subject: str, text: str) -> None:
    """Send one mail to all of `to`; waits. Raises Undelivered, Refused."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = settings.sender, ", ".join(to), subject
    message["Date"], message["Message-ID"] = (
        formatdate(),
        make_msgid(domain=settings.sender.rpartition("@")[2]),
    )
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notes, please
    message.set_content(text)
    host, port = split_address(settings.server)
    context = ssl.create_default_context(cafile=settings.ca)
    try:
        with _connected(settings.tls == "implicit", host, port, context) as server:
            if settings.tls == "starttls":
                server.starttls(context=context)
            if settings.user:
                server.login(settings.user, password)
            refused = server.send_message(message)
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError) as error:
        raise _smtp_error(error) from None
    except (OSError, smtplib.SMTPException) as error:
        raise Undelivered(f"{settings.server}: {_why(error)}") from None
    if refused:
        raise Refused(f"{settings.server} takes nothing for {len(refused)} of {len(to)} addresses")


def _connected(implicit: bool, host: str, port: int, context: ssl.SSLContext) -> smtplib.SMTP:  # noqa: FBT001
    if implicit:
        return smtplib.SMTP_SSL(host, port, timeout=PATIENCE_S, context=context)
    return smtplib.SMTP(host, port, timeout=PATIENCE_S)


def _smtp_error(error: smtplib.SMTPRecipientsRefused | smtplib.SMTPDataError) -> ProxydError:
    """Tell what is refused for good (5xx, RFC 5321 4.2.1) from what is refused now."""
    if isinstance(error, smtplib.SMTPDataError):
        codes = [error.smtp_code]
    else:
        codes = [code for code, _ in error.recipients.values()]
    said = f"the mail server answered {', '.join(map(str, sorted(set(codes))))}"
    return Refused(said) if all(code >= 500 for code in codes) else Undelivered(said)


def sign(secret: bytes, at: int, body: bytes) -> str:
    """Give the value of the signature's header: t=SECONDS,v1=HEX of HMAC-SHA-256 over "SECONDS." and the body."""
    digest = hmac.new(secret, b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def post(url: str, ca: Path | None, secret: bytes, at: int, body: bytes) -> None:
    """Post a body of JSON, signed; waits. Follows no redirect. Raises Undelivered, Refused."""
    parts = urlsplit(url)
    host, path = parts.hostname or "", f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"
    headers = {"Content-Type": "application/json", SIGNATURE: sign(secret, at, body)}
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=PATIENCE_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=PATIENCE_S)
    try:
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(f"{host}: {_why(error)}") from None
    finally:
        connection.close()
    if status in GONE_FOR_GOOD:
        raise Refused(f"{host} answered {status}")
    if not 200 <= status < 300:
        raise Undelivered(f"{host} answered {status}")


def _why(error: Exception) -> str:
    """Say what went wrong without what the other side wrote, which may repeat what we did."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return "it does not take the user and password"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "it offers no TLS, or no login"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"it answered {error.smtp_code}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate can't be verified: {error.verify_message}"
    return (
        (getattr(error, "strerror", None) or type(error).__name__)
        if isinstance(error, OSError)
        else type(error).__name__
    )
