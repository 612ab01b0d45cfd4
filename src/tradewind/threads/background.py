"""The one event loop that the blocking clients of a process share, in a daemon thread of its own.

Calls are handed over in a queue, and the loop is woken once for all that have come since it last looked. Who
waits for an answer waits on a bare lock, which costs less than a condition or an event. A forked child has
no such thread: it starts its own at its first call.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import Any, TypeVar

from tradewind.client.forked import let_go_in_children

T = TypeVar("T")


class Answer:
    """Stands where a future would, for a thread that waits.

    The loop's thread gives it a result or an error, once; what comes later is dropped. A thread that stops
    waiting (KeyboardInterrupt) leaves it `done`, so that nothing more is done for it.
    """

    __slots__ = ("_is_done", "_lock", "_result", "error")

    def __init__(self) -> None:
        self._is_done = False
        self._result: Any = None
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def done(self) -> bool:
        """Answered, or nobody waits any more."""
        return self._is_done

    def set_result(self, result: Any) -> None:
        """Wake the waiting thread."""
        if not self._is_done:
            self._result, self._is_done = result, True
            self._lock.release()

    def set_exception(self, error: BaseException) -> None:
        """Wake the waiting thread with an error."""
        if not self._is_done:
            self.error, self._is_done = error, True
            self._lock.release()

    def wait(self) -> Any:
        """The result, or raise the error. To be called once, in the thread that waits."""
        try:
            self._lock.acquire()
        except BaseException:
            self._is_done = True
            raise
        if self.error is not None:
            raise self.error
        return self._result


class _Call:
    """A coroutine that runs in the loop for a waiting thread."""

    def __init__(self, begin: Callable[[], Awaitable[Any]]) -> None:
        self.answer = Answer()
        self._begin = begin
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.answer.done():
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            self.answer.set_result(await self._begin())
        except BaseException as error:
            self.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def give_up(self, _loop: asyncio.AbstractEventLoop) -> None:
        if self._task is not None:
            self._task.cancel()


class Background:
    """The loop and its thread; it runs as long as the process."""

    def __init__(self) -> None:
        self._inbox: deque[tuple[Callable[[Any], object], Any]] = deque()  # at most one for a waiting thread
        self._is_awake = False  # the loop will look, so it need not be woken
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tradewind", daemon=True)
        self._thread.start()
        self._thread_id = self._thread.ident
        let_go_in_children(self)

    def hand_over(self, function: Callable[[Any], object], argument: Any) -> None:
        """Have `function(argument)` called in the loop, in the order of the calls; returns at once."""
        self._inbox.append((function, argument))
        if not self._is_awake:
            try:
                self._is_awake = True
                self._loop.call_soon_threadsafe(self._look)
            except BaseException:  # a signal's, in the middle of this: the next call wakes the loop
                self._is_awake = False
                raise

    def _look(self) -> None:
        self._is_awake = False  # first: what is handed over from now on wakes the loop again
        inbox = self._inbox
        for _ in range(len(inbox)):
            function, argument = inbox.popleft()
            try:
                function(argument)
            except Exception as error:
                self._loop.call_exception_handler({"message": "a call failed to begin", "exception": error})

    def run(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine in the loop, and wait for it. Interrupted, it is cancelled."""
        self.refuse_own_thread()
        call = _Call(begin)
        self.hand_over(call.start, self._loop)
        try:
            result: T = call.answer.wait()
        except BaseException as error:
            if error is not call.answer.error:  # of this thread: KeyboardInterrupt, or what a signal raises
                self.hand_over(call.give_up, self._loop)
            raise
        return result

    def refuse_own_thread(self) -> None:
        """Raise RuntimeError in the loop's own thread, which would wait for itself for ever."""
        if get_ident() == self._thread_id:
            raise RuntimeError(
                "a blocking call in the thread of Tradewind's own event loop (a callback of a subscription, "
                "a credential provider) would wait for itself: hand the work to another thread"
            )

    def let_go(self) -> object:
        """In a forked child: neither the thread nor its loop exist there."""
        global _current, _starting
        _current, _starting = None, threading.Lock()
        return self


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: it needs half the time for each command."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


_current: Background | None = None
_starting = threading.Lock()


def background() -> Background:
    """That of this process, started at the first call."""
    global _current
    if _current is None:
        with _starting:
            if _current is None:
                _current = Background()
    return _current
