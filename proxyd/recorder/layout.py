"""What a recording's bytes are: format PXR1. Nothing here writes or reads a file.

Byte by byte, little-endian, H_n is 32 bytes of SHA-256, [16] its first half as kept in the file::

    segment := header frame* [trailer]
    header  := "PXR1" | u16 version=1 | u32 length | map | H_0[16]      H_0 = SHA-256(prev_chain | all before H_0[16])
       map  =  msgpack {session: str, number: u32, prev_chain: bytes32 (zeros in segment 0), wall_ns: wall clock
               when the segment began, start_ms: session time then, first_seq: seq of its first record,
               codec: "zstd", aead: "AES-256-GCM", signer: key id[8], keys: [[recipient, age file], ...]}
    frame   := head(24) | payload | H_n[16]                       H_n = SHA-256(H_(n-1) | head | payload), n from 1
       head =  u32 payload length | u8 type | u8 flags | u16 records | u32 t0_ms | u32 t1_ms | u64 frame number (from 0)
               t0_ms, t1_ms: of the first and last record inside, since start_ms
       flags:  1 payload encrypted, 2 begins a new zstd frame (reading can start here), 4 sealed by recovery
    payload by type:
       1 EVENTS      AES-256-GCM(DEK, nonce = u32 segment number | u64 frame number, AAD = head | H_(n-1) whole)
                     of one flushed block of a running zstd stream, of packed records [delta_us, kind, channel, body];
                     a frame's first delta counts from its own t0_ms; seq counts on from first_seq, one per record
       3 INDEX       msgpack [[offset, frame number, t0_ms (session time), seq of its first record, H before it], ...],
                     one entry per frame flagged 2: clear, rebuildable by scanning
       4 SEAL        u64 offset of INDEX | key id[8] | Ed25519[64]: the last frame
       5 CHECKPOINT  key id[8] | Ed25519[64]
       signed message = "proxyd PXR1", NUL | head | H before the frame, whole | (SEAL: u64 offset of INDEX)
                        | u32 segment number | session id in UTF-8
    trailer := "PXRE" | u64 offset of INDEX
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Any, NamedTuple

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxyd.errors import FormatError
from proxyd.recorder.keys import WrappedKey, signed_by

MAGIC = b"PXR1"
TRAILER_MAGIC = b"PXRE"
VERSION = 1
NO_CHAIN = bytes(32)  # prev_chain of a session's first segment
CHAIN_KEPT = 16  # bytes of H_n in the file: 128 bits against accident; checkpoints and AAD bind all 32
TAG = 16  # AES-GCM
MAX_HEADER = 1 << 20  # a header holds one age file (~300 B) per recipient; more than this is no header
MAX_PAYLOAD = 16 << 20  # a block is at most 1 MiB of small records, or one record; more is a damaged length
MAX_COUNT = 0xFFFF  # u16 in the frame head
MAX_NUMBER = 0xFFFF_FFFF  # of a segment: u32 in nonces and in what is signed
GOP_MS = 30_000  # a seek decodes at most this much before its goal
GOP_RAW_BYTES = 4 << 20  # ... nor more than this
SIGNED = b"proxyd PXR1\0"

PREFIX = struct.Struct("<4sHI")
HEAD = struct.Struct("<IBBHIIQ")
TRAILER = struct.Struct("<4sQ")
NONCE = struct.Struct("<IQ")
SEAL = struct.Struct("<Q8s64s")
CHECKPOINT = struct.Struct("<8s64s")
HEAD_BYTES = HEAD.size

ENCRYPTED, FRESH, RECOVERED = 1, 2, 4  # frame flags

Buffer = bytes | bytearray | memoryview | mmap.mmap
Item = tuple[
    int, int, int, Any
]  # at_us, kind, channel, body: a record as the tape holds it before it is packed


class FrameType(IntEnum):
    """What a frame holds."""

    EVENTS = 1
    INDEX = 3
    SEAL = 4
    CHECKPOINT = 5


class FrameHead(NamedTuple):
    """The clear 24 bytes before a payload; times count from the segment's start_ms."""

    length: int
    type: int
    flags: int
    records: int
    t0_ms: int
    t1_ms: int
    number: int

    @property
    def whole(self) -> int:
        """Give the bytes of the frame from its head to its chain."""
        return HEAD_BYTES + self.length + CHAIN_KEPT


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """A frame that was believed: where it is, and what its head says; times are session times."""

    offset: int
    type: FrameType
    flags: int
    count: int  # of records
    t0_ms: int
    t1_ms: int
    number: int
    length: int  # of the payload
    chain_before: bytes  # H of everything before this frame, 32 bytes
    first_seq: int  # seq of its first record (EVENTS), or of the next record to come

    @property
    def fresh(self) -> bool:
        """Say whether decoding can start here."""
        return self.type is FrameType.EVENTS and bool(self.flags & FRESH)

    @property
    def end(self) -> int:
        """Give the offset just after the frame."""
        return self.offset + HEAD_BYTES + self.length + CHAIN_KEPT


