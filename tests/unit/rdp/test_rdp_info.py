from dataclasses import replace

import pytest

from proxyd.protocols.rdp import info
from proxyd.protocols.rdp.info import InfoFlag, License, LicenseError, Security
from proxyd.protocols.rdp.wire import WireError
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")

COOKIE = b"\x1c\0\0\0\1\0\0\0" + b"sess" + b"v" * 16


def with_cookie(extra, cookie=COOKIE):
    return extra + len(cookie).to_bytes(2, "little") + cookie + b"\0\0\0\0" + b"\2\0Z\0" + b"\0\0"


def test_client_information_of_the_specification():
    found = info.parse_client_info(seeds.CLIENT_INFO)
    assert (found.domain, found.user, found.password, found.shell, found.directory) == (
        "NTDEV",
        "eltons",
        "",
        "",
        "",
    )
    assert found.code_page == 0x04090409
    assert found.flags & InfoFlag.UNICODE
    assert found.compression == info.PACKET_COMPR_TYPE_64K
    assert len(found.extra) == 2 + 2 + 30 + 2 + 132 + 172 + 8
    assert info.build_client_info(found) == seeds.CLIENT_INFO


def test_client_information_in_ansi_becomes_unicode_for_the_target():
    found = info.parse_client_info(seeds.CLIENT_INFO_ANSI)
    assert (found.domain, found.user) == ("NTDEV", "eltons")
    sent = info.parse_client_info(info.build_client_info(info.log_on_as(found, "", "root", "Geheim-1")))
    wanted = info.log_on_as(info.parse_client_info(seeds.CLIENT_INFO), "", "root", "Geheim-1")
    assert sent == wanted


def test_target_gets_its_own_account():
    found = info.parse_client_info(seeds.CLIENT_INFO)
    given = replace(
        found, flags=found.flags | InfoFlag.PASSWORD_IS_SC_PIN | InfoFlag.USING_SAVED_CREDS | 0x80000000
    )
    sent = info.log_on_as(given, "CORP", "ádmin", "pässwörd €")
    read = info.parse_client_info(info.build_client_info(sent))
    assert (read.domain, read.user, read.password) == ("CORP", "ádmin", "pässwörd €")
    assert read.flags == found.flags | InfoFlag.AUTOLOGON | 0x80000000


def test_reconnect_cookie_does_not_reach_the_target():
    found = info.parse_client_info(seeds.CLIENT_INFO)
    sent = info.log_on_as(replace(found, extra=with_cookie(found.extra)), "", "u", "p")
    assert sent.extra == with_cookie(found.extra, b"")
    assert info.without_reconnect_cookie(b"") == b""
    assert info.without_reconnect_cookie(found.extra) == found.extra
    with pytest.raises(WireError):
        info.without_reconnect_cookie(found.extra + b"\x1c\0")


@pytest.mark.parametrize(("offered", "sent"), [(0, 0), (1, 1), (2, 1), (3, 1), (15, 1)])
def test_compression_is_capped(offered, sent):
    found = info.parse_client_info(seeds.CLIENT_INFO)
    flags = InfoFlag(found.flags & ~0x1E00 | offered << 9)
    capped = info.cap_compression(replace(found, flags=flags))
    assert capped.compression == sent
    assert capped.flags & ~0x1E00 == flags & ~0x1E00


def test_client_without_compression_stays_without():
    found = info.parse_client_info(seeds.CLIENT_INFO)
    plain = replace(found, flags=InfoFlag(found.flags & ~0x80))
    assert plain.compression is None
    assert info.cap_compression(plain) is plain


def test_password_is_in_no_repr():
    found = info.log_on_as(info.parse_client_info(seeds.CLIENT_INFO), "", "root", "Geheim-1")
    assert found.password == "Geheim-1"
    assert "Geheim" not in repr(found)
    assert "Geheim" not in str(found)


def test_field_ends_at_its_nul():
    found = info.parse_client_info(seeds.CLIENT_INFO)
    sent = info.build_client_info(replace(found, user="alice\0%root"))
    assert info.parse_client_info(sent).user == "alice"


@pytest.mark.parametrize("whole", [seeds.CLIENT_INFO, seeds.CLIENT_INFO_ANSI])
def test_information_cut_in_its_fields_is_refused(whole):
    fixed = 4 + 18 + (28 + 4 if whole is seeds.CLIENT_INFO else 16)
    for end in range(fixed):
        with pytest.raises(WireError):
            info.parse_client_info(whole[:end])


def test_other_packets_are_no_client_information():
    with pytest.raises(WireError):
        info.parse_client_info(seeds.LICENSE_VALID)
    with pytest.raises(WireError):
        info.parse_license(seeds.CLIENT_INFO)


def test_too_long_a_field_is_not_written():
    found = info.parse_client_info(seeds.CLIENT_INFO)
    with pytest.raises(WireError):
        info.build_client_info(replace(found, user="u" * 0x8000))


def test_licensing():
    assert (
        info.build_license_error(LicenseError.STATUS_VALID_CLIENT).hex()
        == "80000000ff031000070000000200000004000000"
    )
    assert (
        info.build_license_error(LicenseError.ERR_NO_LICENSE).hex()
        == "80000000ff031000020000000200000004000000"
    )
    granted = info.parse_license(seeds.LICENSE_VALID)
    assert (granted.kind, granted.error, granted.granted) == (
        License.ERROR_ALERT,
        LicenseError.STATUS_VALID_CLIENT,
        True,
    )
    refused = info.parse_license(info.build_license_error(LicenseError.ERR_NO_LICENSE))
    assert not refused.granted
    request = info.parse_license(bytes.fromhex("80000000 01031000") + bytes(12))
    assert (request.kind, request.granted) == (License.REQUEST, False)
    assert info.parse_license(bytes.fromhex("80000000 03030400")).granted


def test_security_flags():
    assert info.security(seeds.LICENSE_VALID) == Security.LICENSE_PKT
    assert info.security(seeds.CLIENT_INFO) == Security.INFO_PKT
    with pytest.raises(WireError):
        info.security(b"\x40\0\0")
