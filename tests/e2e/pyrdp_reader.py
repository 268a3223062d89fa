"""Runs in PyRDP's own environment: what its parsers find in a replay, counted; JSON on standard output.

`python pyrdp_reader.py FILE`. It knows nothing of proxyd, and imports nothing of it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from pyrdp.enum import ParserMode, PlayerPDUType  # type: ignore[import-not-found]
from pyrdp.parser import (  # type: ignore[import-not-found]
    BasicFastPathParser,
    BitmapParser,
    ClipboardParser,
    SlowPathParser,
)
from pyrdp.pdu import (  # type: ignore[import-not-found]
    ConfirmActivePDU,
    FastPathBitmapEvent,
    FormatDataResponsePDU,
    InputPDU,
    UpdatePDU,
)
from pyrdp.player import BaseEventHandler, Replay  # type: ignore[import-not-found]

BITMAP = 1  # updateType and updateCode, MS-RDPBCGR 2.2.9.1.1.3.1 and 2.2.9.1.2.1


class Counting(BaseEventHandler):  # type: ignore[misc]
    """Counts what the player's own handler is given."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.texts: list[str] = []

    def rectangles(self, found: list) -> None:
        self.counts["rectangles"] += len(found)
        self.counts["pixels"] += sum(one.width * one.heigth for one in found)
        self.counts["bytes of bitmaps"] += sum(len(one.bitmapData) for one in found)

    def onPDUReceived(self, pdu) -> None:  # noqa: N802
        self.counts[f"message {PlayerPDUType(pdu.header).name}"] += 1
        super().onPDUReceived(pdu)

    def onFastPathInput(self, pdu) -> None:  # noqa: N802
        frame = BasicFastPathParser(ParserMode.SERVER).parse(pdu.payload)
        for event in frame.events:
            code = event.data[0] >> 5 if hasattr(event, "data") else event.rawHeaderByte >> 5
            self.counts[f"fast input {code}"] += 1
        super().onFastPathInput(pdu)

    def onFastPathFragment(self, pdu) -> None:  # noqa: N802
        frame = BasicFastPathParser(ParserMode.CLIENT).parse(pdu.payload)
        for event in frame.events:
            self.counts[f"fast output {event.header & 0xF}"] += 1
            assert event.compressionFlags is None
        super().onFastPathFragment(pdu)

    def onFastPathOutput(self, event) -> None:  # noqa: N802
        if isinstance(event, FastPathBitmapEvent):
            self.rectangles(BitmapParser().parseBitmapUpdateData(event.payload[2:]))

    def onSlowPathPDU(self, pdu) -> None:  # noqa: N802
        parsed = SlowPathParser().parse(pdu.payload)
        if isinstance(parsed, ConfirmActivePDU):
            self.counts["confirm active"] += 1
            self.counts["capability sets"] += len(parsed.parsedCapabilitySets)
        elif isinstance(parsed, UpdatePDU):
            self.counts[f"slow update {int(parsed.updateType)}"] += 1
            if parsed.updateType == BITMAP:
                self.rectangles(BitmapParser().parseBitmapUpdateData(parsed.updateData))
        elif isinstance(parsed, InputPDU):
            self.counts["slow input"] += len(parsed.events)
        super().onSlowPathPDU(pdu)

    def onClipboardData(self, pdu) -> None:  # noqa: N802
        parsed = ClipboardParser().parse(pdu.payload)
        assert isinstance(parsed, FormatDataResponsePDU)
        self.texts.append(parsed.requestedFormatData.decode("utf-16-le").rstrip("\0"))


def main() -> None:
    with Path(sys.argv[1]).open("rb") as file:
        replay = Replay(file)
        counting = Counting()
        for event, _ in iter_events(replay):
            counting.onPDUReceived(event)
    print(json.dumps({"counts": counting.counts, "texts": counting.texts, "duration_s": replay.duration}))


def iter_events(replay):
    reader = iter(replay)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return


main()
