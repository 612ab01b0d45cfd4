"""One call of one caller: how it is made, and whether what the caller was told is the truth."""

import asyncio
from typing import TYPE_CHECKING, Any

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
    WatchError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind import (
    ClientClosed,
    ClusterNotReady,
    DeadlineExceeded,
    NodeUnavailable,
    OutcomeUnknown,
    Overloaded,
    SharedConnectionError,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

READS = frozenset({"get", "mget", "echo", "xread"})
MUTE = frozenset({"post", "unanswered"})  # they tell their caller nothing
KINDS = (
    "get", "get", "get", "mget", "echo", "xread",
    "incrby", "incrby", "incrby", "getset", "set", "big set", "durable", "blpop", "post", "unanswered",
    "pipeline", "transaction", "transaction", "watched", "durable transaction",
)  # fmt: skip
WATCHDOG_S = 0.1 + 0.06  # a tick, and the rounds in which the sockets are drained
BLOCKING_MARGIN_S = 5.0  # docs/limits.md, "Blocking commands"
NOTHING_SENT = (Overloaded, NodeUnavailable, ClusterNotReady, ClientClosed, SharedConnectionError)
REFUSED = (
    ClusterDownError,
    ReadOnlyError,
    BusyLoadingError,
    TryAgainError,
    MasterDownError,
    OutOfMemoryError,
    WatchError,
    ExecAbortError,
)


class Call:
    """A command with its token, and what its caller was told."""

    def __init__(self, world: "World", kind: str, tag: str, timeout_s: float | None) -> None:
        self.token = len(world.calls) + 1
        self.kind = kind
        self.reply: Any = None
        self.error: BaseException | None = None
        self.answered = False
        self.started_s = self.stalled_before_s = 0.0
        self.ended_s: float | None = None
        self.stalled_s = 0.0
        self.was_ready = True
        self.task: asyncio.Task[None] | None = None
        self.timeout_s = timeout_s
        self.blocks_s = 0.0
        self.steps = 1  # commands that the call sends one after the other, each with a deadline of its own
        self._world, self._tag = world, tag
        world.calls.append(self)

    @property
    def cancelled(self) -> bool:
        return isinstance(self.error, asyncio.CancelledError)

    async def run(self, cancel_after_s: float | None) -> None:
        """Make the call; its caller may lose patience. Never raises what the client raises."""
        loop = self._world.loop
        self.task = loop.create_task(self._do(), name=f"call t{self.token}")
        timer = None if cancel_after_s is None else loop.call_later(cancel_after_s, self.task.cancel)
        await asyncio.wait((self.task,))
        if timer is not None:
            timer.cancel()
        if self.task.cancelled() and self.ended_s is None:  # before it began
            self.started_s = self.ended_s = loop.time()
            self.error = asyncio.CancelledError()

    async def _do(self) -> None:
        world = self._world
        self.started_s, self.stalled_before_s = world.loop.time(), world.loop.stalled_s
        self.was_ready = not world.client._initialize
        world.ledger.note(
            "caller t%d: %s at %s, timeout %s", self.token, self.kind, self._tag, self.timeout_s
        )
        try:
            self.reply = await self._ask()
            self.answered = True
        except (Exception, asyncio.CancelledError) as error:  # also what is no answer at all
            self.error = error
        self.ended_s = world.loop.time()
        self.stalled_s = world.loop.stalled_s - self.stalled_before_s
        told = repr(self.reply) if self.error is None else repr(self.error)
        world.ledger.note("caller t%d: was told %s", self.token, told)

    async def _ask(self) -> Any:
        token, tag, world = self.token, self._tag, self._world
        client = world.client
        calls: Any = client if self.timeout_s is None else client.with_options(timeout_s=self.timeout_s)
        if self.kind == "get":
            return await calls.get(f"{{{tag}}}:t{token}")
        if self.kind == "mget":
            return await calls.mget(f"{{{tag}}}:a:t{token}", f"{{{tag}}}:b:t{token}")
        if self.kind == "incrby":
            return await calls.incrby(f"{{{tag}}}:counter", token)
        if self.kind == "getset":
            return await calls.getset(f"{{{tag}}}:value", f"t{token}")
        if self.kind in ("set", "big set"):
            padding = "x" * (3000 if self.kind == "big set" else 3)
            view = client.with_options(timeout_s=self.timeout_s, idempotent=True)
            return await view.set(f"{{{tag}}}:set", f"t{token}.{padding}")
        if self.kind in ("pipeline", "transaction", "watched", "durable transaction"):
            return await self._ask_together(calls)
        if self.kind == "durable":
            return await client.durable(timeout_s=self.timeout_s).incrby(f"{{{tag}}}:counter", token)
        return await self._ask_otherwise(calls)

    async def _ask_otherwise(self, calls: Any) -> Any:
        token, tag, world = self.token, self._tag, self._world
        client = world.client
        if self.kind == "echo":
            if not self.was_ready:
                await client
            return await calls.execute_command("ECHO", f"t{token}", target_nodes=self._some_node())
        if self.kind == "xread":
            self.blocks_s = 0.4
            reply = await calls.xread({f"{{{tag}}}:stream:t{token}": "$"}, block=400)
            return reply or None
        if self.kind == "blpop":
            self.blocks_s = 0.5
            popped = await calls.blpop([f"{{{tag}}}:list:t{token}"], timeout=0.5)
            return None if popped is None else list(popped)
        if not self.was_ready:
            return None
        if self.kind == "post":
            client.post("INCRBY", f"{{{tag}}}:counter", token)
        else:
            client.send_unanswered("SPUBLISH", f"{{{tag}}}:channel", f"t{token}")
        return None

    async def _ask_together(self, calls: Any) -> Any:
        """A read and a write in one pipeline; gives the write's reply when the read's is its own."""
        client, tag, token = self._world.client, self._tag, self.token
        if self.kind == "durable transaction":
            calls = client.durable(timeout_s=self.timeout_s)
        async with calls.pipeline(transaction=self.kind != "pipeline") as pipe:
            if self.kind == "watched":
                self.steps = 3
                await pipe.watch(f"{{{tag}}}:watched:t{token}")
                await pipe.get(f"{{{tag}}}:t{token}")
                pipe.multi()
            pipe.get(f"{{{tag}}}:t{token}")
            pipe.incrby(f"{{{tag}}}:counter", token)
            read, written = await pipe.execute(raise_on_error=self.kind != "pipeline")
        if isinstance(written, Exception):
            raise written
        is_own = isinstance(read, Exception) or read == f"value of {{{tag}}}:t{token}".encode()
        return written if is_own else (read, written)

    def _some_node(self) -> Any:
        nodes = self._world.client.get_nodes()
        return nodes[self.token % len(nodes)]

    def __repr__(self) -> str:
        told = self.error if self.error is not None else self.reply
        return f"t{self.token} {self.kind} at {self.started_s:.4f}, told {told!r} at {self.ended_s}"


def check_call(call: Call, world: "World") -> None:
    """Compare what the caller was told with what the servers did."""
    executions = world.ledger.executions[call.token]
    if executions > 1 and call.kind not in ("set", "big set"):
        world.fail(f"executed {executions} times", call)
    if call.kind in MUTE:
        return
    if call.ended_s is None:
        world.fail("never answered", call)
    _check_deadline(call, world)
    if call.answered:
        _check_reply(call, world, executions)
    elif not call.cancelled:
        _check_error(call, world, executions)


def _check_reply(call: Call, world: "World", executions: int) -> None:
    timed_out = call.kind in ("blpop", "xread") and call.reply is None
    if not timed_out and call.reply not in world.ledger.replies.get(call.token, []):
        world.fail(f"somebody else's reply: the servers said {world.ledger.replies.get(call.token)}", call)
    if call.kind not in READS and executions != (0 if timed_out else max(1, executions)):
        world.fail(f"acknowledged, and executed {executions} times", call)
    if call.kind.startswith("durable") and call.token not in world.ledger.replicated:
        world.fail("acknowledged, and no replica has confirmed it", call)


def _check_error(call: Call, world: "World", executions: int) -> None:
    error = call.error
    if isinstance(error, ClientClosed) and "set" in call.kind:
        return  # what may run twice may have run
    if isinstance(error, NOTHING_SENT) or (isinstance(error, DeadlineExceeded) and "set" not in call.kind):
        if executions:
            world.fail("executed, although the error says that nothing was sent", call)
    elif isinstance(error, OutcomeUnknown):
        if call.kind in READS:
            world.fail("the outcome of a read is never unknown", call)
    elif isinstance(error, REFUSED) or _is_refusal(error):
        if executions and "set" not in call.kind:
            world.fail("executed, although the error says that it was refused", call)
    elif not (isinstance(error, DeadlineExceeded) or _may_be_lost(call, error, executions)):
        world.fail("an error that no caller can understand", call)


def _is_refusal(error: BaseException | None) -> bool:
    text = str(error)
    if type(error) is ResponseError:
        return "BUSY " in text or "UNBLOCKED " in text or "max number of clients" in text
    return type(error) is RedisConnectionError and (
        "was not executed" in text or "max number of clients" in text
    )


def _may_be_lost(call: Call, error: BaseException | None, executions: int) -> bool:
    """A connection that ended, and no time for another try: for what may run twice only, as WATCH."""
    may_run_twice = call.kind in READS or "set" in call.kind or (call.kind == "watched" and not executions)
    return type(error) is RedisConnectionError and may_run_twice


def _check_deadline(call: Call, world: "World") -> None:
    assert call.ended_s is not None
    timeout_s = world.options["socket_timeout"] if call.timeout_s is None else call.timeout_s
    if call.blocks_s:
        timeout_s = call.blocks_s + BLOCKING_MARGIN_S
    timeout_s *= call.steps
    if not call.was_ready:
        timeout_s += world.options["socket_connect_timeout"] + WATCHDOG_S
    late_s = call.ended_s - call.started_s - timeout_s - call.stalled_s
    if late_s > WATCHDOG_S:
        world.fail(f"told {late_s:.3f} s after its deadline", call)
    early = call.was_ready and call.steps == 1 and late_s < -timeout_s * 0.01 - call.stalled_s - 0.01
    if early and isinstance(call.error, DeadlineExceeded):
        world.fail(f"DeadlineExceeded {-late_s:.3f} s before the deadline", call)
