"""RDP's wire, fuzzed: whole sessions through the conduit, both sides' logins, and every reader of a message.

Rule: besides what `session_rdp` promises, only the typed errors of logins and readers come out.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, Final, cast

from proxyd.access import parse_username
from proxyd.config import Account, User
from proxyd.decoders import Graphics
from proxyd.errors import ProxydError
from proxyd.protocols.rdp import back, channels, credssp, fastpath, gcc, info, mcs, share, wire
from proxyd.protocols.rdp import front as fronts
from proxyd.protocols.rdp.credssp import Acceptor, Initiator, Refused, Request, TargetRefused
from proxyd.protocols.rdp.front import Front, Wants
from proxyd.protocols.rdp.ntlm import WrongPassword
from proxyd.protocols.rdp.share import Control, ShareData
from proxyd.protocols.rdp.static import USER
from proxyd.protocols.rdp.talk import Talk
from proxyd.protocols.rdp.wire import Protocol, WireError
from proxyd.verifiers import nt_hash, nt_key
from tests.fuzz import seeds_rdp as seeds
from tests.fuzz.program import Input, Peer, driven
from tests.fuzz.session_rdp import Session, chunked, on_channel
from tests.fuzz.test_rdp_wire import PARSERS

TYPED: Final = (WireError, ProxydError, Refused, TargetRefused, WrongPassword)
KEY: Final = b"\x30\x0a" + bytes(10)  # a public key, as CredSSP binds to it
NOW: Final = 1_790_000_000.0
PASSWORD: Final = "Ann's password"
SHARE: Final = 0x000103EA
MOST_FAST: Final = 0x3000


def framed(by_client: bool, kind: int, body: bytes) -> bytes:
    """A frame: the low bits of `kind` say on which channel, those above them in what the body stands."""
    channel, head, rest = kind & 7, body[0] if body else 0, body[1:]
    match kind >> 3 & 7:
        case 0:
            return on_channel(by_client, channel, body)
        case 1:
            return chunked(by_client, channel, body)
        case 2:
            data = ShareData(SHARE, USER, head, rest[:MOST_FAST])
            return on_channel(by_client, 0, share.build_share_data(data))
        case 3:
            control = Control(head & 0x0F, USER, rest[:MOST_FAST])
            return on_channel(by_client, 0, share.build_control(control))
        case 4:
            return _fast(head & ~wire.ACTION_BITS, rest[:MOST_FAST])
        case 5:
            return on_channel(by_client, channel, head.to_bytes(4, "little") + rest)
        case 6:
            return wire.build_data_tpdu(body[:MOST_FAST])
    return on_channel(by_client, 0, b"\x80\0\0\0" + body)  # licensing


def _fast(head: int, payload: bytes) -> bytes:
    return bytes((head,)) + wire.u16_big(len(payload) + 3 | 0x8000) + payload


# ---------------------------------------------------------------------------------------------- logins


def _front(peer: Peer) -> Front:
    listen = SimpleNamespace(nla=True, deferred=True, target="")
    front = Front(cast("Any", SimpleNamespace(ip="192.0.2.1")), cast("Any", listen), cast("Any", None), KEY)
    front._talk = Talk(cast("Any", peer))
    return front


def client_login(source: Input) -> None:
    """A client's conference, up to its Client Info."""
    chunk = source.byte()
    wants = driven(_front(Peer(source.rest(), chunk)).confer())
    fronts.shown(wants)


def client_by_nla(source: Input) -> None:
    """A client's CredSSP."""
    users = {"ann": User(name="ann", nt_hash=nt_hash(PASSWORD))}
    access = SimpleNamespace(user=users.get, parse_username=parse_username)
    chunk = source.byte()
    front = _front(Peer(source.rest(), chunk))
    assert front._talk is not None
    driven(front._network_level(cast("Any", access), front._talk))
    raise AssertionError("somebody got in without the password")


WANTS: Final = Wants(
    gcc.parse_create_request(mcs.parse_connect_initial(seeds.CONNECT_INITIAL).user_data),
    info.parse_client_info(seeds.CLIENT_INFO),
)


def target_login(source: Input) -> None:
    """A target's side of its login, with NLA or without."""
    settings, chunk = source.byte(), source.byte()
    selected = (Protocol.SSL, Protocol.HYBRID, Protocol.SSL, Protocol.HYBRID_EX)[settings & 3]
    graphics: Graphics = "gfx" if settings & 4 else "bitmap"
    peer = Peer(source.rest(), chunk, certificate=b"no certificate")
    target = SimpleNamespace(
        name="desk", host="desk", colour_depth=32, bulk_compression=True, accounts={"svc": Account()}
    )
    login = back._Login(cast("Any", peer), cast("Any", target), "svc", "Target-Pw1", graphics)
    driven(login.run(selected, WANTS))


def tokens(source: Input) -> None:
    """What either side's CredSSP is told, message by message."""
    accepts, wrapped = source.byte() & 1, source.byte() & 1
    side = (
        Acceptor(lambda user, _: (nt_key(PASSWORD),) if user == "ann" else (), KEY, NOW)
        if accepts
        else Initiator(credssp.Account("ann", PASSWORD), KEY, "desk")
    )
    if isinstance(side, Initiator):
        side.start()
    while source.left > 0:
        token = source.counted()
        side.step(Request(token=token).build() if wrapped else token)


def preamble(source: Input) -> None:
    """The first message of either side, before TLS."""
    data = source.rest() or b"\3"
    for read in (wire.parse_connection_request, wire.parse_connection_confirm):
        with contextlib.suppress(WireError):
            read(data)


def layouts(source: Input) -> None:
    """One message, by every reader there is."""
    data = source.rest()
    for parse in PARSERS.values():
        with contextlib.suppress(WireError):
            parse(data)
    for read in (fastpath.parse_input, fastpath.parse_output, mcs.parse_message, channels.parse_chunk):
        with contextlib.suppress(WireError):
            read(data or b"\0")
    for ask in (credssp.request_bytes, credssp.public_key, credssp.early_result, Request.parse):
        with contextlib.suppress(*TYPED):
            ask(data)


LOGINS: Final = (client_login, client_by_nla, target_login, tokens, preamble)


def play(data: bytes) -> None:
    """Run one input; AssertionError, or whatever else comes out, is a finding."""
    source = Input(data)
    mode = source.byte() % 8
    if mode < 5:
        Session(licensed=mode > 0, graphics="gfx" if mode == 2 else "bitmap").run(source, framed)
        return
    work = layouts if mode == 5 else LOGINS[source.byte() % len(LOGINS)]
    with contextlib.suppress(*TYPED):
        work(source)


def quiet() -> None:
    """Log nothing of what logins say: millions fail."""
    back._log = cast("Any", SimpleNamespace(warning=lambda *_, **__: None))
