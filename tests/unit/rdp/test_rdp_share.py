import pytest

from proxyd.protocols.rdp import share
from proxyd.protocols.rdp.share import (
    Action,
    Compression,
    Control,
    ControlAction,
    ControlKind,
    DataKind,
    Rectangle,
    ShareData,
)
from proxyd.protocols.rdp.wire import WireError
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")

SHARE = 0x000103EA
COOKIE = b"\x1c\0\0\0\1\0\0\0" + b"sess" + b"v" * 16


def only(payload):
    (control,) = share.split(payload)
    return share.share_data(control)


SPECIFIED = {
    seeds.SYNCHRONIZE: ShareData(SHARE, 1007, DataKind.SYNCHRONIZE, share.synchronize(1002)),
    seeds.COOPERATE: ShareData(
        SHARE, 1007, DataKind.CONTROL, share.control_action(ControlAction(Action.COOPERATE))
    ),
    seeds.GRANTED: ShareData(
        SHARE,
        1002,
        DataKind.CONTROL,
        share.control_action(ControlAction(Action.GRANTED_CONTROL, 1007, 1002)),
        0,
        2,
    ),
    seeds.FONT_LIST: ShareData(SHARE, 1007, DataKind.FONT_LIST, share.FONT_LIST),
    seeds.FONT_MAP: ShareData(SHARE, 1002, DataKind.FONT_MAP, share.FONT_MAP, 0, 2),
}


@pytest.mark.parametrize(("payload", "data"), SPECIFIED.items())
def test_messages_of_the_specification(payload, data):
    assert only(payload) == data
    assert share.build_share_data(data) == payload


def test_control_actions_are_read():
    found = share.parse_control_action(only(seeds.GRANTED).body)
    assert found == ControlAction(Action.GRANTED_CONTROL, 1007, 1002)


def test_several_in_one_frame_come_in_order():
    flow = b"\0\x80\0\x41\0\0\xea\x03"
    short = b"\x04\0\x16\0"
    found = share.split(seeds.SYNCHRONIZE + flow + seeds.FONT_MAP + short)
    assert [control.kind for control in found] == [
        ControlKind.DATA,
        ControlKind.FLOW,
        ControlKind.DATA,
        ControlKind.DEACTIVATE_ALL,
    ]
    assert found[3] == Control(ControlKind.DEACTIVATE_ALL, 0, b"")
    assert (
        share.build_control(found[0]) + flow + share.build_control(found[2])
        == seeds.SYNCHRONIZE + flow + seeds.FONT_MAP
    )


def test_less_than_a_header_behind_them_is_padding():
    assert len(share.split(seeds.SYNCHRONIZE + b"\0\0\0")) == 1
    assert share.split(b"") == []


@pytest.mark.parametrize(
    "payload",
    [
        seeds.SYNCHRONIZE[:-1],
        b"\3\0\x17\0",
        b"\0\0\x17\0",
        seeds.SYNCHRONIZE + b"\x06\0\x17\0",
        b"\0\x80\0\x41\0\0\0",
    ],
)
def test_wrong_lengths_are_refused(payload):
    with pytest.raises(WireError):
        share.split(payload)


def test_short_data_is_refused():
    for wrong in (
        Control(ControlKind.DATA, 1002, bytes(11)),
        Control(ControlKind.CONFIRM_ACTIVE, 1002, bytes(40)),
    ):
        with pytest.raises(WireError):
            share.share_data(wrong)


def test_compression_is_told():
    payload = seeds.FONT_MAP[:15] + b"\x21" + seeds.FONT_MAP[16:]
    data = only(payload)
    assert data.compressed
    assert data.compression & Compression.TYPE == 1
    assert not only(seeds.FONT_MAP).compressed


@pytest.mark.parametrize("kind", list(DataKind))
def test_a_picture_alone_is_told_by_its_bytes(kind):
    payload = share.build_share_data(ShareData(SHARE, 1002, kind, b"some"))
    assert share.paints(payload) is (kind in {DataKind.UPDATE, DataKind.POINTER})
    assert not share.paints(payload * 2)
    assert not share.paints(payload + bytes(4))
    assert not any(share.paints(payload[:size]) for size in range(len(payload)))
    other = share.build_control(Control(ControlKind.CONFIRM_ACTIVE, 1002, share.split(payload)[0].body))
    assert not share.paints(other)


def test_deactivate_all():
    (control,) = share.split(share.deactivate_all(SHARE, 1002))
    assert (control.kind, control.source, control.body) == (
        ControlKind.DEACTIVATE_ALL,
        1002,
        b"\xea\x03\x01\0\1\0\0",
    )


def test_error_info():
    assert share.parse_error_info(share.error_info(share.ErrorInfo.SERVER_DENIED_CONNECTION)) == 7
    payload = share.build_share_data(ShareData(SHARE, 1002, DataKind.SET_ERROR_INFO, share.error_info(1)))
    assert payload.hex() == "16001700ea03ea030100000108002f00000001000000"


def test_refresh_rect():
    areas = [Rectangle(0, 0, 1279, 799), Rectangle(1, 2, 3, 4)]
    body = share.refresh_rect(areas)
    assert body[:4] == b"\2\0\0\0"
    assert share.parse_refresh_rect(body) == areas
    with pytest.raises(WireError):
        share.parse_refresh_rect(body[:-1])
    with pytest.raises(WireError):
        share.refresh_rect(areas * 128)


def test_suppress_output():
    area = Rectangle(0, 0, 1023, 767)
    assert share.parse_suppress_output(share.suppress_output(area)) == area
    assert share.parse_suppress_output(share.suppress_output(None)) is None
    assert share.suppress_output(None) == bytes(4)
    with pytest.raises(WireError):
        share.parse_suppress_output(b"\1\0\0\0")


def logon_extended(fields, data):
    return (
        b"\3\0\0\0" + (6 + len(data)).to_bytes(2, "little") + fields.to_bytes(4, "little") + data + bytes(570)
    )


def test_reconnect_cookie_is_taken_out_of_session_information():
    cookie = len(COOKIE).to_bytes(4, "little") + COOKIE
    errors = b"\x08\0\0\0" + bytes(8)
    assert share.without_reconnect_cookie(logon_extended(1, cookie)) is None
    assert share.without_reconnect_cookie(logon_extended(3, cookie + errors)) == logon_extended(2, errors)
    assert share.without_reconnect_cookie(logon_extended(2, errors)) == logon_extended(2, errors)
    plain = b"\2\0\0\0" + bytes(576)
    assert share.without_reconnect_cookie(plain) is plain
    for wrong in (
        b"",
        b"\3\0\0\0\0\0",
        logon_extended(3, b"\xff\xff\xff\xff"),
        b"\3\0\0\0\0\0\3\0\0\0\2\0\0\0ab",
    ):
        with pytest.raises(WireError):
            share.without_reconnect_cookie(wrong)


def test_redirection_is_recognised():
    body = bytes(2) + b"\0\4\x40\0\5\0\0\0\x0d\0\0\0" + bytes(20)
    (control,) = share.split(share.build_control(Control(ControlKind.SERVER_REDIRECTION, 1002, body)))
    assert share.parse_redirection(control) == share.Redirection(5, 0x0D)
    with pytest.raises(WireError):
        share.parse_redirection(control._replace(body=body[:13]))
    with pytest.raises(WireError):
        share.parse_redirection(control._replace(kind=ControlKind.DATA))


def test_too_long_is_not_written():
    for size in (0x7FFF, 0x20000):
        with pytest.raises(WireError):
            share.build_share_data(ShareData(SHARE, 1002, DataKind.UPDATE, bytes(size)))
