"""What the list of sessions says of a recording is bounded, whatever a session does."""

from __future__ import annotations

from proxyd.recorder.record import Kind
from proxyd.recorder.summary import MAX_CHANNELS, MAX_FINDINGS, Finding, Summary


def test_findings_and_channels_are_counted() -> None:
    summary = Summary()
    summary.take(Kind.FINDING, 7, {"code": "x", "severity": "low", "text": "y"})
    for event, kind in (("open", "session"), ("close", "session"), ("open", "session"), ("refused", "x11")):
        summary.take(Kind.CHANNEL, 9, {"event": event, "type": kind})
    assert (summary.count, summary.findings) == (1, [Finding(7, "x", "low", "y")])
    assert summary.channels == {"session": 2}


def test_what_is_beyond_the_bounds_is_counted_at_most() -> None:
    summary = Summary()
    for n in range(MAX_FINDINGS + 5):
        summary.take(Kind.FINDING, n, {})
    for n in range(MAX_CHANNELS + 5):
        summary.take(Kind.CHANNEL, n, {"event": "open", "type": f"t{n}"})
    summary.take(Kind.CHANNEL, 1, {"event": "open", "type": "t0"})
    summary.take(Kind.FINDING, 1, b"of another shape")
    assert (summary.count, len(summary.findings)) == (MAX_FINDINGS + 6, MAX_FINDINGS)
    assert (len(summary.channels), summary.channels["t0"]) == (MAX_CHANNELS, 2)
