"""Faults met while RDP was tried out against real peers, each where a whole connection would show it again.

Further ones stand where they belong: licensing (test_rdp_engine, test_rdp_info), a refused NLA login without its reason and
the result before the conference (test_rdp_engine, test_rdp_credssp), the list of mechanisms that nothing protects
(test_rdp_spnego: request-mic is answered, a missing MIC refused).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.protocols.rdp import gcc, mcs, wire
from proxyd.protocols.rdp.gcc import Block, Early, Kind
from proxyd.protocols.rdp.wire import Protocol, ResponseFlag
from tests.contract.rdp_rig import GRANTED, Target, rigged
from tests.fuzz.captured_rdp import XFREERDP_CONNECT_INITIAL

pytestmark = [pytest.mark.hosted, pytest.mark.mission("M16"), pytest.mark.timeout(120)]

MESSAGE_CHANNEL = 1012  # of the target's alone
EARLY_AT = 140  # earlyCapabilityFlags in the body of CS_CORE, 2.2.1.3.2


def modern() -> bytes:
    """What a client of today asks for: no joins, a message channel with its own phases, graphics over UDP."""
    initial = mcs.parse_connect_initial(XFREERDP_CONNECT_INITIAL)
    blocks = gcc.parse_create_request(initial.user_data)
    early = gcc.client_core(blocks).early | gcc.OWN_PHASES

    def change(body: bytes) -> bytes:
        return body[:EARLY_AT] + int(early).to_bytes(2, "little") + body[EARLY_AT + 2 :]

    blocks = gcc.without(gcc.without(blocks, Kind.CS_MCS_MSGCHANNEL), Kind.CS_MULTITRANSPORT)
    blocks = (
        *gcc.edit(blocks, Kind.CS_CORE, change),
        Block(Kind.CS_MCS_MSGCHANNEL, bytes(4)),
        Block(Kind.CS_MULTITRANSPORT, b"\x05\x03\0\0"),
    )
    assert gcc.client_core(blocks).early == early
    return mcs.build_connect_initial(initial._replace(user_data=gcc.build_create_request(blocks)))


async def test_a_target_is_not_asked_for_phases_of_the_client_s_connection(tmp_path: Path) -> None:
    """Skipped joins, auto-detect, heartbeats and multitransport: what one side does there the other never sees."""
    async with rigged(tmp_path) as rig, rig.client() as client:
        await client.secure(rig.identity.ca)
        await client.confer(modern())
        await client.identify()
        await client.frame()
        (target,) = rig.targets
        assert not gcc.client_core(target.blocks).early & (
            Early.SUPPORT_SKIP_CHANNELJOIN | Early.SUPPORT_NETCHAR_AUTODETECT | Early.SUPPORT_HEARTBEAT_PDU
        )
        assert gcc.find(target.blocks, Kind.CS_MCS_MSGCHANNEL) is None
        assert gcc.find(target.blocks, Kind.CS_MULTITRANSPORT) in {None, bytes(4)}


async def test_what_a_target_says_on_a_channel_of_its_own_reaches_no_client(tmp_path: Path) -> None:
    async def serve(target: Target) -> None:
        await target.secure()
        await target.confer()
        data = mcs.Data(mcs.SERVER_USER, MESSAGE_CHANNEL, b"\0\x10\0\0\x06\0\0\0\x01\0")  # SEC_AUTODETECT_REQ
        await target.send(mcs.build_data(data, to_server=False))
        await target.say(GRANTED)

    async with rigged(tmp_path, serve) as rig, rig.client() as client:
        await client.secure(rig.identity.ca)
        await client.confer()
        await client.identify()
        heard = mcs.data_frame(await client.frame())
        assert heard and (heard.channel, heard.payload) == (mcs.GLOBAL_CHANNEL, GRANTED)


async def test_a_client_s_user_is_none_of_its_channels_and_blocks_come_in_order(tmp_path: Path) -> None:
    """A user that is also a channel had DRDYNVC's answers sent to it; and some clients read NET only before SECURITY."""
    async with rigged(tmp_path) as rig, rig.client() as client:
        await client.secure(rig.identity.ca)
        await client.send(modern())
        answer = mcs.parse_connect_response(await client.frame())
        blocks = gcc.parse_create_response(answer.user_data)
        assert [block.kind for block in blocks] == [Kind.SC_CORE, Kind.SC_NET, Kind.SC_SECURITY]
        network = gcc.server_network(blocks)
        assert len(network.channels) >= 4
        await client.send(
            mcs.build_message(mcs.ErectDomainRequest()), mcs.build_message(mcs.AttachUserRequest())
        )
        attached = mcs.parse_message(await client.frame())
        assert isinstance(attached, mcs.AttachUserConfirm)
        assert attached.user > max(network.io, *network.channels)


@pytest.mark.parametrize("protocols", [Protocol.SSL, Protocol.SSL | Protocol.HYBRID | Protocol.HYBRID_EX])
async def test_a_client_is_not_offered_to_log_in_without_its_password(
    tmp_path: Path, protocols: Protocol
) -> None:
    """Restricted admin and redirected authentication: a client that takes them sends none."""
    async with rigged(tmp_path) as rig, rig.client() as client:
        await client.send(wire.build_connection_request(wire.ConnectionRequest(protocols=protocols)))
        confirm = wire.parse_connection_confirm(await client.frame())
        assert not confirm.flags & ~(
            ResponseFlag.EXTENDED_CLIENT_DATA_SUPPORTED | ResponseFlag.DYNVC_GFX_PROTOCOL_SUPPORTED
        )
