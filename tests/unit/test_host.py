"""Two planes on one thread: nothing is abandoned, nothing is lost at the border.

What ends a run is shown by real processes: each writes a line per `finally:` block, and the test reads them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from proxyd import host

REPO = Path(__file__).parents[2]
CHILD_SECONDS = 20  # a child that has not ended by then is stuck; each takes about a second

# A daemon in small: tasks in a nursery, one of them waiting on the host loop, one started from it, a thread that is
# waited for. `finally` of all five must run, the asynchronous part of the first one too.
CHILD = """
import asyncio, os, signal, sys, threading
for number in (signal.SIGHUP, signal.SIGTERM):  # whoever ran the tests in the background may have them ignored
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
import logging
import trio
import trio.testing
from proxyd import host

logging.getLogger("asyncio").setLevel(logging.ERROR)  # -X dev warns of callbacks that took long: on a busy machine any does
if sys.argv[1] == "asyncio":
    host._new_loop = asyncio.new_event_loop

def say(word):
    os.write(1, (word + "\\n").encode())

async def cleanup():
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.01)
            await host.on_host(asyncio.sleep(0.01))
        say("nursery")

async def on_loop():
    async def wait():
        try:
            await asyncio.sleep(3600)
        finally:
            say("host-task")
    try:
        await host.on_host(wait())
    finally:
        say("on-host")

async def from_loop():
    try:
        await trio.sleep_forever()
    finally:
        say("in-trio")

async def main():
    async def start():
        await host.in_trio(from_loop)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleanup)
            nursery.start_soon(on_loop)
            pending = host.loop().create_task(start())
            await trio.testing.wait_all_tasks_blocked()
            say("up")
            await HAPPENS(nursery)
            await trio.sleep_forever()
    finally:
        say("main")

HAPPENS_HERE

