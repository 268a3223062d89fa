"""Whom we are at a target that asks for NLA, and by what NLA proves it: the password's NT hash, or a Kerberos ticket.

Rule 1: who is configured for Kerberos never falls back to NTLM.
Rule 2: a ticket proves an account, and CredSSP still hands its password over: without one a desktop has no login
        (MS-CSSP 2.2.1.2.1).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import spnego as pyspnego

from proxyd.verifiers import nt_key

Mechanism = Literal["ntlm", "negotiate"]


class Account(NamedTuple):
    """An account; with a `keytab` or a `ccache`, a file's path, it logs in by Kerberos."""

    user: str
    password: str
    domain: str = ""
    keytab: str = ""
    ccache: str = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.user!r}, {self.domain!r})"

    @property
    def kerberos(self) -> bool:
        """Tell whether it logs in by Kerberos."""
        return bool(self.keytab or self.ccache)

    @property
    def mechanism(self) -> Mechanism:
        """Give the protocol its proof goes by: SPNEGO around Kerberos, as Windows has it."""
        return "negotiate" if self.kerberos else "ntlm"

    def proof(self) -> pyspnego.NTLMHash | pyspnego.KerberosKeytab | pyspnego.KerberosCCache:
        """Give what proves it."""
        if self.ccache:
            return pyspnego.KerberosCCache(f"FILE:{self.ccache}", self.principal)
        if self.keytab:
            return pyspnego.KerberosKeytab(self.keytab, self.principal)
        name = f"{self.domain}\\{self.user}" if self.domain else self.user
        # the hash, since of a password pyspnego takes what looks like "LM:NT" for hashes
        return pyspnego.NTLMHash(name, nt_hash=nt_key(self.password).hex())

    @property
    def principal(self) -> str:
        """Give its name in Kerberos; a NetBIOS domain is no realm, and leaves the one of krb5.conf."""
        return f"{self.user}@{self.domain.upper()}" if "." in self.domain else self.user
