"""uvloop hosts, trio is its guest: two planes on one thread.

Rule 1: the host loop never ends before the guest. Whatever happens on either side (a signal, an exception
        nobody took, a stray `loop.stop()`), main is cancelled and every `finally:` of every trio task runs.
Rule 2: a call crosses the border as a plain call. `on_host` takes trio to the loop, `in_trio` the loop to
        trio; both carry result, exception and cancellation, and lose none of the three.
Rule 3: an exception nobody took in a host callback or task goes to `stray`; without one it ends the run.
Rule 4: SIGTERM, SIGINT and SIGHUP always reach trio: `signals()` where somebody listens, else main is
        cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Generic, TypeVar

import outcome
import trio

from proxyd.errors import ProxydError

T = TypeVar("T")
Stray = Callable[[dict[str, Any]], None]

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LEFTOVER_SECONDS = 5.0  # host tasks that outlive the guest are cancelled and get this long to end


class HostTaskCancelled(ProxydError):
    """What `on_host` waited for was cancelled by the host side, not by the waiting trio task."""


class HostStopped(RuntimeError):
    """Somebody stopped the host loop under the running guest; main was cancelled and has ended."""


def run(main: Callable[[], Awaitable[T]], *, stray: Stray | None = None) -> T:
    """Run `main` as trio's main task, guest of a fresh host loop, and return its result.

    `stray` gets asyncio's exception-handler context for every host exception nobody took; None: the first
    one cancels main and is raised here once all `finally:` blocks have run. A signal nobody listens to
    cancels main too: SIGINT then raises KeyboardInterrupt, SIGTERM and SIGHUP raise SystemExit(128 + n).
    Raises what main raises; HostStopped after a stray `loop.stop()`. One run per thread at a time.
    """
    life = _Run(main, stray)
    life.drive()
    return life.result()


def loop() -> asyncio.AbstractEventLoop:
    """Give the host loop; RuntimeError outside `run`."""
    return asyncio.get_running_loop()


def signals(*which: signal.Signals) -> AbstractContextManager[AsyncIterator[int]]:
    """Listen for signals, as trio.open_signal_receiver: a context manager that gives an async iterator.

    While open, these no longer cancel main. One that comes unread keeps its default effect at exit.
    """
    return trio.open_signal_receiver(*which)


async def on_host(awaitable: Awaitable[T]) -> T:
    """Run a host-loop awaitable (coroutine, future, asyncssh's wrappers) from a trio task; give its result.

    Cancelling the trio scope cancels the host task and waits until it has ended: nothing runs on behind the
    caller. A result or exception that was there first is not lost to the cancellation.
    Raises what the awaitable raises; HostTaskCancelled when the host side cancelled it.
    """
    waiter = trio.lowlevel.current_task()
    coroutine = awaitable if inspect.iscoroutine(awaitable) else _await(awaitable)
    host_loop = loop()
    job: asyncio.Task[T] = host_loop.create_task(coroutine)
    raise_cancel: Callable[[], object] | None = None

    def done(job: asyncio.Task[T]) -> None:
        result: outcome.Outcome[Any]
        if not job.cancelled():
            error = job.exception()
            result = outcome.Value(job.result()) if error is None else outcome.Error(error)
        elif raise_cancel is not None:
            result = outcome.capture(raise_cancel)
        else:
            result = outcome.Error(HostTaskCancelled("the connection was given up under the session"))
        trio.lowlevel.reschedule(waiter, result)

    def abort(cancel: Callable[[], object]) -> trio.lowlevel.Abort:
        nonlocal raise_cancel
        raise_cancel = cancel
        # one turn later: cancelled before its first step, a wrapped coroutine would count as never awaited
        host_loop.call_soon(job.cancel)
        return trio.lowlevel.Abort.FAILED

    job.add_done_callback(done)
    value: T = await trio.lowlevel.wait_task_rescheduled(abort)
    return value


def in_trio(async_fn: Callable[..., Awaitable[T]], *args: Any) -> asyncio.Future[T]:
    """Start `async_fn(*args)` as a trio task from host-loop code; the future gets its result or exception.

    Cancelling the future cancels the trio task; what the task raises on its way out then goes to `stray`.
    When the run ends first, the task is cancelled and so is the future.
    """
    host_loop = loop()
    future: asyncio.Future[T] = host_loop.create_future()
    scope = trio.CancelScope()
    future.add_done_callback(lambda done: scope.cancel() if done.cancelled() else None)

    async def task() -> None:
        try:
            with scope:
                try:
                    value = await async_fn(*args)
                    if not future.done():
                        future.set_result(value)
                except trio.Cancelled:
                    raise
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits the future
                    if future.done():
                        host_loop.call_exception_handler(
                            {"message": "in_trio: unawaited", "exception": error}
                        )
                    else:
                        future.set_exception(error)
        finally:
            if not future.done():  # the run is ending under the task
                future.cancel()

    trio.lowlevel.spawn_system_task(task, name=async_fn, context=contextvars.copy_context())
    return future


async def _await(awaitable: Awaitable[T]) -> T:
    """Make a coroutine of any awaitable: create_task takes nothing else."""
    return await awaitable


def _new_loop() -> asyncio.AbstractEventLoop:
    for fd in range(3):  # libuv aborts the process when one of its own descriptors gets such a number
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    try:
        import uvloop  # noqa: PLC0415 - not built for every platform
    except ImportError:  # slower, the same promises
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Run(Generic[T]):
    """One life of host loop and guest."""

    def __init__(self, main: Callable[[], Awaitable[T]], stray: Stray | None) -> None:
        self._main, self._stray = main, stray
        self._loop = _new_loop()
        self._loop.set_exception_handler(self._on_stray)
        self._scope = trio.CancelScope()
        self._outcome: outcome.Outcome[T] | None = None
        self._mishap: BaseException | None = None  # the first reason why main was cancelled from out here
        self._fatal = False  # the mishap is raised even if main then ends well

    def drive(self) -> None:
        """Run loop and guest to their ends, then clean the loop up."""
        try:
            with _ending_signals(self._on_signal), _woken_by_signals(self._loop):
                self._loop.call_soon(self._start)
                while self._outcome is None:
                    self._turn()
                self._finish()
        finally:
            self._loop.close()

    def result(self) -> T:
        """Give what main returned; raise what it raised, or why it was cancelled."""
        ended = self._outcome
        assert ended is not None  # noqa: S101 - drive() ends no sooner
        if self._fatal and self._mishap is not None:
            cause = ended.error if isinstance(ended, outcome.Error) else None
            raise self._mishap from (None if cause is self._mishap else cause)
        return ended.unwrap()

    def _start(self) -> None:
        """Start the guest inside the running loop, so that the hooks for async generators stack up."""
        trio.lowlevel.start_guest_run(
            self._guest,
            run_sync_soon_threadsafe=self._loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=self._loop.call_soon,
            done_callback=self._on_done,
            host_uses_signal_set_wakeup_fd=True,
        )

    async def _guest(self) -> T:
        with self._scope:
            return await self._main()
        assert self._mishap is not None  # noqa: S101 - nobody else cancels this scope
        raise self._mishap

    def _on_done(self, result: outcome.Outcome[T]) -> None:
        self._outcome = result
        self._loop.stop()

    def _turn(self) -> None:
        """Run the loop until it stops; when the guest has not ended, that was somebody's mistake."""
        try:
            self._loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - raised by result() once the guest has ended
            self._give_up(error, fatal=True)
        if self._outcome is None:
            self._give_up(HostStopped("the host loop was stopped while the guest was running"), fatal=True)

    def _give_up(self, why: BaseException, *, fatal: bool) -> None:
        if self._mishap is None or (fatal and not self._fatal):
            self._mishap, self._fatal = why, fatal
        self._loop.call_soon(self._scope.cancel)  # inside the running loop, where trio's tasks always are

    def _on_stray(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self._stray is not None:
            self._stray(context)
            return
        error = context.get("exception") or RuntimeError(context["message"])
        self._give_up(error, fatal=True)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        why = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        self._loop.call_soon_threadsafe(lambda: self._give_up(why, fatal=False))

    def _finish(self) -> None:
        """Cancel what host tasks are left, as asyncio.run does, but with a deadline."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=LEFTOVER_SECONDS))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())


@contextlib.contextmanager
def _ending_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Keep the ending signals from Python's, trio's and asyncio's handlers: those end the host first.

    A handler somebody set on purpose stays (SIGHUP under nohup is ignored).
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def _woken_by_signals(host_loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Wake the loop when a signal was delivered to another thread, so its handler runs now.

    uvloop sets a wake-up fd of its own whenever it runs; asyncio's loop does so only once it has a handler.
    """
    theirs = not isinstance(host_loop, asyncio.SelectorEventLoop)
    if theirs or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        host_loop.add_reader(reader, reader.recv, 4096)  # the byte's arrival is all that counts
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            host_loop.remove_reader(reader)
