"""Pipelines: calls that are written down, then made together: each on its own way, or as one transaction.

Since every command of the client is pipelined anyway, a plain pipeline is only a way to write several calls
down. A transaction is one block in the lane of the slot's owner, or, after WATCH, on a connection of its own.

`run_each` and `Transactions` do the work, for a cluster and for a single server; `Pipeline` has around it the
behaviour of redis-py's cluster pipeline.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio.cluster import AbstractStrategy, ClusterPipeline, PipelineStrategy
from redis.client import EMPTY_RESPONSE
from redis.exceptions import (
    CrossSlotTransactionError,
    RedisClusterException,
    RedisError,
    ResponseError,
    WatchError,
)
from redis.utils import safe_str, truncate_text

from tradewind.client.blocking import blocking_call
from tradewind.client.exclusive import give_up
from tradewind.client.watch import Watch, begin_watch

if TYPE_CHECKING:
    from redis.asyncio import RedisCluster as RedisPyCluster

    from tradewind.client.base import ClientCore
    from tradewind.client.calls import Call, CallOptions

STARTED_PER_TURN_MAX = 500  # then the loop turns: it is not held up, and the servers begin

# -- the work ------------------------------------------------------------------------------------------------


async def run_each(core: "ClientCore", calls: Sequence["Call"], call: "CallOptions") -> list[Any]:
    """Make every call, with the options `call`; results and errors in order.

    All have been answered or have failed by then. A caller that is cancelled gives up all of them.
    """
    await core.initialize()
    started: list[asyncio.Future[Any] | Exception] = []
    try:
        for args, options in calls:
            started.append(_start(core, args, options, call))
            if not len(started) % STARTED_PER_TURN_MAX:
                await asyncio.sleep(0)
        return [
            await _outcome(core, reply, args, options)
            for reply, (args, options) in zip(started, calls, strict=True)
        ]
    except asyncio.CancelledError:
        for reply in started:
            if isinstance(reply, asyncio.Future):
                give_up(reply)
        raise


def _start(
    core: "ClientCore", args: tuple[Any, ...], options: dict[str, Any], call: "CallOptions"
) -> "asyncio.Future[Any] | Exception":
    """A future of the reply as it is; a task, for redis-py's value, where more than that is to be done."""
    try:
        reply = core._start_call(args, options, call)
    except Exception as error:
        return error
    if reply is None:
        reply = asyncio.get_running_loop().create_task(core.execute_call(args, options, call))
    return reply


