"""How a login at the target ends, as the log and the metrics tell it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from unit.test_session import LOGIN, MORE, core_of

from proxyd import metrics
from proxyd.config import Config, load
from proxyd.errors import TargetError, TargetUnreachable
from proxyd.protocols.ssh import back
from proxyd.session import opened
from proxyd.setup import initialise
from proxyd.vault import SAID_TO_USERS, VaultError

pytestmark = pytest.mark.hosted


def configured(directory: Path, *, port: int = 22) -> Config:
    made = initialise(directory, ssh_port=0, metrics_port=0)
    with made.config.open("a") as config:
        config.write(MORE.replace("127.0.0.1:22", f"127.0.0.1:{port}"))
    return load(made.config)


async def refusal(settings: Config) -> TargetError:
    """Try to reach alice's target; give why that failed."""
    listen = settings.listen.ssh
    assert listen is not None
    async with core_of(settings) as core:
        permit = core.access.authorize("alice", "root", "web1", LOGIN.user_ip)
        with pytest.raises(TargetError) as caught:
            async with opened(core, LOGIN, permit, "ssh") as session:
                await back.connect(session, listen, lambda _: None)
    return caught.value


def counted(result: str) -> float:
    return metrics.TARGET_LOGINS.labels(protocol="ssh", result=result)._value.get()


async def test_why_a_credential_can_not_be_fetched_is_in_the_log_and_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    before = counted("failed")
    with capture_logs() as events:
        error = await refusal(configured(tmp_path))
    assert isinstance(error, VaultError)
    assert str(error) == SAID_TO_USERS
    (event,) = (event for event in events if event["event"] == "credential could not be fetched")
    assert (event["log_level"], event["target"], event["account"]) == ("error", "web1", "root")
    assert event["why"] == error.detail
    assert "NOWHERE" in event["why"]
    assert counted("failed") == before + 1


async def test_a_target_nobody_answers_at_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOWHERE", "hunter2")
    before = counted("unreachable")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with capture_logs() as events:
        error = await refusal(configured(tmp_path, port=port))
    assert isinstance(error, TargetUnreachable)
    assert "credential could not be fetched" not in [event["event"] for event in events]
    assert "hunter2" not in str(events)
    assert counted("unreachable") == before + 1
