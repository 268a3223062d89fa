"""The target's side until its session begins: dial, TLS, NLA where it wants it, its conference, the login.

Rule 1: the credential is fetched here, used here and kept nowhere.
Rule 2: RDP's own security is never agreed to, and the certificate is checked before any credential goes.
Rule 3: the target is told what its policy of graphics leaves of what the client said, and nothing of phases the client
        has behind it.
Rule 4: what a target says of a failed login is for its operators' log; the user gets one sentence.

MS-RDPBCGR 1.3.1.1; 2.2.1.1 to 2.2.1.11.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, Unpack

import trio

from proxyd import log, vault
from proxyd.database_tls import TargetTls, ready_tls
from proxyd.decoders import Graphics
from proxyd.errors import TargetError, TargetLoginFailed, TargetUnreachable
from proxyd.preamble import Side, read_preamble
from proxyd.protocols.rdp import credssp, gcc, info, mcs, wire
from proxyd.protocols.rdp.account import Account
from proxyd.protocols.rdp.capabilities import bitmap_info, bitmap_request
from proxyd.protocols.rdp.gcc import Blocks, Kind
from proxyd.protocols.rdp.talk import Talk, missing
from proxyd.protocols.rdp.wire import Protocol, WireError
from proxyd.stream import Stream, adopt_client
from proxyd.target import count_login, dial

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd import config
    from proxyd.config import Target
    from proxyd.protocols.rdp.front import Wants

ASKED: Final = Protocol.SSL | Protocol.HYBRID | Protocol.HYBRID_EX
MAX_ROUNDS: Final = 16  # of CredSSP; NTLM takes three

T = TypeVar("T")
Args = TypeVarTuple("Args")

_log = log.get("rdp")


@dataclass(frozen=True, slots=True)
class Back:
    """A target whose conference stands and that has our Client Info: its stream and its numbers."""

    stream: Stream
    user: int
    io: int
    channels: tuple[int, ...]  # in the order in which the client asked for them
    depth: int


async def connect(target: Target, login: str, wants: Wants, graphics: Graphics) -> Back:
    """Dial the target and log in; raises TargetError and its kin, within the target's own deadlines."""
    try:
        back = await _connect(target, login, wants, graphics)
    except TargetError as error:
        count_login("rdp", error)
        _log.warning("target not reached", target=target.name, why=getattr(error, "detail", str(error)))
        raise
    count_login("rdp", None)
    return back


async def _connect(target: Target, login: str, wants: Wants, graphics: Graphics) -> Back:
    kept = target.accounts[login].password
    password = (await vault.fetch(kept)).text() if kept else ""
    tls = await _tls(target)
    sock = await dial(target)
    with trio.move_on_after(target.login_seconds):
        stream, selected = await _secured(sock, target, tls)
        try:
            return await _Login(stream, target, login, password, graphics).run(selected, wants)
        except WireError as error:
            stream.abort()
            raise TargetError(f"{target.name} {error}.") from None
        except BaseException:
            stream.abort()
            raise
    raise TargetUnreachable(f"{target.name} did not finish the login (waited {target.login_seconds:g} s).")


async def _tls(target: Target) -> TargetTls:
    tls = await ready_tls(target)
    if tls is None:
        raise TargetError(f"{target.name} is configured without TLS, which RDP is never used without.")
    return tls