class Mark(NamedTuple):
    """A place where decoding can start: what INDEX holds one of per fresh frame."""

    offset: int
    number: int
    t0_ms: int
    first_seq: int
    chain_before: bytes


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself in clear; see the module's layout."""

    session: str
    number: int
    prev_chain: bytes
    wall_ns: int
    start_ms: int
    first_seq: int
    signer: bytes
    keys: tuple[WrappedKey, ...]

    def encode(self) -> bytes:
        """Give the header's bytes without its chain."""
        packed: bytes = msgpack.packb(
            {
                "session": self.session,
                "number": self.number,
                "prev_chain": self.prev_chain,
                "wall_ns": self.wall_ns,
                "start_ms": self.start_ms,
                "first_seq": self.first_seq,
                "codec": "zstd",
                "aead": "AES-256-GCM",
                "signer": self.signer,
                "keys": [list(key) for key in self.keys],
            }
        )
        return PREFIX.pack(MAGIC, VERSION, len(packed)) + packed

    def identity(self) -> bytes:
        """Give the part of every signed message that ties it to this segment."""
        return struct.pack("<I", self.number) + self.session.encode()


class Signature(NamedTuple):
    """A CHECKPOINT's or SEAL's signature, still to be checked by whoever knows the node's public keys."""

    frame: FrameInfo
    key_id: bytes
    signature: bytes
    message: bytes

    def verify(self, public: Ed25519PublicKey) -> bool:
        """Say whether `public` signed this."""
        return signed_by(public, self.signature, self.message)


def link(chain: bytes, head: bytes | memoryview, payload: bytes | memoryview) -> bytes:
    """Give H_n."""
    state = sha256(chain)
    state.update(head)
    state.update(payload)
    return state.digest()


def signed_message(header: SegmentHeader, head: bytes, chain_before: bytes, extra: bytes = b"") -> bytes:
    """Give what CHECKPOINT and SEAL sign."""
    return SIGNED + head + chain_before + extra + header.identity()


def read_header(data: Buffer) -> tuple[SegmentHeader, bytes, int]:
    """Read a segment's header; give it, H_0 and the offset of the first frame; raises FormatError."""
    view = memoryview(data)
    if len(view) < PREFIX.size:
        raise FormatError("a segment is too short for its header")
    magic, version, length = PREFIX.unpack_from(view)
    if magic != MAGIC or version != VERSION or length > MAX_HEADER:
        raise FormatError("a segment does not begin like one")
    end = PREFIX.size + length
    if len(view) < end + CHAIN_KEPT:
        raise FormatError("a segment is too short for its header")
    header = _decode_header(view[PREFIX.size : end])
    chain = link(header.prev_chain, view[:end], b"")
    if view[end : end + CHAIN_KEPT] != chain[:CHAIN_KEPT]:
        raise FormatError("a segment's header was altered")
    return header, chain, end + CHAIN_KEPT


def _decode_header(packed: memoryview) -> SegmentHeader:
    try:
        fields = msgpack.unpackb(packed)
        header = SegmentHeader(
            session=fields["session"],
            number=fields["number"],
            prev_chain=fields["prev_chain"],
            wall_ns=fields["wall_ns"],
            start_ms=fields["start_ms"],
            first_seq=fields["first_seq"],
            signer=fields["signer"],
            keys=tuple(WrappedKey(recipient, blob) for recipient, blob in fields["keys"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError("a segment's header can't be read") from error
    texts = isinstance(header.session, str) and all(isinstance(key.recipient, str) for key in header.keys)
    blobs = (header.prev_chain, header.signer, *(key.blob for key in header.keys))
    counts = (header.number, header.wall_ns, header.start_ms, header.first_seq)
    if not texts or not all(isinstance(b, bytes) for b in blobs) or not all(type(n) is int for n in counts):
        raise FormatError("a segment's header can't be read")
    if not 0 <= header.number <= MAX_NUMBER:
        raise FormatError("a segment's number is impossible")
    return header
