"""The exceptions everything uses.

Rule 1: whose fault it was is the type: the client's, the target's, ours.
Rule 2: the text of every one of them is safe to show to the user; a secret or a wire byte never gets in.
Rule 3: the listener's firewall catches ProxydError and nothing wider; anything else is a bug and is logged as one.
"""

from __future__ import annotations

from pathlib import Path


class ProxydError(Exception):
    """Something a session or a command can end with; `str()` is one clear sentence."""


class ClientError(ProxydError):
    """The client broke its protocol, or never finished its login."""


class ProtocolBroken(ClientError):
    """The client sent what its protocol does not allow, or spoke another one."""


class TargetError(ProxydError):
    """The target broke its protocol, or showed a key or certificate that is not the pinned one."""


class TargetUntrusted(TargetError):
    """The target showed a certificate that can't be verified, or is not the pinned one: a finding of this code (M11)."""

    def __init__(self, text: str, *, changed: bool = False) -> None:
        super().__init__(text)
        self.code = "certificate-changed" if changed else "certificate-untrusted"
        self.severity = "critical" if changed else "high"


class TargetUnreachable(TargetError):
    """Nothing usable answers at the target's address within the deadline."""


class TargetLoginFailed(TargetError):
    """The target refused the credential, or the credential could not be fetched."""


class Denied(ProxydError):
    """Policy says no."""


class Dropped(ProxydError):
    """An operator, a rule or the daemon's own end dropped the session."""


class RecordingFailed(ProxydError):
    """Strict recording could not keep its promise."""


class FormatError(ProxydError):
    """A segment, a manifest or a control frame is not what it claims to be."""


class ConfigError(ProxydError):
    """The configuration can't be used; names the file and, where known, the line."""

    def __init__(self, message: str, path: Path | None = None, line: int | None = None) -> None:
        where = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
        super().__init__(where + message)
        self.path, self.line = path, line
