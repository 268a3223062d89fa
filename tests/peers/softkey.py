"""A security key in software, for answers no honest browser gives: each part of what it says can be another."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2 import cbor
from fido2.cose import ES256

PRESENT, ATTESTED = 0x01, 0x40  # WebAuthn 3, 6.1


def text(data: bytes) -> str:
    """As JSON has bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class SoftKey:
    """`id` and `public` may be replaced; `count`: of its next signature."""

    id: bytes = field(default_factory=lambda: os.urandom(32))
    count: int = 1
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    public: Any = None

    def __post_init__(self) -> None:
        self.public = self.public or ES256.from_cryptography_key(self.key.public_key())

    def add(self, challenge: bytes, origin: str, place: str, **other: Any) -> str:
        """Answer `navigator.credentials.create`; `other`: what it says instead."""
        client = self._client("webauthn.create", challenge, origin, other)
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + cbor.encode(self.public)
        data = self._data(place, other.get("flags", PRESENT | ATTESTED)) + attested + other.get("behind", b"")
        statement = cbor.encode({"fmt": "none", "attStmt": {}, "authData": data})
        said = {
            "clientDataJSON": text(client),
            "attestationObject": text(other.get("attestation", statement)),
        }
        return self._answer(said, other)

    def show(self, challenge: bytes, origin: str, place: str, **other: Any) -> str:
        """Answer `navigator.credentials.get`; `other`: what it says instead."""
        client = self._client("webauthn.get", challenge, origin, other)
        data = self._data(place, other.get("flags", PRESENT)) + other.get("behind", b"")
        signed = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        said = {
            "clientDataJSON": text(client),
            "authenticatorData": text(other.get("data", data)),
            "signature": text(other.get("signature", signed)),
        }
        return self._answer(said, other)

    def _client(self, kind: str, challenge: bytes, origin: str, other: dict[str, Any]) -> bytes:
        said = {"type": kind, "challenge": text(challenge), "origin": origin, "crossOrigin": False}
        return json.dumps(said | other.get("client", {})).encode()

    def _data(self, place: str, flags: int) -> bytes:
        return hashlib.sha256(place.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")

    def _answer(self, said: dict[str, str], other: dict[str, Any]) -> str:
        named = text(other.get("id", self.id))
        return json.dumps({"id": named, "rawId": named, "type": "public-key", "response": said})