async def _outcome(
    core: "ClientCore",
    started: "asyncio.Future[Any] | Exception",
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    if isinstance(started, Exception):
        return started
    try:
        if isinstance(started, asyncio.Task):
            return await started
        return await core._value_of(started, args, options)
    except Exception as error:
        return error


def _count(core: "ClientCore", error: Exception) -> None:
    """What a caller is told here. The client may have been closed meanwhile: that is not what is told."""
    if core._router is not None:
        core._router.count(error)


class Transactions:
    """The transactions of one pipeline, one after the other: what is watched, and what EXEC brings."""

    def __init__(self, core: "ClientCore", call: "CallOptions") -> None:
        self._core = core
        self._call = call
        self._watch: Watch | None = None
        self._failure: Exception | None = None  # of a WATCH that was to take the connection

    @property
    def watching(self) -> bool:
        """WATCH has been sent, and neither EXEC nor `close` came since; it may have failed, or been lost."""
        return self._watch is not None or self._failure is not None

    @property
    def lost(self) -> bool:
        """Nothing is watched any more: all raises WatchError until `close`, or `watch` begins anew."""
        return self._failure is not None or (self._watch is not None and self._watch.is_over)

    async def watch(self, names: Iterable[Any], slot: int) -> bool:
        """WATCH, the first of which takes the connection. Raises as `execute_command`.

        After a watch that was lost it is the first one again: nothing else is watched then.
        """
        core, args = self._core, ("WATCH", *names)
        if self.watching and not self.lost:
            await self.send(args, {}, slot)
            return True
        await core.initialize()
        command = core._make.command(core._catalog.look_up(args), args, slot, {}, self._call)
        router = core._need_router()
        router.commands += 1
        try:
            self._watch = await begin_watch(router, command)
        except BaseException as error:
            # Who goes on all the same must not get a transaction that nothing guards.
            self._failure = error if isinstance(error, Exception) else WatchError("it was given up")
            if isinstance(error, Exception):
                _count(core, error)
            raise
        self._failure = None
        return True

    async def send(self, args: tuple[Any, ...], options: dict[str, Any], slot: int) -> Any:
        """A command between WATCH and MULTI, at once. Errors: see `Watch.send`."""
        self._refuse_unwatched()
        core, watch = self._core, self._watch
        if watch is None:
            raise WatchError("Nothing is watched any more")
        spec = core._catalog.look_up(args) if args[0] == "WATCH" else core._spec(args)
        command = core._make.command(spec, args, slot, options, self._call)
        blocking = blocking_call(spec, args)
        if blocking is not None:
            command.deadline = command.created_s + blocking.seconds + core._timeouts.blocking_margin_s
        router = core._need_router()
        router.commands += 1
        try:
            with router.news.writing(slot, writes=spec.writes):
                return await core._value_of(watch.send(command), args, options)
        except Exception as error:
            _count(core, error)
            raise

    async def execute(self, calls: Sequence["Call"], slot: int) -> list[Any]:
        """MULTI, the calls, EXEC; results in order, errors of single commands among them.

        Raises WatchError when something watched has changed or the watch was lost, what the server refused a
        command for (nothing was executed), OutcomeUnknown when no reply came.
        """
        self._refuse_unwatched()
        core = self._core
        sent = [(args, options) for args, options in calls if EMPTY_RESPONSE not in options]
        specs = [core._spec(args) for args, _ in sent]
        transaction = core._make.transaction(specs, sent, slot, self._call)
        writes = any(spec.writes for spec in specs)
        watch, self._watch = self._watch, None
        try:
            if watch is None:
                core._dispatch(transaction, self._call, writes=writes)
                replies = await transaction.future
            else:
                router = core._need_router()
                router.commands += 1
                with router.news.writing(slot, writes=writes):
                    replies = await watch.execute(transaction, self._call.replicas if writes else 0)
        except Exception as error:
            if watch is not None:
                _count(core, error)
            number = transaction.refused_number(error)
            if number is not None:
                explain(error, number, sent[number - 1][0])
            raise
        return self._values(calls, replies)

    def _values(self, calls: Sequence["Call"], replies: list[Any]) -> list[Any]:
        """redis-py's values. A call with nothing to do, as `mget([])`, was not sent."""
        for index, (_, options) in enumerate(calls):
            if EMPTY_RESPONSE in options:
                replies.insert(index, options[EMPTY_RESPONSE])
        if len(replies) != len(calls):
            raise ResponseError("Wrong number of response items from pipeline execution")
        return [
            reply if isinstance(reply, Exception) or EMPTY_RESPONSE in options
            else self._core._value(reply, args, options)
            for reply, (args, options) in zip(replies, calls, strict=True)
        ]  # fmt: skip

    async def close(self) -> None:
        """Watch nothing any more. Safe to call again."""
        watch, self._watch, self._failure = self._watch, None, None
        if watch is not None:
            await watch.close()

    def _refuse_unwatched(self) -> None:
        if (failure := self._failure) is not None:
            raise WatchError(
                f"watch() failed ({type(failure).__name__}: {failure}); nothing was executed, begin anew"
            ) from failure


async def run_watched(
    make_pipeline: Callable[[bool, Any], Any],
    func: Callable[[Any], Any],
    watches: Sequence[Any],
    *,
    shard_hint: Any | None = None,
    value_from_callable: bool = False,
    watch_delay: float | None = None,
) -> Any:
    """`client.transaction`: watch the keys, call `func(pipe)`, execute; all again as long as a key changes.

    `func` may read through the pipe, then calls `pipe.multi()` and writes down what depends on it. It runs
    as often as it takes. Other errors than WatchError, OutcomeUnknown among them, end it.
    """
    async with make_pipeline(True, shard_hint) as pipe:
        while True:
            try:
                if watches:
                    await pipe.watch(*watches)
                value = func(pipe)
                if inspect.isawaitable(value) and value is not pipe:
                    value = await value
                results = await pipe.execute()
            except WatchError:
                await pipe.reset()
                await asyncio.sleep(watch_delay or 0)
            else:
                return value if value_from_callable else results


def raise_first(results: Sequence[Any], calls: Sequence["Call"]) -> None:
    """Raise the first error among the results, saying which command it is of."""
    for number, result in enumerate(results, 1):
        if isinstance(result, Exception):
            explain(result, number, calls[number - 1][0])
            raise result


def explain(error: Exception, number: int, args: tuple[Any, ...]) -> None:
    """Have the error say which command it is of, as redis-py does."""
    command = truncate_text(" ".join(map(safe_str, args)))  # type: ignore[no-untyped-call]  # redis-py
    error.args = (f"Command # {number} ({command}) of pipeline caused error: {error}", *error.args[1:])


# -- as redis-py's cluster pipeline --------------------------------------------------------------------------


class Pipeline(ClusterPipeline):
    """`client.pipeline()`, and `client.pipeline(transaction=True)`.

    Without `transaction` every command stands for itself, whatever its slot: its own redirects, its own
    deadline, its own result. Commands with the same key run in the order of the calls, unless the cluster
    changes under them: one that is refused for the moment (a failover, a moving slot) is tried again later,
    when one behind it may have run.

    A transaction has keys of one slot. The server runs all its commands with nothing between them, or none.
    A command that fails when it runs (WRONGTYPE) does not undo the others.
    """

    _event_dispatcher: Any = None  # redis-py's; nothing here announces events

    def __init__(
        self,
        client: "ClientCore",
        call: "CallOptions",
        transaction: bool | None = None,
        shard_hint: Any | None = None,
    ) -> None:
        if shard_hint:
            raise RedisClusterException("shard_hint is deprecated in cluster mode")
        self.cluster_client = cast("RedisPyCluster", client)
        self._transaction = transaction
        strategy = _AsTransaction if transaction else _EachAlone
        self._execution_strategy = strategy(self, client, call)

    def __repr__(self) -> str:
        kind = "transaction" if self._transaction else "pipeline"
        return f"<Pipeline {kind} of {len(self)} commands>"


class _EachAlone(PipelineStrategy):
    def __init__(self, pipe: Pipeline, core: "ClientCore", call: "CallOptions") -> None:
        super().__init__(pipe)
        self._core = core
        self._call = call
        self._command_queue: list[Call] = []  # type: ignore[assignment]  # redis-py's are objects

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self._command_queue.append((args, options))
        return self._pipe

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Redirects are always followed."""
        calls, self._command_queue = self._command_queue, []
        results = await run_each(self._core, calls, self._call) if calls else []
        if raise_on_error:
            raise_first(results, calls)
        return results

    async def unlink(self, *names: Any) -> Any:
        """Several slots: one command and result a slot."""
        return self._pipe._split_command_across_slots("UNLINK", *names)


class _AsTransaction(AbstractStrategy):
    """Commands after WATCH run at once, until `multi`; all others are written down for EXEC."""

    def __init__(self, pipe: Pipeline, core: "ClientCore", call: "CallOptions") -> None:
        super().__init__(pipe)
        self._core = core
        self._transactions = Transactions(core, call)
        self._explicit = False  # multi() has been called
        self._watched_slot = -1
        self._command_queue: list[Call] = []  # type: ignore[assignment]  # redis-py's are objects

    @property
    def _watching(self) -> bool:
        return self._transactions.watching

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if (self._watching or args[0] in ("WATCH", "UNWATCH")) and not self._explicit:
            return self._execute_now(args, options)
        if "target_nodes" in options:
            raise RedisClusterException(
                f"{args[0]} with target_nodes={options['target_nodes']!r} in a transaction: all of it goes "
                "to the owner of its keys' slot; leave target_nodes out"
            )
        self._command_queue.append((args, options))
        return self._pipe

    async def _execute_now(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if args[0] == "UNWATCH":
            await self._transactions.close()
            return True
        await self._core.initialize()
        slots = self._core._slots_of_keys(args)
        if len(slots) > 1:
            raise RedisClusterException(f"{args[0]} - all keys must map to the same key slot")
        slot = slots.pop() if slots else self._watched_slot
        if self._watching and not self._transactions.lost and slot != self._watched_slot:
            raise CrossSlotTransactionError("Cannot watch or send commands on different slots")
        if args[0] != "WATCH":
            return await self._transactions.send(args, options, slot)
        self._watched_slot = slot
        return await self._transactions.watch(args[1:], slot)

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Redirects are always followed, by the transaction as a whole."""
        calls, self._command_queue = self._command_queue, []
        if not calls and not self._watching:
            return []
        await self._core.initialize()
        slots = {slot for args, _ in calls for slot in self._core._slots_of_keys(args)}
        if self._watching:
            slots.add(self._watched_slot)
        if not slots:
            raise RedisClusterException("At least a command with a key is needed to identify a node")
        if len(slots) > 1:
            raise CrossSlotTransactionError(
                "All keys involved in a cluster transaction must map to the same slot"
            )
        results = await self._transactions.execute(calls, slots.pop())
        if raise_on_error:
            raise_first(results, calls)
        return results

    async def reset(self) -> None:
        self._command_queue = []
        self._explicit = False
        await self._transactions.close()

    async def discard(self) -> None:
        await self.reset()

    def multi(self) -> None:
        if self._explicit:
            raise RedisError("Cannot issue nested calls to MULTI")
        if self._command_queue:
            raise RedisError("Commands without an initial WATCH have already been issued")
        self._explicit = True

    async def watch(self, *names: Any) -> Any:
        if self._explicit:
            raise RedisError("Cannot issue a WATCH after a MULTI")
        return await self._execute_now(("WATCH", *names), {})

    async def unwatch(self) -> bool:
        await self._transactions.close()
        return True

    async def unlink(self, *names: Any) -> Any:
        return self.execute_command("UNLINK", *names)

    def mset_nonatomic(self, mapping: Any) -> "ClusterPipeline":
        raise NotImplementedError("Method is not supported in transactional context.")
