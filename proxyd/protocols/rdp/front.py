"""The client's side until its session begins: the whole connection sequence, up to what it says of its user.

Rule 1: nothing that came before TLS is taken for said inside it; RDP's own security is never agreed to.
Rule 2: a user that is not there runs through the same exchange as one that is, and is refused in the same words.
Rule 3: what is refused is said in the protocol's own words (CredSSP's errorCode, Set Error Info), or clients say that the
        network failed, and try again.

MS-RDPBCGR 1.3.1.1; 2.2.1.1 to 2.2.1.11.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proxyd import metrics
from proxyd.characters import printable
from proxyd.errors import ClientError, ConfigError, ProtocolBroken
from proxyd.preamble import Side, read_preamble
from proxyd.protocols.rdp import credssp, gcc, info, mcs, share, wire
from proxyd.protocols.rdp.capabilities import OUR_SHARE
from proxyd.protocols.rdp.crossing import FIRST_CHANNEL
from proxyd.protocols.rdp.info import ClientInfo
from proxyd.protocols.rdp.lobby import Lobby
from proxyd.protocols.rdp.proof import Proof, Proofs
from proxyd.protocols.rdp.share import DataKind, ErrorInfo, ShareData
from proxyd.protocols.rdp.static import USER
from proxyd.protocols.rdp.talk import Talk, missing
from proxyd.protocols.rdp.wire import NegotiationFailure, Protocol, WireError
from proxyd.session import Login
from proxyd.stream import Stream, adopt_server

if TYPE_CHECKING:
    import ssl

    from proxyd.config import RdpListen
    from proxyd.engine import Caller
    from proxyd.tokens import Token

GREETING_SECONDS: Final = 60.0  # the listener's grace is shorter, or as long
LEAVE_S: Final = 1.0  # a refused client gets to read why
MAX_MESSAGES: Final = 64  # before Client Info: 31 channels are joined, and a few more
MAX_SHOWN: Final = 64  # characters of a name that came from a client

_NLA: Final = (Protocol.HYBRID_EX, Protocol.HYBRID)  # the better first, as Windows' servers choose
OFFERED: Final = (
    wire.ResponseFlag.EXTENDED_CLIENT_DATA_SUPPORTED | wire.ResponseFlag.DYNVC_GFX_PROTOCOL_SUPPORTED
)


class Wants(NamedTuple):
    """What a client that has come through its connection sequence asks for."""

    blocks: gcc.Blocks  # of its conference request
    info: ClientInfo


def front_key(listen: RdpListen) -> bytes:
    """Give the public key clients see, which NLA binds to; reads a file. Raises ConfigError."""
    try:
        certificate = x509.load_pem_x509_certificate(listen.certificate.read_bytes())
        return credssp.public_key(certificate.public_bytes(Encoding.DER))
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", listen.certificate) from None
    except ValueError:
        raise ConfigError("is no certificate that can be used", listen.certificate) from None


class Front:
    """A client's connection."""

    def __init__(self, caller: Caller, listen: RdpListen, tls: ssl.SSLContext, key: bytes) -> None:
        self._caller = caller
        self._listen = listen
        self._tls = tls
        self._key = key
        self._requested = wire.STANDARD_SECURITY
        self._talk: Talk | None = None
        self._adopted = False
        self._spoken = False  # the conference stands: what ends it can be said
        self._proven: Proof | None = None  # by NLA
        self.token: Token | None = None  # that proved it
        self.failures = 0

    # ------------------------------------------------------------------ the connection

    async def begin(self, proofs: Proofs) -> str:
        """Do all that comes before the conference; gives the name NLA has proven, as it was said, empty without it.

        Raises ClientError, WireError.
        """
        selected = await self._negotiate()
        self._adopted = True
        self._talk = Talk(await adopt_server(self._caller.sock, self._tls))
        if selected not in _NLA:
            return ""
        name = await self._network_level(proofs, self._talk)
        if selected is Protocol.HYBRID_EX:
            self._talk.send(credssp.AUTHORIZED)
        return name

    async def _negotiate(self) -> Protocol:
        """Agree on how the connection is secured, 2.2.1.1 and 2.2.1.2 (rule 1)."""
        sock = self._caller.sock
        got = await read_preamble(
            sock, missing, side=Side.CLIENT, limit=wire.MAX_CONNECTION_REQUEST, seconds=GREETING_SECONDS
        )
        self._requested = wire.parse_connection_request(got).protocols
        selected = self._select(self._requested)
        # Which target it will be is not known yet: its policy decides whether there is a graphics channel.
        flags = OFFERED if selected else wire.ResponseFlag(0)
        failure = 0
        if not selected:
            failure = (
                NegotiationFailure.HYBRID_REQUIRED_BY_SERVER
                if self._listen.nla
                else NegotiationFailure.SSL_REQUIRED_BY_SERVER
            )
        try:
            sock.send(wire.build_connection_confirm(wire.ConnectionConfirm(selected, flags, failure)))
        except OSError as error:
            raise ClientError(f"the client broke the connection: {error.strerror}") from None
        if not selected:
            raise ClientError("The client knows no security that this address takes.")
        return selected

    def _select(self, requested: Protocol) -> Protocol:
        for way in _NLA:
            if self._listen.nla and way in requested:
                return way
        if self._listen.deferred and Protocol.SSL in requested:
            return Protocol.SSL
        return wire.STANDARD_SECURITY

    # ------------------------------------------------------------------ NLA

    async def _network_level(self, proofs: Proofs, talk: Talk) -> str:
        """Let the client prove its user's password or token by CredSSP; gives the name it said.

        Raises ClientError, WireError.
        """
        offered: dict[bytes, Proof] = {}

        def lookup(said: str, _: str) -> Sequence[bytes]:
            offered.update(proofs.network_level(proofs.access.parse_username(said).user))
            return tuple(offered)

        acceptor = credssp.Acceptor(lookup, self._key, time.time())
        while acceptor.login is None:
            request = await talk.request()
            try:
                answer = acceptor.step(request)
            except credssp.Refused as refused:
                if refused.answer:
                    self._send(refused.answer)
                self.count()
                self.fail()
            if answer:
                talk.send(answer)
        self._proven = offered[acceptor.login.nt_key]
        return acceptor.login.user

    # ------------------------------------------------------------------ the conference

    async def confer(self) -> Wants:
        """Be the server of its conference until it has said who its user is; raises ClientError, WireError."""
        talk = self._talk
        assert talk is not None  # noqa: S101 - `begin` comes first
        initial = mcs.parse_connect_initial(await talk.frame())
        blocks = gcc.parse_create_request(initial.user_data)
        gcc.client_core(blocks)  # which every client must have
        ids = range(FIRST_CHANNEL, FIRST_CHANNEL + len(gcc.channels(blocks)))
        ours = gcc.build_create_response(gcc.server_blocks(self._requested, ids))
        talk.send(mcs.build_connect_response(mcs.ConnectResponse(0, mcs.OUR_PARAMETERS, ours)))
        may_join = {USER, mcs.GLOBAL_CHANNEL, *ids}
        for _ in range(MAX_MESSAGES):
            match mcs.parse_message(await talk.frame()):
                case mcs.ErectDomainRequest():
                    pass
                case mcs.AttachUserRequest():
                    talk.send(mcs.build_message(mcs.AttachUserConfirm(0, USER)))
                case mcs.ChannelJoinRequest(_, channel) if channel in may_join:
                    talk.send(mcs.build_message(mcs.ChannelJoinConfirm(0, USER, channel, channel)))
                case mcs.Data(_, mcs.GLOBAL_CHANNEL, payload):
                    self._spoken = True
                    return Wants(blocks, info.parse_client_info(payload))
                case mcs.Disconnect():
                    raise ClientError("The client left before its login.")
                case _:
                    raise WireError("sent what has no place before a login")
        raise WireError("joins channels for ever")

    # ------------------------------------------------------------------ who it is

    async def prove(self, proofs: Proofs, name: str, said: str) -> Login | None:
        """Let the client prove that it is the user of that name, by what Client Info has; raises ClientError.

        After NLA it has done so. None: all is right but that a one-time code is missing, which the login screen asks for.
        """
        proof = self._proven or await proofs.said(name, said, asks=self._listen.login_screen)
        if proof is None:
            self.count()
            self.fail()
        return None if proof.missing else self.logged_in(name, proof)

    def logged_in(self, name: str, proof: Proof) -> Login:
        """Give the login of who has shown this."""
        self.token = proof.token
        return Login(name, self._caller.ip, proof.how)

    def count(self) -> None:
        """Count a proof that was none."""
        self.failures += 1
        metrics.LOGINS.labels(protocol="rdp", result="failed").inc()

    def fail(self) -> NoReturn:
        """Say that it was not proven who the client is; raises ClientError."""
        self.say(ErrorInfo.SERVER_DENIED_CONNECTION)
        raise ClientError("The client did not prove who it is.")

    # ------------------------------------------------------------------ talking

    def lobby(self, wants: Wants, proxy: str) -> Lobby:
        """Give the login screen, for a client that has been conferred with; `proxy`: what it is told as our name."""
        assert self._talk is not None  # noqa: S101 - the conference went through it
        return Lobby(self._talk, self, gcc.client_core(wants.blocks), proxy, wants.info.user)

    def say(self, code: ErrorInfo) -> None:
        """Say why the connection ends, if the client is far enough to understand it (rule 3)."""
        if self._spoken:
            self._send(farewell(code))

    def _send(self, data: bytes) -> None:
        if self._talk is not None:
            with contextlib.suppress(ClientError, trio.ClosedResourceError):
                self._talk.send(data)

    def done(self) -> Stream:
        """Hand the stream on to the session."""
        assert self._talk is not None  # noqa: S101 - the login came through it
        return self._talk.done()

    async def aclose(self) -> None:
        """Close; what was said arrives if the client reads it within LEAVE_S."""
        if self._talk is not None:
            await self._talk.stream.aclose(LEAVE_S)
        elif not self._adopted:
            self._caller.sock.close()


def farewell(code: ErrorInfo, share_id: int = OUR_SHARE) -> bytes:
    """Give the frames that end a client's session for a reason: Set Error Info, 2.2.5.1, and the ultimatum, 2.2.2.3."""
    why = ShareData(share_id, mcs.SERVER_USER, DataKind.SET_ERROR_INFO, share.error_info(code))
    data = mcs.Data(mcs.SERVER_USER, mcs.GLOBAL_CHANNEL, share.build_share_data(why))
    return mcs.build_data(data, to_server=False) + mcs.build_message(
        mcs.Disconnect(mcs.Reason.PROVIDER_INITIATED)
    )


async def broken(front: Front, error: WireError) -> ProtocolBroken:
    """Say to the client that it broke the protocol, and give the error for it."""
    front.say(ErrorInfo.SERVER_DENIED_CONNECTION)
    await trio.lowlevel.checkpoint()
    return ProtocolBroken(f"The client {error}.")


def shown(wants: Wants) -> str:
    """Give what the client says of itself, for the record: its computer's name and its build."""
    core = gcc.client_core(wants.blocks)
    return printable(f"{core.name[:MAX_SHOWN]} (build {core.build})")