import trio.testing
host.run(main)
"""
FAILS = "async def fails():\n    raise ValueError('from a task')\n"
BLOCKS = {"nursery", "host-task", "on-host", "in-trio", "main"}


@pytest.fixture(params=["uvloop", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def child(kind: str, happens: str, kill: int | None = None) -> tuple[int, list[str], str]:
    """Run the small daemon until `happens` or a signal ends it: its exit status, lines and stderr."""
    code = CHILD.replace("HAPPENS_HERE", "async def HAPPENS(nursery):\n" + textwrap.indent(happens, "    "))
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, kind]
    # unbuffered: communicate() does not know of what readline() has read ahead
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=REPO
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            if kill is not None:
                process.send_signal(kill)
            out, err = process.communicate(timeout=CHILD_SECONDS)
        finally:
            process.kill()
    return process.returncode, out.decode().split(), err.decode()


def test_ending_signals_run_every_finally(kind):
    for number, status in (
        (signal.SIGTERM, 128 + 15),
        (signal.SIGHUP, 128 + 1),
        (signal.SIGINT, -signal.SIGINT),
    ):
        returned, lines, err = child(kind, "pass", kill=number)
        assert set(lines) == BLOCKS, err
        assert len(lines) == len(BLOCKS)
        assert returned == status, err
        assert err.strip().endswith("KeyboardInterrupt") if number == signal.SIGINT else err == ""


def test_signal_that_hits_another_thread_still_wakes_the_loop(kind):
    happens = """
        def waits():
            while True:
                signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
                threading.Event().wait(3600)
        threading.Thread(target=waits, daemon=True).start()
    """
    returned, lines, err = child(kind, textwrap.dedent(happens))
    assert (returned, set(lines), err) == (128 + 15, BLOCKS, "")


def test_signal_under_load_of_host_callbacks(kind):
    happens = """
        def again():
            host.loop().call_soon(again)
        again()
    """
    returned, lines, err = child(kind, textwrap.dedent(happens), kill=signal.SIGINT)
    assert (returned, set(lines)) == (-signal.SIGINT, BLOCKS), err


def test_exception_in_a_trio_task_runs_every_finally(kind):
    happens = """
        async def fails():
            raise ValueError("from a trio task")
        nursery.start_soon(fails)
    """
    returned, lines, err = child(kind, textwrap.dedent(happens))
    assert (returned, set(lines)) == (1, BLOCKS)
    assert "ValueError: from a trio task" in err


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (
            "def fails():\n    raise ValueError('from a callback')\nhost.loop().call_soon(fails)",
            "from a callback",
        ),
        (
            FAILS + "host.loop().create_task(fails())\nawait trio.sleep(0.1)\nimport gc; gc.collect()",
            "from a task",
        ),
        (
            "def leaves():\n    raise SystemExit('left by mistake')\nhost.loop().call_soon(leaves)",
            "left by mistake",
        ),
        (FAILS + "host.in_trio(fails)\nawait trio.sleep(0.1)\nimport gc; gc.collect()", "from a task"),
        ("host.loop().stop()", "HostStopped: the host loop was stopped while the guest was running"),
        (
            "def stops():\n    host.loop().stop(); host.loop().call_soon(stops)\nhost.loop().call_soon(stops)",
            "HostStopped: the host loop was stopped while the guest was running",
        ),
    ],
    ids=["callback", "task", "SystemExit", "in_trio", "stop", "stop-again-and-again"],
)
def test_trouble_on_the_host_loop_runs_every_finally_and_is_told(kind, happens, says):
    returned, lines, err = child(kind, happens)
    assert (returned, set(lines)) == (1, BLOCKS), err
    assert says in err


def test_sighup_ignored_by_nohup_stays_ignored(kind):
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + CHILD.replace(
        "HAPPENS_HERE",
        "async def HAPPENS(nursery):\n    os.kill(os.getpid(), signal.SIGHUP)\n    say('alive')",
    )
    command = [sys.executable, "-c", code, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, cwd=REPO) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"up\n", b"alive\n"]
        process.terminate()
        out, _ = process.communicate(timeout=CHILD_SECONDS)
    assert set(out.decode().split()) == BLOCKS


def test_runs_with_closed_standard_descriptors(tmp_path):
    """As from a shell with `<&- >&- 2>&-`: libuv would abort over a descriptor of its own below 3."""
    script = tmp_path / "closed.py"
    script.write_text(
        "import os, pathlib, sys\nfor fd in range(3): os.close(fd)\nfrom proxyd import host\n"
        "async def main(): pathlib.Path(sys.argv[1]).write_text('ran')\nhost.run(main)\n"
    )
    said = tmp_path / "said"
    done = subprocess.run(
        [sys.executable, script, said], env={"PYTHONPATH": str(REPO)}, timeout=CHILD_SECONDS, check=False
    )
    assert (done.returncode, said.read_text()) == (0, "ran")


@pytest.mark.hosted
async def test_signals_reach_whoever_listens():
    with host.signals(signal.SIGTERM, signal.SIGHUP) as arrived:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
            with trio.fail_after(60):
                assert await anext(arrived) == number


def test_result_error_and_stray_of_main():
    async def answers():
        await trio.sleep(0)
        return 42

    async def fails():
        raise LookupError

    assert host.run(answers) == 42
    with pytest.raises(LookupError):
        host.run(fails)
    strays = []

    async def goes_on():
        host.loop().call_soon(lambda: 1 / 0)
        await trio.sleep(0.01)
        return "well"

    assert host.run(goes_on, stray=strays.append) == "well"
    assert [type(context["exception"]) for context in strays] == [ZeroDivisionError]
    with pytest.raises(ZeroDivisionError):
        host.run(goes_on)
    with pytest.raises(RuntimeError):
        host.loop()


def test_handlers_of_signals_are_put_back():
    before = [signal.getsignal(number) for number in host.ENDING_SIGNALS]

    async def main():
        assert [signal.getsignal(number) for number in host.ENDING_SIGNALS] != before

    host.run(main)
    assert [signal.getsignal(number) for number in host.ENDING_SIGNALS] == before


def test_runs_in_a_thread_and_again():
    results = []

    async def main():
        results.append(await host.on_host(asyncio.sleep(0, "there")))

    thread = threading.Thread(target=host.run, args=(main,))
    thread.start()
    thread.join(60)
    host.run(main)
    assert results == ["there", "there"]


def test_host_tasks_left_over_are_cancelled():
    ended = []

    async def lingers():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append("lingers")

    async def main():
        task = host.loop().create_task(lingers())
        await trio.testing.wait_all_tasks_blocked()
        return task

    assert host.run(main).cancelled()
    assert ended == ["lingers"]


class Wrapped:
    """An awaitable that is no coroutine, as asyncssh's connect() and listen() return."""

    def __init__(self, coroutine):
        self.coroutine = coroutine

    def __await__(self):
        return self.coroutine.__await__()


