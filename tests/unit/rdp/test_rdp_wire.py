import pytest

from proxyd.protocols.rdp import wire
from proxyd.protocols.rdp.wire import (
    ConnectionConfirm,
    ConnectionRequest,
    Framer,
    NegotiationFailure,
    Protocol,
    RequestFlag,
    ResponseFlag,
    WireError,
)
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")

FAST = b"\x04\x04\x01\x1d"
FAST_LONG = b"\x00\x81\x00" + bytes(253)


def test_frames_come_out_whole_however_they_arrive():
    stream = seeds.CONNECTION_CONFIRM + FAST + FAST_LONG + seeds.JOIN + FAST
    wanted = [seeds.CONNECTION_CONFIRM, FAST, FAST_LONG, seeds.JOIN, FAST]
    assert Framer().feed(stream) == wanted
    for size in (1, 2, 3, 5, 100):
        framer, found = Framer(), []
        for at in range(0, len(stream), size):
            found += framer.feed(stream[at : at + size])
        assert found == wanted
        assert framer.held == 0


def test_what_is_kept_is_given_back():
    framer = Framer()
    assert framer.feed(seeds.JOIN + b"\x03\x00\x00") == [seeds.JOIN]
    assert framer.held == 3
    assert framer.release() == b"\x03\x00\x00"
    assert framer.held == 0
    assert framer.feed(FAST) == [FAST]


def test_fast_path_is_told_from_tpkt():
    assert wire.is_fast_path(FAST)
    assert not wire.is_fast_path(seeds.JOIN)


@pytest.mark.parametrize(
    "data", [b"\x03\0\0\x06", b"\x03\0\0\0", b"\x01\x05", b"\x00\x02", b"\x00\x80\x02", b"\x16\x03", b"GET /"]
)
def test_what_is_no_frame(data):
    with pytest.raises(WireError):
        Framer().feed(data)


def test_connection_request_of_the_specification():
    request = wire.parse_connection_request(seeds.CONNECTION_REQUEST)
    assert request == ConnectionRequest(
        b"Cookie: mstshash=eltons", Protocol(0), RequestFlag(0), negotiates=True
    )
    assert request.user == "eltons"
    assert wire.build_connection_request(request) == seeds.CONNECTION_REQUEST


def test_connection_request_with_a_routing_token_and_correlation():
    token = b"Cookie: msts=3640205228.15629.0000"
    whole = wire.build_connection_request(ConnectionRequest(token, Protocol.SSL | Protocol.HYBRID))
    request = wire.parse_connection_request(whole)
    assert (request.routing, request.user, request.protocols) == (token, "", Protocol.SSL | Protocol.HYBRID)
    correlated = wire.tpkt(
        bytes((14 + 36, 0xE0, 0, 0, 0, 0, 0)) + b"\1\x08\x08\0\x0b\0\0\0" + b"\x06\0\x24\0" + b"\r\n" * 16
    )
    request = wire.parse_connection_request(correlated)
    assert (request.routing, request.flags) == (b"", RequestFlag.CORRELATION_INFO_PRESENT)
    assert request.protocols == Protocol.SSL | Protocol.HYBRID | Protocol.HYBRID_EX


def test_connection_request_of_an_old_client_negotiates_nothing():
    request = wire.parse_connection_request(wire.tpkt(b"\x06\xe0\0\0\0\0\0"))
    assert request == ConnectionRequest(negotiates=False)
    assert wire.build_connection_request(request) == wire.tpkt(b"\x06\xe0\0\0\0\0\0")


@pytest.mark.parametrize("frame", [seeds.CONNECTION_CONFIRM, seeds.JOIN, seeds.CONNECTION_REQUEST[:-1], seeds.CONNECTION_REQUEST[:11] + b"\x05\0\x08\0\0\0\0\0",
                                   wire.tpkt(b"\x7f\xe0" + bytes(600)), FAST * 4])  # fmt: skip
def test_what_is_no_connection_request(frame):
    with pytest.raises(WireError):
        wire.parse_connection_request(frame)


def test_connection_confirm_of_the_specification():
    confirm = wire.parse_connection_confirm(seeds.CONNECTION_CONFIRM)
    assert confirm == ConnectionConfirm(Protocol(0), ResponseFlag(0))
    assert wire.build_connection_confirm(confirm) == seeds.CONNECTION_CONFIRM


def test_connection_confirm_that_selects_and_one_that_fails():
    chosen = ConnectionConfirm(Protocol.HYBRID_EX, ResponseFlag.EXTENDED_CLIENT_DATA_SUPPORTED)
    failed = ConnectionConfirm(Protocol(0), ResponseFlag(0), NegotiationFailure.SSL_REQUIRED_BY_SERVER)
    for confirm in (chosen, failed):
        assert wire.parse_connection_confirm(wire.build_connection_confirm(confirm)) == confirm


def test_connection_confirm_without_negotiation_is_standard_security():
    assert (
        wire.parse_connection_confirm(wire.tpkt(b"\x06\xd0\0\0\x12\x34\0")).selected == wire.STANDARD_SECURITY
    )


def test_connection_confirm_that_fails_with_no_code_still_fails():
    assert wire.parse_connection_confirm(wire.tpkt(b"\x0e\xd0\0\0\0\0\0\x03\0\x08\0\0\0\0\0")).failure


def test_data_comes_out_of_its_frame():
    assert wire.data_payload(seeds.ATTACH_USER) == b"\x28"
    assert wire.build_data_tpdu(b"\x28") == seeds.ATTACH_USER
    for frame in (seeds.CONNECTION_REQUEST, FAST):
        with pytest.raises(WireError):
            wire.data_payload(frame)


def test_message_too_long_for_a_frame_is_not_written():
    with pytest.raises(WireError):
        wire.tpkt(bytes(0x10000))
    with pytest.raises(WireError):
        wire.build_connection_request(ConnectionRequest(bytes(300)))


def test_reader_never_goes_beyond_its_end():
    reader = wire.Reader(b"\1\2\3\4\5", 1, 4)
    assert reader.u16() == 0x0302
    for step in (
        reader.u16,
        reader.u32,
        reader.i32,
        reader.u16_big,
        reader.u32_big,
        lambda: reader.take(2),
        lambda: reader.skip(-1),
    ):
        with pytest.raises(WireError):
            step()
    assert reader.left == 1
    with pytest.raises(WireError):
        reader.done()
    with pytest.raises(WireError):
        reader.expect(b"\5")
