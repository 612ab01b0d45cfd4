"""Commands that are tried again after a pause, and what their callers are told when there is no other try."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import AskError
from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.command import Command
from tradewind.client.errors import ClientClosed, NodeUnavailable
from tradewind.client.exclusive import ConnectionLost
from tradewind.client.policy import RetryPolicy


class Retries:
    """Holds commands until their next try, which `dispatch_again` makes; `tell` fails those who get none."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        dispatch_again: Callable[[Command], None],
        tell: Callable[[Command, Exception], None],
        rng: random.Random,
    ) -> None:
        self.policy = policy
        self.count = 0
        self.delayed: dict[Command, asyncio.TimerHandle] = {}  # waiting for their next try
        self._slot_tries: dict[int, float] = {}  # when the last of a slot's delayed commands is due
        self._dispatch_again = dispatch_again
        self._tell = tell
        self._rng = rng
        self._closing = asyncio.Event()  # for those who pause

    def later(self, command: Command, error: Exception) -> None:
        """Try again after a pause, or answer with `error` if the deadline comes first.

        Commands of one slot keep the order in which they come here, so that a pipeline's do.
        """
        if command.future.done():
            return
        command.attempts += 1
        command.asking = False
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        due_s = now_s + self.policy.pause_s(command.attempts, self._rng)
        if command.slot >= 0:
            due_s = max(due_s, self._slot_tries.get(command.slot, 0.0) + 1e-6)
        if self._is_last(command, due_s - now_s):
            self._tell(command, self._last_word(command, error))
            return
        self.count += 1
        if command.slot >= 0:
            self._slot_tries[command.slot] = due_s
        self.delayed[command] = loop.call_at(due_s, self._retry_now, command, due_s)

    def _retry_now(self, command: Command, due_s: float) -> None:
        self.delayed.pop(command, None)
        if self._slot_tries.get(command.slot) == due_s:
            del self._slot_tries[command.slot]
        self._dispatch_again(command)

    async def pause(self, command: Command, error: Exception) -> None:
        """The same for a command that runs in a task of its own: sleep, or raise if the deadline is near."""
        command.attempts += 1
        command.asking = False
        delay_s = self.policy.pause_s(command.attempts, self._rng)
        if self._is_last(command, delay_s):
            raise self._last_word(command, error)
        self.count += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()
                raise self._last_word(command, error)

    def _is_last(self, command: Command, delay_s: float) -> bool:
        """There is no other try: too many already, or no time for it."""
        late = time.monotonic() + delay_s >= command.deadline
        return self._closing.is_set() or late or command.attempts > self.policy.tries_max

    def _last_word(self, command: Command, error: Exception) -> Exception:
        """What the caller is told when there is no other try."""
        if self._closing.is_set():
            return ClientClosed(f"the client is closed; {error}")
        if isinstance(error, ConnectionLost):
            return _connection_lost(command, error)
        return lost_in_redirects(command, error) if isinstance(error, AskError) else error

    def close(self) -> None:
        """No more tries; who pauses is told. `tell_delayed` does the rest."""
        self._closing.set()
        for timer in self.delayed.values():
            timer.cancel()

    def tell_delayed(self) -> None:
        """Tell ClientClosed to those who will not get their next try."""
        for command in tuple(self.delayed):
            self._tell(command, ClientClosed("the client is closed"))
        self.delayed.clear()


def lost_in_redirects(command: Command, error: Exception) -> RedisConnectionError:
    """The nodes do not agree on who owns the slot."""
    return RedisConnectionError(
        f"{command.name} was redirected {command.redirects} times, last by {type(error).__name__} {error}: "
        f"the nodes do not agree on who owns slot {command.slot}; it was not executed"
    )


def _connection_lost(command: Command, error: ConnectionLost) -> RedisConnectionError:
    """In a class that callers know."""
    if error.was_sent:  # only of what may run twice
        return RedisConnectionError(str(error))
    return NodeUnavailable(
        f"{command.name}: its connection ended before it was sent, with no time for another try before its "
        f"deadline; {error}"
    )