@pytest.mark.hosted
async def test_on_host_takes_every_awaitable():
    assert await host.on_host(asyncio.sleep(0.001, "coroutine")) == "coroutine"
    assert await host.on_host(Wrapped(asyncio.sleep(0.001, "wrapped"))) == "wrapped"
    future = host.loop().create_future()
    host.loop().call_soon(future.set_result, "future")
    assert await host.on_host(future) == "future"


@pytest.mark.hosted
@pytest.mark.parametrize("wrap", [lambda it: it, Wrapped])
async def test_on_host_waits_for_a_cancelled_task(wrap):
    ended = []

    async def slow():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append("slow")

    with trio.move_on_after(0.02) as scope:
        await host.on_host(wrap(slow()))
    assert scope.cancelled_caught
    assert ended == ["slow"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await host.on_host(wrap(slow()))
    assert scope.cancelled_caught
    assert ended == ["slow", "slow"]


@pytest.mark.hosted
async def test_on_host_carries_errors_and_tells_whose_cancellation_it_was():
    async def fails():
        await asyncio.sleep(0)
        raise KeyError("x")

    async def gives_up():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    with pytest.raises(KeyError):
        await host.on_host(fails())
    with pytest.raises(host.HostTaskCancelled):
        await host.on_host(gives_up())
    assert not trio.current_effective_deadline() < trio.current_time()


@pytest.mark.hosted
async def test_on_host_loses_no_result_to_a_cancellation():
    async def stubborn():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "kept"

    async def fails():
        try:
            await asyncio.sleep(3600)
        finally:
            raise LookupError

    with trio.CancelScope() as scope:
        scope.cancel()
        assert await host.on_host(stubborn()) == "kept"
    with trio.CancelScope() as scope, pytest.raises(LookupError):
        scope.cancel()
        await host.on_host(fails())


@pytest.mark.hosted
async def test_in_trio_carries_result_error_and_cancellation():
    ended = trio.Event()

    async def answers(number):
        await trio.sleep(0.001)
        return number

    async def fails():
        await trio.sleep(0)
        raise LookupError

    async def waits():
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def both(*args):
        return await host.in_trio(*args)

    assert await host.on_host(both(answers, 7)) == 7
    with pytest.raises(LookupError):
        await host.on_host(both(fails))
    with trio.move_on_after(0.01) as scope:
        await host.on_host(both(waits))
    assert scope.cancelled_caught
    with trio.fail_after(60):
        await ended.wait()


def test_in_trio_tells_what_a_cancelled_task_raised():
    strays = []

    async def fails():
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError

    async def main():
        future = host.in_trio(fails)
        await trio.testing.wait_all_tasks_blocked()
        future.cancel()
        await trio.testing.wait_all_tasks_blocked()

    host.run(main, stray=strays.append)
    assert [type(context["exception"]) for context in strays] == [LookupError]


def test_in_trio_ends_with_the_run():
    ended, futures = [], []

    async def waits():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            ended.append("waits")

    async def main():
        futures.append(host.in_trio(waits))
        await trio.testing.wait_all_tasks_blocked()

    host.run(main)
    assert ended == ["waits"]
    assert futures[0].cancelled()
