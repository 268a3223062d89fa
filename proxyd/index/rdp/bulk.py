"""Bulk decompression of what a target sends, MS-RDPBCGR 3.1.8.4.2 (MPPC with a history of 8 or 64 KiB).

Rule 1: every compressed PDU goes through in the order of the wire, for each builds on the history of those before.
Rule 2: after a fault the history is worth nothing: what comes is refused until the target begins a new one.
Rule 3: what comes out is at most 64 KiB long, whatever the flags and the data.
Rule 4: a history can be taken along, and what follows inflated with it elsewhere, as if all before had been read there.

The decoder is aardwolf 0.2.16, `aardwolf._bulk` (Rust): `NativeBulkDecompressor(max_compression_type, max_output_size)`
has `decompress(data, flags, expected_size=None) -> bytes`; `flags` is the byte of the wire as it is (type in the low four
bits, 0x20 compressed, 0x40 at front, 0x80 flushed); for types 0 and 1 it gives less than 8 and 64 KiB. It raises
`BulkCompressionError(ValueError)` for a stream that ends too early, bits left over, offsets outside of the history, a type
above the greatest allowed or another than its first, reserved flags, and 0x40 without 0x20; then its state is unchanged.
"""

from __future__ import annotations

from typing import Any, Final

from aardwolf._bulk import BulkCompressionError, NativeBulkDecompressor

from proxyd.protocols.rdp.share import Compression
from proxyd.protocols.rdp.wire import WireError

_COMPRESSION_64K: Final = 1  # PACKET_COMPR_TYPE_64K: the most the `bitmap` policy lets a client offer
_TYPE: Final = 0x0F  # of the flags, MS-RDPBCGR 2.2.8.1.1.1.2
_HISTORY: Final = 1 << 16
_PIECE: Final = 1 << 12  # of a history put back: less than the decoder gives at once for either type
_LITERALS: Final = [f"{byte:08b}" if byte < 0x80 else f"10{byte & 0x7F:07b}" for byte in range(256)]
_FLUSHED: Final = int(Compression.FLUSHED)  # as numbers: every PDU is asked about them, and names cost
_COMPRESSED: Final = int(Compression.COMPRESSED)


class Inflater:
    """The history of one session's compressed output."""

    __slots__ = ("_history", "_lost", "_mppc", "_reached")

    def __init__(self) -> None:
        self._mppc = NativeBulkDecompressor(_COMPRESSION_64K)
        self._history = bytearray(_HISTORY)  # the decoder's own, which it does not show
        self._reached = 0  # how far it was ever written
        self._lost = False

    def inflate(self, data: bytes, flags: int) -> bytes:
        """Give what the PDU holds, decompressed if it is; raises WireError."""
        if flags & _FLUSHED:
            # A new history may be of another type, which the decoder would refuse.
            self._mppc = NativeBulkDecompressor(_COMPRESSION_64K)
            self._reached = 0
            self._lost = False
        if not flags & _COMPRESSED:
            return data
        if self._lost:
            raise WireError("compressed output builds on what could not be read")
        try:
            whole = bytes(self._mppc.decompress(data, flags))
        except BulkCompressionError:
            self._lost = True
            raise WireError("compressed output can't be read") from None
        end = self._mppc.history_offset
        self._history[end - len(whole) : end] = whole
        self._reached = max(self._reached, end)
        return whole

    def saved(self) -> dict[str, Any] | None:
        """Give what `resumed` needs; None when there is nothing to go on with."""
        if self._lost or (self._reached and not self._mppc.history_offset):
            return None
        return {
            "type": self._mppc.selected_type or 0,
            "at": self._mppc.history_offset if self._reached else 0,
            "history": bytes(self._history[: self._reached]),
        }

    @classmethod
    def resumed(cls, saved: dict[str, Any]) -> Inflater:
        """Make one that goes on where another stood (rule 4); raises WireError."""
        inflater = cls()
        kind, history = int(saved["type"]) & _TYPE, bytes(saved["history"])
        if not history:
            return inflater
        flags = kind | Compression.COMPRESSED | Compression.FLUSHED | Compression.AT_FRONT
        for part in (history, history[: saved["at"]] if saved["at"] < len(history) else b""):
            for start in range(0, len(part), _PIECE):
                inflater.inflate(_literally(part[start : start + _PIECE]), flags)
                flags = kind | Compression.COMPRESSED
            flags = kind | Compression.COMPRESSED | Compression.AT_FRONT
        return inflater


def _literally(data: bytes) -> bytes:
    """Write MPPC without any match, MS-RDPBCGR 3.1.8.4.2.2.1: literals of eight or nine bits."""
    bits = "".join(map(_LITERALS.__getitem__, data))
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
