"""Bulk decompression of what a target sends, MS-RDPBCGR 3.1.8.4.2 (MPPC with a history of 8 or 64 KiB).

Rule 1: every compressed PDU goes through in the order of the wire, for each builds on the history of those before.
Rule 2: after a fault the history is worth nothing: what comes is refused until the target begins a new one.
Rule 3: what comes out is at most 64 KiB long, whatever the flags and the data.

The decoder is aardwolf 0.2.16, `aardwolf._bulk` (Rust): `NativeBulkDecompressor(max_compression_type, max_output_size)`
has `decompress(data, flags, expected_size=None) -> bytes`; `flags` is the byte of the wire as it is (type in the low four
bits, 0x20 compressed, 0x40 at front, 0x80 flushed); for types 0 and 1 it gives less than 8 and 64 KiB. It raises
`BulkCompressionError(ValueError)` for a stream that ends too early, bits left over, offsets outside of the history, a type
above the greatest allowed or another than its first, reserved flags, and 0x40 without 0x20; then its state is unchanged.
"""

from __future__ import annotations

from typing import Final

from aardwolf._bulk import BulkCompressionError, NativeBulkDecompressor

from proxyd.protocols.rdp.share import Compression
from proxyd.protocols.rdp.wire import WireError

_COMPRESSION_64K: Final = 1  # PACKET_COMPR_TYPE_64K: the most the `bitmap` policy lets a client offer


class Inflater:
    """The history of one session's compressed output."""

    __slots__ = ("_lost", "_mppc")

    def __init__(self) -> None:
        self._mppc = NativeBulkDecompressor(_COMPRESSION_64K)
        self._lost = False

    def inflate(self, data: bytes, flags: int) -> bytes:
        """Give what the PDU holds, decompressed if it is; raises WireError."""
        if flags & Compression.FLUSHED:
            # A new history may be of another type, which the decoder would refuse.
            self._mppc = NativeBulkDecompressor(_COMPRESSION_64K)
            self._lost = False
        if not flags & Compression.COMPRESSED:
            return data
        if self._lost:
            raise WireError("compressed output builds on what could not be read")
        try:
            return bytes(self._mppc.decompress(data, flags))
        except BulkCompressionError:
            self._lost = True
            raise WireError("compressed output can't be read") from None
