"""SPNEGO, the accepting side (RFC 4178, MS-SPNG): agrees on NTLM, the only mechanism here; bytes in, bytes out.

Rule 1: nobody may talk the two into a weaker mechanism: where NTLM is not the client's first, a mechListMIC is asked
        for (negState request-mic), and a client that sends none is refused (RFC 4178 5).
Rule 2: a mechListMIC covers the list as the client encoded it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from proxyd.protocols.rdp import der, ntlm
from proxyd.protocols.rdp.wire import WireError

SPNEGO_OID: Final = bytes.fromhex("2b0601050502")  # 1.3.6.1.5.5.2
NTLM_OID: Final = bytes.fromhex("2b06010401823702020a")  # 1.3.6.1.4.1.311.2.2.10 (MS-SPNG 1.9)
NEG_TOKEN_INIT: Final = der.CONTEXT + 0
NEG_TOKEN_RESP: Final = der.CONTEXT + 1
MAX_MECHANISMS: Final = 32  # Windows offers four

MECH_TYPES: Final = 0  # NegTokenInit (RFC 4178 4.2.1)
MECH_TOKEN: Final = 2
NEG_STATE: Final = 0  # NegTokenResp (4.2.2)
SUPPORTED_MECH: Final = 1
RESPONSE_TOKEN: Final = 2
MECH_LIST_MIC: Final = 3


class NegState(IntEnum):
    """How the negotiation stands (RFC 4178 4.2.2)."""

    ACCEPT_COMPLETED = 0
    ACCEPT_INCOMPLETE = 1
    REJECT = 2
    REQUEST_MIC = 3


class Acceptor:
    """The server of one negotiation; `session` is there when the login is proven."""

    def __init__(self, mechanism: ntlm.Acceptor) -> None:
        self._ntlm = mechanism
        self._mech_types = b""
        self._preferred = False
        self.session: ntlm.Session | None = None

    @property
    def user(self) -> str:
        """Give the name the client gives itself, proven or not."""
        return self._ntlm.user

    def step(self, token: bytes) -> bytes:
        """Take a token and give the answer to it. Raises WireError, ntlm.WrongPassword."""
        if self.session is not None:
            raise WireError("SPNEGO goes on behind its end")
        return self._chosen(token) if not self._mech_types else self._continued(token)

    def _chosen(self, token: bytes) -> bytes:
        """Take NegTokenInit; its first token counts only where it is of NTLM."""
        offer = der.fields(der.only(_inner(token), NEG_TOKEN_INIT))
        self._mech_types = offer.get(MECH_TYPES, b"")
        mechanisms = list(der.elements(der.only(self._mech_types, der.SEQUENCE)))
        if len(mechanisms) > MAX_MECHANISMS or (der.OID, NTLM_OID) not in mechanisms:
            raise WireError("offers no SPNEGO mechanism that is known here")
        self._preferred = mechanisms[0] == (der.OID, NTLM_OID)
        first = der.only(offer[MECH_TOKEN], der.OCTET_STRING) if MECH_TOKEN in offer else b""
        challenge = self._ntlm.step(first) if first.startswith(ntlm.SIGNATURE) else b""
        state = NegState.ACCEPT_INCOMPLETE if self._preferred else NegState.REQUEST_MIC
        return _response(state, token=challenge, chosen=True)

    def _continued(self, token: bytes) -> bytes:
        """Take NegTokenResp."""
        said = der.fields(der.only(token, NEG_TOKEN_RESP))
        if NEG_STATE in said and der.integer(said[NEG_STATE], der.ENUMERATED) == NegState.REJECT:
            raise WireError("turned down what SPNEGO agreed on")
        if RESPONSE_TOKEN not in said:
            raise WireError("a SPNEGO answer without a token")
        answer = self._ntlm.step(der.only(said[RESPONSE_TOKEN], der.OCTET_STRING))
        if self._ntlm.session is None:
            return _response(NegState.ACCEPT_INCOMPLETE, token=answer)
        mic = b""
        if MECH_LIST_MIC in said:
            mic = self._signed(self._ntlm.session, der.only(said[MECH_LIST_MIC], der.OCTET_STRING))
        elif not self._preferred:
            raise WireError("SPNEGO without the mechListMIC that was asked for")
        self.session = self._ntlm.session
        return _response(NegState.ACCEPT_COMPLETED, mic=mic)

    def _signed(self, session: ntlm.Session, mic: bytes) -> bytes:
        """Check the client's mechListMIC and give ours (MS-SPNG 3.3.5.1); raises WireError."""
        session.theirs.verify(self._mech_types, mic)
        ours = session.ours.sign(self._mech_types)
        session.theirs.reset()
        session.ours.reset()
        return ours


def _inner(token: bytes) -> bytes:
    """Take off the frame of a first token (RFC 2743 3.1); raises WireError."""
    framed = der.only(token, der.APPLICATION)
    oid = der.head(framed)
    if oid is None or oid.tag != der.OID or framed[oid.body : oid.end] != SPNEGO_OID:
        raise WireError("a first token that is neither SPNEGO nor NTLM")
    return framed[oid.end :]


def _response(state: NegState, *, token: bytes = b"", chosen: bool = False, mic: bytes = b"") -> bytes:
    """Build NegTokenResp."""
    parts = [der.field(NEG_STATE, der.ENUMERATED, bytes((state,)))]
    if chosen:
        parts.append(der.field(SUPPORTED_MECH, der.OID, NTLM_OID))
    if token:
        parts.append(der.field(RESPONSE_TOKEN, der.OCTET_STRING, token))
    if mic:
        parts.append(der.field(MECH_LIST_MIC, der.OCTET_STRING, mic))
    return der.element(NEG_TOKEN_RESP, der.element(der.SEQUENCE, *parts))
