import pytest

from proxyd.protocols.rdp import gcc
from proxyd.protocols.rdp.gcc import Block, Channel, Early, Kind
from proxyd.protocols.rdp.wire import Protocol, WireError
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")


def client(core=seeds.CORE_NEW):
    return (Block(Kind.CS_CORE, core), Block(Kind.CS_NET, seeds.NET), Block(0xC0FF, b"unknown"))


def test_request_of_the_specification():
    blocks = gcc.parse_create_request(seeds.CREATE_REQUEST)
    assert [block.kind for block in blocks] == [Kind.CS_CORE, Kind.CS_CLUSTER, Kind.CS_SECURITY, Kind.CS_NET]
    assert gcc.build_create_request(blocks) == seeds.CREATE_REQUEST


def test_client_of_the_specification():
    core = gcc.client_core(gcc.parse_create_request(seeds.CREATE_REQUEST))
    assert (core.version, core.width, core.height, core.layout) == (0x00080004, 1280, 1024, 0x0409)
    assert (core.build, core.name, core.keyboard_type, core.function_keys) == (3790, "ELTONS-DEV2", 4, 12)
    assert (core.depth, core.early, core.selected) == (24, Early.SUPPORT_ERRINFO_PDU, Protocol(0))


def test_client_of_old_says_less():
    blocks = client(seeds.CORE[:128])
    core = gcc.client_core(blocks)
    assert (core.depth, core.early, core.selected) == (0, Early(0), None)
    assert (
        gcc.clear_early(gcc.set_selected(gcc.set_depth_16(blocks), Protocol.SSL), Early.WANT_32BPP_SESSION)
        == blocks
    )


def test_channels_of_the_specification():
    found = gcc.channels(gcc.parse_create_request(seeds.CREATE_REQUEST))
    assert found == (
        Channel("rdpdr", 0x80800000),
        Channel("cliprdr", 0xC0A00000),
        Channel("rdpsnd", 0xC0000000),
    )
    assert gcc.channels(client()[:1]) == ()


def test_edits_change_their_field_only():
    blocks = gcc.set_selected(client(), Protocol.HYBRID)
    assert gcc.client_core(blocks).selected == Protocol.HYBRID
    core = gcc.find(blocks, Kind.CS_CORE)
    assert len(core) == len(seeds.CORE_NEW)
    assert [at for at in range(len(core)) if core[at] != seeds.CORE_NEW[at]] == [208]
    assert blocks[1:] == client()[1:]


def test_early_flags_we_do_not_know_stay():
    core = seeds.CORE[:140] + b"\xff\xff" + seeds.CORE[142:]
    blocks = gcc.clear_early(client(core), gcc.OWN_PHASES | Early.SUPPORT_DYNVC_GFX_PROTOCOL)
    assert gcc.client_core(blocks).early == 0xFFFF & ~0x0D80


def test_client_of_16_bits():
    core = gcc.client_core(gcc.set_depth_16(client(seeds.CORE[:140] + b"\x03\0" + seeds.CORE[142:])))
    assert (core.depth, core.early) == (16, Early.SUPPORT_ERRINFO_PDU)


def test_channels_are_renamed_and_lose_options_but_stay_as_many():
    def change(channel):
        if channel.name == "cliprdr":
            return channel._replace(name="x_clip")
        return channel._replace(options=channel.options & ~int(gcc.ChannelOption.COMPRESS_RDP))

    blocks = gcc.edit_channels(client(), change)
    assert gcc.channels(blocks) == (
        Channel("rdpdr", 0x80000000),
        Channel("x_clip", 0xC0A00000),
        Channel("rdpsnd", 0xC0000000),
    )
    assert gcc.edit_channels(client(), lambda channel: channel) == client()


def test_multitransport_is_off():
    blocks = (*client(), Block(Kind.CS_MULTITRANSPORT, b"\x05\x03\0\0"))
    assert gcc.find(gcc.clear_multitransport(blocks), Kind.CS_MULTITRANSPORT) == bytes(4)
    assert gcc.without(blocks, Kind.CS_MULTITRANSPORT) == client()


