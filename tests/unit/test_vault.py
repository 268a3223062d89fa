"""References to secrets: what each gives, what each refuses, and that no error tells."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from proxyd import vault
from proxyd.errors import TargetLoginFailed
from proxyd.vault import Secret, VaultError, fetch
from tests.peers.process import eventually

CANARY = "hunter2-canary"
PATIENT_S = 60.0  # for a process to start or end on the busiest machine


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(CANARY + "\n")
    path.chmod(0o600)
    return path


async def refusal(reference: str, **options: float) -> str:
    """The detail of the refusal; its text for users is always the same and tells nothing."""
    with pytest.raises(VaultError) as caught:
        await fetch(reference, **options)
    assert isinstance(caught.value, TargetLoginFailed)
    assert str(caught.value) == vault.SAID_TO_USERS
    assert CANARY not in caught.value.detail
    return caught.value.detail


def test_a_secret_shows_nowhere() -> None:
    secret = Secret(CANARY.encode())
    assert (secret.data, secret.text()) == (CANARY.encode(), CANARY)
    assert CANARY not in f"{secret} {secret!r} {secret!s} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(AttributeError):
        secret.other = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "text"), [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b" a ", " a ")]
)
def test_text_loses_one_line_ending(data: bytes, text: str) -> None:
    assert Secret(data).text() == text


def test_text_that_is_none() -> None:
    with pytest.raises(VaultError):
        Secret(b"\xff\xfe").text()


async def test_file(secret_file: Path) -> None:
    assert (await fetch(f"file:{secret_file}")).text() == CANARY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
async def test_file_open_to_others(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    assert f"others may read it (mode {mode:04o}); chmod 600 it" in await refusal(f"file:{secret_file}")


async def test_file_of_another_user(secret_file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(secret_file, 12345, -1)
    assert "belongs to another user (uid 12345)" in await refusal(f"file:{secret_file}")


async def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "not a regular file" in await refusal(f"file:{tmp_path}/fifo", deadline_s=5)
    assert "No such file" in await refusal(f"file:{tmp_path}/none")
    assert "not a regular file" in await refusal(f"file:{tmp_path}")
    assert "not a path" in await refusal("file:\0")


async def test_empty_and_oversized(secret_file: Path) -> None:
    secret_file.write_text("\n")
    assert await refusal(f"file:{secret_file}") == "file: empty"
    secret_file.write_bytes(b"x" * (vault.MAX_SECRET_BYTES + 1))
    assert "larger than 65536 bytes" in await refusal(f"file:{secret_file}")


async def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB1_PASSWORD", CANARY)
    assert (await fetch("env:WEB1_PASSWORD")).text() == CANARY
    assert await refusal("env:NOT_THERE") == "env: NOT_THERE is not set"


async def test_systemd(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "no credentials were passed" in await refusal("systemd:secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret_file.parent))
    secret_file.chmod(0o440)  # how an access list for the service's user shows
    assert (await fetch("systemd:secret")).text() == CANARY
    secret_file.chmod(0o444)
    assert "others may read it" in await refusal("systemd:secret")
    for name in ("..", "../secret", "a/b", ""):
        assert "not the name of a credential" in await refusal(f"systemd:{name}")


async def test_command() -> None:
    assert (await fetch("command:printf '%s' 'two  words'")).text() == "two  words"
    assert (await fetch("command:echo '$HOME;`id`'")).text() == "$HOME;`id`"


async def test_failing_commands() -> None:
    told = await refusal(f"command:sh -c 'echo {CANARY}; echo {CANARY} >&2; exit 3'")
    assert told == "command: ended with status 3"
    assert "can't be started: No such file" in await refusal(f"command:/no/such/{CANARY}")
    assert await refusal(f"command:echo '{CANARY}") == "command: its quotes don't match"
    assert await refusal("command: ") == "command: empty"
    assert await refusal("command:true") == "command: empty"
    assert "wrote more than" in await refusal(
        f"command:{sys.executable} -c 'while True: print(\"x\" * 1000)'"
    )
    assert await refusal(f"keyring:{CANARY}") == "unknown kind of reference"


def test_a_slow_command_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}; wait"
    told = late(f'command:sh -c "{script}"'.replace("$", "\\$"), lambda: len(written(pids)) == 2)
    assert told == "command: no answer within 10 s"
    eventually("they are gone", lambda: not any(map(running, written(pids))), within_s=PATIENT_S)


def written(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() and path.read_text().endswith("\n") else []


def late(reference: str, begun: Callable[[], object]) -> str:
    """The refusal when the deadline comes once it has begun, however long that takes."""
    clock = MockClock()

    async def story() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meets_it)
            return await refusal(reference, deadline_s=10)

    async def meets_it() -> None:
        await trio.to_thread.run_sync(partial(eventually, "it has begun", begun, within_s=PATIENT_S))
        clock.jump(10)

    return str(trio.run(story, clock=clock))


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_child_that_keeps_the_pipe_open_meets_the_deadline(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"echo {CANARY}; sleep 600 & echo $! > {pid}"
    told = late(f'command:sh -c "{script}"'.replace("$", "\\$"), lambda: written(pid))
    assert told == "command: no answer within 10 s"
    eventually("it is gone", lambda: not running(*written(pid)), within_s=PATIENT_S)


async def test_cancelled_fetch_leaves_no_process(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(fetch, f'command:sh -c "echo \\$\\$ > {pid}; sleep 600"', deadline_s=600))
        await trio.to_thread.run_sync(
            partial(eventually, "it runs", lambda: written(pid), within_s=PATIENT_S)
        )
        nursery.cancel_scope.cancel()
    assert not running(*written(pid))
