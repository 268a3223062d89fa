import pytest

from proxyd.protocols.rdp import mcs
from proxyd.protocols.rdp.mcs import Data, DomainParameters
from proxyd.protocols.rdp.wire import WireError, build_data_tpdu
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")

SPECIFIED = {
    seeds.ERECT_DOMAIN: mcs.ErectDomainRequest(),
    seeds.ATTACH_USER: mcs.AttachUserRequest(),
    seeds.ATTACHED: mcs.AttachUserConfirm(0, 1007),
    seeds.JOIN: mcs.ChannelJoinRequest(1007, 1007),
    seeds.JOINED: mcs.ChannelJoinConfirm(0, 1007, 1007, 1007),
    build_data_tpdu(b"\x21\x80"): mcs.Disconnect(mcs.Reason.USER_REQUESTED),
}


@pytest.mark.parametrize(("frame", "message"), SPECIFIED.items())
def test_messages_of_the_specification(frame, message):
    assert mcs.parse_message(frame) == message
    assert type(mcs.parse_message(frame)) is type(message)
    assert mcs.build_message(message) == frame


@pytest.mark.parametrize("reason", list(mcs.Reason))
def test_every_reason_to_disconnect(reason):
    assert mcs.parse_message(mcs.build_message(mcs.Disconnect(reason))) == mcs.Disconnect(reason)


def test_connect_initial_of_the_specification():
    initial = mcs.parse_connect_initial(seeds.CONNECT_INITIAL)
    assert initial.target == DomainParameters(34, 2, 0, 1, 0, 1, 65535, 2)
    assert initial.minimum == DomainParameters(1, 1, 1, 1, 0, 1, 1056, 2)
    assert initial.maximum == DomainParameters(65535, 64535, 65535, 1, 0, 1, 65535, 2)
    assert initial.user_data == seeds.CREATE_REQUEST
    assert mcs.parse_connect_initial(mcs.build_connect_initial(initial)) == initial


def test_connect_response_of_the_specification():
    response = mcs.parse_connect_response(seeds.CONNECT_RESPONSE)
    assert (response.result, response.parameters) == (0, mcs.OUR_PARAMETERS)
    assert response.user_data == seeds.CREATE_RESPONSE
    assert mcs.build_connect_response(response) == seeds.CONNECT_RESPONSE


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 16383, 16384, 32767])
@pytest.mark.parametrize("to_server", [True, False])
def test_data_both_ways(size, to_server):
    data = Data(1007, 1003, b"\xab" * size)
    frame = mcs.build_data(data, to_server=to_server)
    assert frame[7] == (0x64 if to_server else 0x68)
    assert mcs.data_frame(frame) == mcs.parse_message(frame) == data
    moved = mcs.redirect(frame, 1100, 1004)
    assert mcs.data_frame(moved) == Data(1100, 1004, data.payload)
    assert len(moved) == len(frame)


def test_data_of_the_specification():
    frame = build_data_tpdu(bytes.fromhex("68000103eb7014") + seeds.LICENSE_VALID)
    assert mcs.data_frame(frame) == Data(mcs.SERVER_USER, mcs.GLOBAL_CHANNEL, seeds.LICENSE_VALID)
    assert mcs.build_data(Data(1002, 1003, seeds.LICENSE_VALID), to_server=False) == frame


def test_other_messages_are_no_data():
    assert mcs.data_frame(seeds.JOIN) is None


def test_data_too_long_is_not_written():
    with pytest.raises(WireError):
        mcs.build_data(Data(1007, 1003, bytes(0x8000)), to_server=True)


BAD_DATA = {
    "a part": "6400060 3eb40 01 aa",
    "trailing": "64000603eb7001aabb",
    "short": "64000603eb7002aa",
    "no length": "64000603eb70",
    "half a length": "64000603eb7081",
    "unknown choice": "a0",
    "joined nothing": "38",
    "join with more": "38000603ef00",
    "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_DATA.values(), ids=BAD_DATA)
def test_what_is_no_message(text):
    frame = build_data_tpdu(bytes.fromhex(text.replace(" ", "")))
    with pytest.raises(WireError):
        mcs.parse_message(frame)


@pytest.mark.parametrize("frame", [seeds.CONNECT_INITIAL, seeds.CONNECT_RESPONSE])
def test_connect_messages_cut_anywhere_are_refused(frame):
    parse = mcs.parse_connect_initial if frame is seeds.CONNECT_INITIAL else mcs.parse_connect_response
    for end in range(5, len(frame)):
        with pytest.raises(WireError):
            parse(frame[:end])
    with pytest.raises(WireError):
        parse(frame + b"\0")


def test_refused_attach_has_no_user():
    assert mcs.parse_message(build_data_tpdu(b"\x2c\x0e")) == mcs.AttachUserConfirm(0x0E, 0)


def test_erect_domain_of_a_client_that_writes_it_wrong():
    assert mcs.parse_message(build_data_tpdu(bytes.fromhex("0400010001"))) == mcs.ErectDomainRequest()