def test_monitors():
    body = (
        bytes(4)
        + b"\2\0\0\0"
        + bytes(16)
        + b"\1\0\0\0"
        + b"\0\xfb\xff\xff"
        + bytes(4)
        + b"\xff\xff\xff\xff\xff\3\0\0"
        + bytes(4)
    )
    found = gcc.monitors((Block(Kind.CS_MONITOR, body),))
    assert found == (gcc.Monitor(0, 0, 0, 0, 1), gcc.Monitor(-1280, 0, -1, 1023, 0))
    assert gcc.monitors(()) == ()


def test_response_of_the_specification():
    blocks = gcc.parse_create_response(seeds.CREATE_RESPONSE)
    assert gcc.server_core(blocks) == gcc.ServerCore(0x00080004, Protocol(0))
    assert gcc.server_network(blocks) == gcc.ServerNetwork(1003, (1004, 1005, 1006))
    assert gcc.server_security(blocks) == gcc.ServerSecurity(2, 2)
    assert gcc.message_channel(blocks) is None
    assert gcc.parse_create_response(gcc.build_create_response(blocks)) == blocks


def test_requested_protocols_are_rewritten():
    blocks = gcc.set_requested(
        gcc.parse_create_response(seeds.CREATE_RESPONSE), Protocol.SSL | Protocol.HYBRID
    )
    assert gcc.server_core(blocks).requested == Protocol.SSL | Protocol.HYBRID


@pytest.mark.parametrize("count", [0, 1, 2, 31])
def test_our_own_response(count):
    ids = tuple(range(1004, 1004 + count))
    blocks = gcc.parse_create_response(gcc.build_create_response(gcc.server_blocks(Protocol.SSL, ids)))
    assert [block.kind for block in blocks] == [Kind.SC_CORE, Kind.SC_NET, Kind.SC_SECURITY]
    assert gcc.server_network(blocks) == gcc.ServerNetwork(1003, ids)
    assert gcc.server_security(blocks) == gcc.ServerSecurity(0, 0)
    assert gcc.server_core(blocks).requested == Protocol.SSL
    assert all(len(block.body) % 4 == 0 for block in blocks)


def test_message_channel_of_a_server():
    assert gcc.message_channel((Block(Kind.SC_MCS_MSGCHANNEL, b"\xf0\x03"),)) == 1008


@pytest.mark.parametrize("whole", [seeds.CREATE_REQUEST, seeds.CREATE_RESPONSE])
def test_settings_cut_anywhere_are_refused(whole):
    parse = gcc.parse_create_request if whole is seeds.CREATE_REQUEST else gcc.parse_create_response
    for end in range(len(whole)):
        with pytest.raises(WireError):
            parse(whole[:end])


def test_what_does_not_fit_is_refused():
    twice = gcc.build_create_request((*client(), Block(Kind.CS_CORE, seeds.CORE)))
    many = (Block(Kind.CS_NET, b"\x20\0\0\0" + bytes(12 * 32)),)
    for wrong in (
        lambda: gcc.parse_create_request(twice),
        lambda: gcc.channels(many),
        lambda: gcc.channels((Block(Kind.CS_NET, b"\x02\0\0\0" + bytes(12)),)),
        lambda: gcc.client_core(()),
        lambda: gcc.client_core(client(seeds.CORE[:127])),
        lambda: gcc.monitors((Block(Kind.CS_MONITOR, bytes(4) + b"\xff\xff\xff\x0f"),)),
        lambda: gcc.server_core(()),
        lambda: gcc.server_network(()),
        lambda: gcc.server_network((Block(Kind.SC_NET, b"\xeb\x03\x20\0" + bytes(64)),)),
        lambda: gcc.server_security(()),
    ):
        with pytest.raises(WireError):
            wrong()