async def _secured(sock: socket.socket, target: Target, tls: TargetTls) -> tuple[Stream, Protocol]:
    """Agree with the target on TLS, with NLA or without (rule 2), and begin it."""
    try:
        selected = await _negotiate(sock, target)
    except WireError as error:
        sock.close()
        raise TargetError(f"{target.name} {error}.") from None
    except OSError as error:
        sock.close()
        raise TargetError(f"{target.name} broke the connection: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return await adopt_client(sock, tls.context, tls.server_hostname), selected


async def _negotiate(sock: socket.socket, target: Target) -> Protocol:
    sock.send(wire.build_connection_request(wire.ConnectionRequest(protocols=ASKED)))  # into an empty buffer
    got = await read_preamble(
        sock, missing, side=Side.TARGET, limit=wire.MAX_CONNECTION_REQUEST, seconds=target.login_seconds
    )
    confirm = wire.parse_connection_confirm(got)
    if confirm.selected not in (Protocol.SSL, Protocol.HYBRID, Protocol.HYBRID_EX):
        raise TargetError(f"{target.name} offers neither TLS nor NLA, and nothing else is safe.")
    return confirm.selected


class _Login:
    """One login at a target."""

    def __init__(self, stream: Stream, target: Target, login: str, password: str, graphics: Graphics) -> None:
        self._talk = Talk(stream)
        self._target = target
        self._login = login
        self._graphics = graphics
        self._account = _account(target.accounts[login], login, password)

    async def run(self, selected: Protocol, wants: Wants) -> Back:
        """Log in; raises WireError, TargetError."""
        if selected is not Protocol.SSL:
            await self._network_level(early=selected is Protocol.HYBRID_EX)
        blocks = self._asked(wants.blocks, selected)
        network, extra = await self._confer(blocks)
        user = await self._attach()
        for channel in (user, network.io, *network.channels, *extra):
            await self._join(user, channel)
        asked = bitmap_info(wants.info, compressed=self._target.bulk_compression)
        known = info.log_on_as(asked, self._account.domain, self._login, self._account.password)
        self._talk.send(
            mcs.build_data(mcs.Data(user, network.io, info.build_client_info(known)), to_server=True)
        )
        core = gcc.client_core(blocks)
        depth = 32 if core.early & gcc.Early.WANT_32BPP_SESSION else 16
        return Back(self._talk.done(), user, network.io, network.channels, depth)

    async def _network_level(self, *, early: bool) -> None:
        """Prove the account by CredSSP, and read what `early` says of it; raises WireError, TargetLoginFailed."""
        try:
            await self._prove()
            if early:
                credssp.early_result(await self._talk.exactly(credssp.EARLY_RESULT_BYTES))
        except credssp.NoTicket as error:
            _log.warning("no Kerberos ticket", target=self._target.name, login=self._login, why=str(error))
            raise TargetLoginFailed(
                f"There is no Kerberos ticket for the account of {self._target.name}; tell your administrator."
            ) from None
        except credssp.TargetRefused as refused:
            _log.warning(
                "a target refused its account", target=self._target.name, login=self._login, why=str(refused)
            )
            raise TargetLoginFailed(f"{self._target.name} refused the login of its account.") from None
        except TargetError:  # what servers before CredSSP 3 answer a wrong password with, and FreeRDP's
            raise TargetLoginFailed(
                f"{self._target.name} broke off the login of its account; is its password right?"
            ) from None

    async def _prove(self) -> None:
        key = credssp.public_key(self._talk.stream.peer_certificate or b"")
        initiator = await _aside(credssp.Initiator, self._account, key, self._target.host)
        self._talk.send(await _aside(initiator.start))
        for _ in range(MAX_ROUNDS):
            self._talk.send(await _aside(initiator.step, await self._talk.request()))
            if initiator.done:
                return
        raise WireError("goes on with its login for ever")

    def _asked(self, blocks: Blocks, selected: Protocol) -> Blocks:
        """Give what the client asks for as far as the target may know it (rule 3)."""
        blocks = bitmap_request(blocks, self._target.colour_depth, pipeline=self._graphics != "bitmap")
        blocks = gcc.set_selected(blocks, selected)
        return gcc.without(gcc.clear_early(blocks, gcc.OWN_PHASES), Kind.CS_MCS_MSGCHANNEL)

    async def _confer(self, blocks: Blocks) -> tuple[gcc.ServerNetwork, tuple[int, ...]]:
        """Begin the conference; gives the channels, and the message channel where there is one all the same."""
        asked = gcc.build_create_request(blocks)
        limits = (mcs.OUR_PARAMETERS, mcs.OUR_PARAMETERS._replace(channels=1, users=1), WIDEST)
        self._talk.send(mcs.build_connect_initial(mcs.ConnectInitial(*limits, asked)))
        response = mcs.parse_connect_response(await self._talk.frame())
        if response.result:
            raise TargetError(f"{self._target.name} does not begin the conference.")
        answered = gcc.parse_create_response(response.user_data)
        if any(gcc.server_security(answered)):
            raise WireError("would encrypt a second time")
        network = gcc.server_network(answered)
        if len(network.channels) != len(gcc.channels(blocks)):
            raise WireError("answers with another number of channels")
        message = gcc.message_channel(answered)
        return network, () if message is None else (message,)

    async def _attach(self) -> int:
        self._talk.send(
            mcs.build_message(mcs.ErectDomainRequest()) + mcs.build_message(mcs.AttachUserRequest())
        )
        match mcs.parse_message(await self._talk.frame()):
            case mcs.AttachUserConfirm(0, user) if user:
                return user
        raise WireError("does not let a user in")

    async def _join(self, user: int, channel: int) -> None:
        self._talk.send(mcs.build_message(mcs.ChannelJoinRequest(user, channel)))
        match mcs.parse_message(await self._talk.frame()):
            case mcs.ChannelJoinConfirm(0, _, _, joined) if joined == channel:
                return
        raise WireError("does not let a channel be joined")


def _account(kept: config.Account, login: str, password: str) -> Account:
    """Give whom we are there."""
    keytab, ccache = (str(path) if path else "" for path in (kept.keytab, kept.ccache))
    return Account(login, password, kept.domain, keytab, ccache)


async def _aside(call: Callable[[Unpack[Args]], T], *args: *Args) -> T:
    """Call in a thread: Kerberos asks its KDC, and waits."""
    return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True)


WIDEST: Final = mcs.DomainParameters(0xFFFF, 0xFC17, 0xFFFF, 1, 0, 1, 0xFFFF, 2)  # as clients say it, 4.1.3
