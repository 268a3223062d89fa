"""Which ciphers a link may use, which are weak, and AES-GCM with its AEAD object kept from packet to packet."""

from __future__ import annotations

import re

from asyncssh.encryption import Encryption, GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

WEAK = re.compile(rb"cbc|arcfour|md5|-96|sha1\b|3des|ssh-dss|ssh-rsa\b(?!-)|rsa1024|umac-64|^none$")
"""Algorithms no link should use now, by what is in their names (RFC 9142; NIST SP 800-131A)."""

# What the link to the target offers, best first; chacha20 last, for it costs twice AES-GCM here.
TARGET_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
    "chacha20-poly1305@openssh.com",
)
# Its MACs, for ciphers that need one: encrypt-then-MAC and long tags first, the weak ones for old devices last.
TARGET_MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    "hmac-sha1-etm@openssh.com",
    "hmac-sha1",
)


class CachedGCM(Encryption):
    """AES-GCM as RFC 5647 uses it in SSH; the AEAD object is made once a key, not once a packet."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self.decrypt_into = self._aead.decrypt_into
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:], "big")

    def seal(self, head: bytes, packet: bytes) -> bytes:
        """Give one packet as it goes on the wire: clear length, ciphertext, tag."""
        return head + self._aead.encrypt(self.next_iv(), packet, head)

    def next_iv(self) -> bytes:
        """Give the nonce of the next packet and advance the invocation counter (RFC 5647, 7.1)."""
        counter = self._counter
        self._counter = (counter + 1) & 0xFFFFFFFFFFFFFFFF
        return self._fixed + counter.to_bytes(8, "big")

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:  # noqa: ARG002 - asyncssh's signature
        """Encrypt one packet; the tag is part of the first item."""
        return self.seal(header, packet), b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:  # noqa: ARG002 - asyncssh's signature
        """Give the clear length; GCM leaves it unencrypted."""
        return first_block, first_block[:header_len]

    def decrypt_packet(  # asyncssh's signature
        self,
        seq: int,  # noqa: ARG002
        first: bytes,
        rest: bytes,
        header_len: int,
        mac: bytes,
    ) -> bytes | None:
        """Decrypt one packet; None when the tag does not match."""
        try:
            return self._aead.decrypt(self.next_iv(), first[header_len:] + rest + mac, first[:header_len])
        except InvalidTag:
            return None


def cached(encryption: Encryption | None) -> Encryption | None:
    """Give the same cipher in the same state, with its AEAD object cached where it is AES-GCM."""
    if type(encryption) is GCMEncryption:
        cipher = encryption._cipher
        return CachedGCM(cipher._key, cipher._iv)
    return encryption
