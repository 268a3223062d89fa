"""MD4 gives the digests of RFC 1320, A.5, and of messages that end near a block's end."""

from __future__ import annotations

import pytest

from proxyd.md4 import md4


@pytest.mark.parametrize(
    ("message", "digest"),
    [
        ("", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        ("a", "bde52cb31de33e46245e05fbdbd6fb24"),
        ("abc", "a448017aaf21d8525fc10ae87aa6729d"),
        ("message digest", "d9130a8164549fe818874806e1c7014b"),
        ("abcdefghijklmnopqrstuvwxyz", "d79e1c308aa5bbcdeea8ed63df412da9"),
        (
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "043f8582f241db351ce627e153e7f0e4",
        ),
        ("1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536"),
    ],
)
def test_digests_of_the_rfc(message: str, digest: str) -> None:
    assert md4(message.encode()).hex() == digest


def test_every_length_around_a_block_is_padded_as_another_implementation_pads_it() -> None:
    theirs = pytest.importorskip("spnego._ntlm_raw.md4").md4
    for size in range(130):
        assert md4(bytes(range(size))) == theirs(bytes(range(size)))
