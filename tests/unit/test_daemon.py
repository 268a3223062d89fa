"""What the daemon tells its log about the life before this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxyd.daemon import tell_recovered
from proxyd.recorder.recover import Recovered


@pytest.mark.mission("M5")
def test_every_recording_that_needs_a_look_is_in_the_log() -> None:
    whole = Recovered("s1", Path("/recordings/s1"), records=3, torn=17)
    altered = Recovered("s2", Path("/recordings/s2"), problem="it may have been altered")
    with capture_logs() as events:
        tell_recovered([whole, altered])
    told = [(event["event"], event["log_level"]) for event in events]
    assert told == [
        ("recordings recovered after a crash", "warning"),
        ("a recovered recording has a problem", "warning"),
    ]
    assert events[0]["count"] == 2
    assert (events[1]["session"], events[1]["problem"]) == ("s2", "it may have been altered")


def test_nothing_recovered_is_no_event() -> None:
    with capture_logs() as events:
        tell_recovered([])
    assert events == []
