"""What `RedisCluster` and `Redis` have in common: the way of a call, and what an open client holds.

redis-py provides the command methods and the reply callbacks; here a call becomes a `Command`, which the
router brings to its node. A short path serves commands with one key.
"""

import asyncio
import functools
import time
from abc import abstractmethod
from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Self

import hiredis
from redis.asyncio.connection import to_bool
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.crc import key_slot
from redis.exceptions import DataError, ResponseError

from tradewind.client.blocking import BlockingCall, blocking_call, run_blocking
from tradewind.client.cache import MISSING, CacheOptions
from tradewind.client.caching import ReadCaching
from tradewind.client.calls import DEFAULT_CALL, CallOptions, OffersViews
from tradewind.client.catalog import CONNECTION_STATE_COMMANDS, Catalog, CommandSpec, word
from tradewind.client.command import Command
from tradewind.client.commit import Committer
from tradewind.client.credentials import CredentialStream
from tradewind.client.errors import ClientClosed, SharedConnectionError
from tradewind.client.forked import let_go_in_children
from tradewind.client.get_set import GetAndSet, get_exactly
from tradewind.client.making import CommandMaker
from tradewind.client.node import Node
from tradewind.client.opening import Opening, start
from tradewind.client.policy import Limits, RetryPolicy
from tradewind.client.read_routing import ReadRouting
from tradewind.client.replica_reads import ReadFrom
from tradewind.client.router import Router
from tradewind.client.settings import connection_settings, timeouts, whole_number
from tradewind.client.stats import ClientStats
from tradewind.client.subscription import MessageHandler, ShardedSubscription
from tradewind.client.topology import SLOT_COUNT
from tradewind.client.unheard import SendsUnheard

if TYPE_CHECKING:
    from tradewind.client.telemetry import Telemetry

# Of redis-py's arguments, whatever its release: 7 has neither a deadline nor a cap, nor looks for dead peers.
OWN_DEFAULTS: Mapping[str, Any] = {"socket_timeout": 5, "max_connections": 100, "socket_keepalive": True}
SLOTS_CACHED_MAX = 4096
ONE_SLOT = 0  # of a single server, where any would do
BRACE = ord("{")  # looked for as a number: as bytes that takes eight times as long
NOT_ON_THE_SHORT_PATH = frozenset({"target_nodes", NEVER_DECODE})
new_command = Command.__new__
monotonic = time.monotonic  # the look-up in the module would take 5 ns, of which the hot path has many


class ClientCore(GetAndSet, OffersViews, SendsUnheard):
    """The part of a client that redis-py's classes do not have. Not thread safe; one event loop.

    Ordering: commands that one task awaits one after the other run in that order. Commands of concurrent
    callers have no order among each other. Errors: see `tradewind.client.errors`.
    """

    _takes_short_ways = True
    _has_slots = True  # the key says to which node a command goes
    _connection_state_commands = CONNECTION_STATE_COMMANDS

    response_callbacks: dict[str, Any]
    encoder: Any
    _event_dispatcher: Any

    def _set_up(
        self,
        connection_kwargs: dict[str, Any],
        *,
        lanes: int,
        in_flight_max: int,
        in_flight_bytes_max: int,
        retry: RetryPolicy,
        slow_command_s: float | None,
        connection_age_s_max: float | None,
        telemetry: "Telemetry | bool | None",
        read_from: ReadFrom = "primary",
        read_your_writes: bool = True,
        cache: CacheOptions | None = None,
    ) -> None:
        """The rest of a constructor: `connection_kwargs` are what redis-py's has made of its arguments."""
        self._limits = Limits(
            connections_max=whole_number("max_connections", connection_kwargs["max_connections"]),
            lanes_max=whole_number("lanes", lanes),
            in_flight_max=whole_number("in_flight_max", in_flight_max),
            in_flight_bytes_max=whole_number("in_flight_bytes_max", in_flight_bytes_max),
        )
        self._timeouts = timeouts(connection_kwargs, slow_command_s)
        self._timeout_s = self._timeouts.command_s
        self._settings = connection_settings(connection_kwargs, connection_age_s_max)
        self._retry_policy = retry
        self._make = CommandMaker(self.encoder, timeout_s=self._timeout_s, read_from=read_from)
        self._read_your_writes = bool(to_bool(read_your_writes))
        self._chooses_reads = read_from != "primary"  # or a view does
        self._cache_options = cache
        self._initialize = True
        self._has_slots = type(self)._has_slots  # an object's own is found 15 ns sooner
        self._router: Router | None = None
        self._hot_router: Router | None = None  # for GET and SET without options; None where they need more
        self._catalog = Catalog()
        self._short_path: dict[str, tuple[int, bool]] = {}
        self._committers: dict[tuple[int, int], Committer] = {}
        self._subscriptions: list[ShardedSubscription] = []
        self._opening = Opening(self._open)
        self._credentials = CredentialStream(
            self._settings.credential_provider, self._event_dispatcher, self._reauthenticate
        )
        let_go_in_children(self)
        if to_bool(telemetry):
            from tradewind.client.telemetry import Telemetry  # not at the top: it needs an extra

            (telemetry if isinstance(telemetry, Telemetry) else Telemetry()).watch(self)
        if cache is not None:
            self._keep_replies()

    # -- what differs between a cluster and one server -------------------------------------------------------

    @abstractmethod
    def _make_router(self) -> Router:
        """A router that has not been started."""

    @abstractmethod
    async def execute_call(self, args: tuple[Any, ...], options: dict[str, Any], call: CallOptions) -> Any:
        """`execute_command` for every kind of command, with the options of one call."""

    @abstractmethod
    def _slot_of_call(self, spec: CommandSpec, args: tuple[Any, ...]) -> int | None:
        """The slot by which the command finds its node; None if it goes another way."""

    @abstractmethod
    def _slots_of_keys(self, args: tuple[Any, ...]) -> set[int]:
        """The slots of the command's keys; a transaction has one."""

    # -- life cycle ------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self.initialize().__await__()

    async def initialize(self, *_args: Any, **_kwargs: Any) -> Self:
        """Wait until every slot is served, at most `socket_connect_timeout`; `await client` does the same.

        Raises ClusterNotReady with each node's own reason (refused, wrong password, TLS, timeout).
        """
        if self._initialize:
            await self._opening.wait()
        return self

    async def _open(self) -> None:
        router = self._make_router()
        self._credentials.listen()
        deadline_s = time.monotonic() + self._timeouts.connect_s
        # Keys matter in a cluster alone, and there redis-py's client too must be told the commands.
        specs = await start(router, deadline_s, needs_catalog=not self._catalog, needs_keys=self._has_slots)
        if specs:
            self._learn_commands(Catalog(specs))
        self._router = router
        # Kept, also for the maker: looking it up costs a getpid().
        self._create_future = self._make.create_future = asyncio.get_running_loop().create_future
        inherits = type(self).execute_command is ClientCore.execute_command
        if inherits and self._takes_short_ways and self._make.is_utf8():
            self._hot_router = router
        self._ok = b"OK" if self._settings.encoding is None else "OK"
        if self._chooses_reads:
            self._choose_reads()
        if self._cache_options is not None:
            self._keep_replies()
        self._initialize = False

    def _reauthenticate(self, credentials: tuple[str, ...]) -> None:
        if self._router is not None:
            self._router.nodes.reauthenticate(credentials)

    def _choose_reads(self) -> None:
        self._chooses_reads = True
        self._leave_short_ways()
        if self._router is not None and self._router.reads is None:
            self._router.reads = ReadRouting(self._router, read_your_writes=self._read_your_writes)

    def _keep_replies(self) -> None:
        if self._settings.protocol != 3:
            raise DataError("servers tell what has changed in RESP3 only: pass protocol=3 to cache replies")
        if self._cache_options is None:
            self._cache_options = CacheOptions()
        self._leave_short_ways()
        if self._router is not None and self._router.caching is None:
            encode, encoding = self._make.encode, self._settings.encoding
            self._router.caching = ReadCaching(self._router, self._cache_options, encode, encoding)

    def _learn_commands(self, catalog: Catalog) -> None:
        self._catalog = catalog
        if self._make.is_utf8():  # the short path leaves the encoding to hiredis, which knows one
            self._short_path = catalog.short_path()

    async def aclose(self) -> None:
        """Close every connection. Callers who still wait are told; the client may be used again after it."""
        router, self._router, self._hot_router, self._initialize = self._router, None, None, True
        subscriptions = list(self._subscriptions)
        self._committers.clear()
        if router is not None:
            router.close()
        await self._opening.cancel()
        for subscription in subscriptions:
            await subscription.aclose()
        if router is not None:
            await router.aclose()

    def let_go(self) -> object:
        """In a forked child: what is open is the parent's; the next call opens connections of its own."""
        parents = self._router, self._opening.let_go(), list(self._subscriptions)
        self._router = self._hot_router = None
        self._initialize = True
        self._committers.clear()
        self._subscriptions.clear()
        return parents

    # -- commands --------------------------------------------------------------------------------------------

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command on the node that owns its key, or on `target_nodes`.

        Reads are repeated until the deadline when a reply is lost. Writes are sent again only when they
        provably did not run; otherwise OutcomeUnknown is raised. See `tradewind.client.errors` for the errors
        and their causes.
        """
        if self._initialize:
            await self.initialize()
        short = self._short_path.get(args[0])
        if short is None or (options and (len(options) > 1 or "keys" not in options)):
            return await self.execute_call(args, options, DEFAULT_CALL)
        first_key, repeatable = short
        future = None
        if first_key < len(args):
            future = self._send(self._need_router(), args, args[first_key], repeatable)
        if future is None:
            return await self.execute_call(args, options, DEFAULT_CALL)
        reply = await future
        callback = get_exactly(self.response_callbacks, args[0])
        return reply if callback is None else callback(reply)

    def short_command(self, args: tuple[Any, ...], options: dict[str, Any], future: Any) -> Command | None:
        """What `execute_command` would send by the short path, for another kind of future, in any thread.

        None for what needs the long path, or before the client is open. Then `begin` it, in the loop.
        """
        short = self._short_path.get(args[0]) if self._takes_short_ways else None
        if short is None or (options and (len(options) > 1 or "keys" not in options)):
            return None
        first_key, repeatable = short
        try:
            packed = hiredis.pack_command(args)
            slot = key_slot(self._make.encode(args[first_key])) if self._has_slots else ONE_SLOT
        except (TypeError, IndexError):
            return None
        now_s = time.monotonic()
        return Command(args[0], packed, future, slot, repeatable, now_s, now_s + self._timeout_s)

    def begin(self, command: Command) -> None:
        """Send a command that `short_command` has made."""
        router = self._router
        if router is None:  # closed between the two
            command.fail(ClientClosed("the client is closed"))
        else:
            router.commands += 1
            router.dispatch(command)

    def deadline_s(self) -> float:
        """Of a call that is made now."""
        return time.monotonic() + self._timeout_s

    def _send(
        self, router: Router, args: tuple[Any, ...], key: Any, repeatable: bool
    ) -> "asyncio.Future[Any] | None":
        """One key, default options. None, and nothing is sent, for what the long path can explain better."""
        try:
            packed = hiredis.pack_command(args)
            data = key.encode() if type(key) is str else self._make.encode(key)
        except TypeError:
            return None
        return self._send_packed(router, args[0], packed, data, repeatable)

    def _send_packed(
        self, router: Router, name: str, packed: bytes, key: bytes, repeatable: bool
    ) -> "asyncio.Future[Any]":
        """The hot path, from a command's bytes to its lane."""
        if self._has_slots:
            slot = key_slot(key) if BRACE in key else crc_hqx(key, 0) % SLOT_COUNT
        else:
            slot = ONE_SLOT
        # As Command(...), whose __init__ would take 60 ns longer.
        command = new_command(Command)
        command.name = name
        command.packed = packed
        create_future = self._create_future  # a method that hangs on an object is called 15 ns sooner so
        command.future = future = create_future()
        command.slot = slot
        command.repeatable = repeatable
        command.created_s = now_s = monotonic()
        command.deadline = now_s + self._timeout_s
        router.commands += 1
        node = router.nodes.owners[slot]
        if node is None:
            router.park(command)
        else:
            node.submit_plain(command)
        if router.watchdog.timer is None:
            router.watchdog.start()
        return future

    def _send_in_sight(
        self, router: Router, args: tuple[Any, ...], key: Any, repeatable: bool
    ) -> "asyncio.Future[Any] | None":
        """`_send`, without its short way past `_dispatch`."""
        spec = self._spec(args)
        if (slot := self._slot_of_call(spec, args)) is None:
            return None
        command = self._make.command(spec, args, slot, {}, DEFAULT_CALL)
        ttl_s = None if router.caching is None else router.caching.ttl_s(command, spec, args)
        if ttl_s is not None:
            if (reply := self._kept(args, ttl_s)) is MISSING:
                return None
            command.future.set_result(reply)
            return command.future
        self._dispatch(command, DEFAULT_CALL, writes=spec.writes)
        return command.future

    def _kept(self, args: tuple[Any, ...], ttl_s: float) -> Any:
        """A reply from memory that is not older, or MISSING."""
        caching = None if self._router is None else self._router.caching
        spec = self._catalog.get(args[0])
        if caching is None or spec is None or not spec.cacheable:
            return MISSING
        return caching.cache.lookup(self._make.pack(args), ttl_s, time.monotonic())

    def _leave_short_ways(self) -> None:
        """Have every command pass `_dispatch` or `_block`. Clients that need neither pay nothing for it."""
        self._takes_short_ways = False
        self._hot_router = None
        self._send = self._send_in_sight  # type: ignore[method-assign]  # on this object alone

    def _spec(self, args: tuple[Any, ...]) -> CommandSpec:
        """What is known of the command. Raises SharedConnectionError for what must not share a connection."""
        spec = self._catalog.look_up(args)
        refused = self._connection_state_commands
        hint = refused.get(spec.name) or refused.get(word(args[0]))
        if hint is None and spec.name not in self._catalog:  # the server lists it not, or not to this user
            words = [*word(args[0]).split(), *map(word, args[1:2])]
            hint = refused.get(words[0]) or refused.get(" ".join(words[:2])) if words else None
        if hint is not None:
            raise SharedConnectionError(
                f"{spec.name} is not possible on a connection that many callers share: {hint}"
            )
        return spec

    async def _run(
        self,
        spec: CommandSpec,
        args: tuple[Any, ...],
        slot: int,
        node: Node | None,
        options: dict[str, Any],
        call: CallOptions,
    ) -> Any:
        """Send to one place and give back redis-py's value for the reply."""
        blocking = blocking_call(spec, args)
        if call.replicas and spec.writes and (blocking is not None or node is not None):
            why = "blocks" if blocking is not None else "has no key"
            raise DataError(f"{spec.name} {why}, so it cannot be durable: call it on the client itself")
        command = self._make.command(spec, args, slot, options, call)
        command.pinned = node
        caching = self._need_router().caching
        ttl_s = None if caching is None else caching.ttl_s(command, spec, args, call.cache_ttl_s)
        if caching is not None and ttl_s is not None:
            send = functools.partial(self._dispatch, call=call, writes=False)
            return await self._value_of(caching.read(command, spec, args, ttl_s, send), args, options)
        if blocking is None:
            self._dispatch(command, call, writes=spec.writes)
            return await self._value_of(command.future, args, options)
        command.deadline = command.created_s + blocking.seconds + self._timeouts.blocking_margin_s
        router = self._need_router()
        router.commands += 1
        with router.news.writing(slot, writes=spec.writes):
            return await self._value_of(self._block(command, blocking), args, options)

    def _dispatch(self, command: Command, call: CallOptions, *, writes: bool) -> None:
        """Send a command on its way: a write of a durable view in a batch."""
        router = self._need_router()
        router.commands += 1
        if writes and router.news.listeners:
            router.news.note(command.slot, command.future)
        (self._committer(call) if call.replicas and writes else router).dispatch(command)

    async def _block(self, command: Command, blocking: BlockingCall) -> Any:
        """Run a blocking command on a connection of its own, and give back the reply."""
        return await run_blocking(self._need_router(), command, blocking, self._make.pack)

    def intercept(self, **ways: Callable[..., Any]) -> None:
        """For telemetry: in place of `_dispatch` and `_block`, one of which every command then passes."""
        self._leave_short_ways()
        vars(self).update(ways)

    async def _value_of(self, reply: Awaitable[Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Wait for a command's reply, and give redis-py's value for it."""
        empty = options.pop(EMPTY_RESPONSE, None)
        try:
            return self._value(await reply, args, options)
        except ResponseError:
            if empty is None:
                raise
            return empty

    def _value(self, reply: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """redis-py's value for a command's reply."""
        options.pop("keys", None)  # for redis-py's cache
        name = self._catalog.name_of(args[0])
        callback = get_exactly(self.response_callbacks, name)
        return reply if callback is None else callback(reply, **options)

    def _start_call(
        self, args: tuple[Any, ...], options: dict[str, Any], call: CallOptions
    ) -> "asyncio.Future[Any] | None":
        """Send a command that goes to one place, without a task for it; see `_value_of` for the reply.

        None, and nothing is sent, for what only `execute_call` can do. The client must be initialized.
        """
        short = self._short_path.get(args[0])
        is_plain = call is DEFAULT_CALL and (not options or options.keys().isdisjoint(NOT_ON_THE_SHORT_PATH))
        if is_plain and short is not None and short[0] < len(args):
            future = self._send(self._need_router(), args, args[short[0]], short[1])
            if future is not None:
                return future
        spec = self._spec(args)
        if spec.blocking or "target_nodes" in options:
            return None
        slot = self._slot_of_call(spec, args)
        if slot is None:
            return None
        command = self._make.command(spec, args, slot, options, call)
        self._dispatch(command, call, writes=spec.writes)
        return command.future

    def _slot_of_key(self, key: Any) -> int:
        return cached_slot(self._make.encode(key)) if self._has_slots else ONE_SLOT

    def _need_router(self) -> Router:
        if self._router is None:
            raise ClientClosed("the client is closed")
        return self._router

    # -- more --------------------------------------------------------------------------------------

    def _committer(self, call: CallOptions) -> Committer:
        key = (call.replicas, call.durable_lanes)
        committer = self._committers.get(key)
        if committer is None:
            committer = self._committers[key] = Committer(self._need_router(), *key)
        return committer

    async def sharded_subscription(self, on_message: MessageHandler) -> ShardedSubscription:
        """Receive sharded pub/sub messages by callback; takes one dedicated connection per node it needs."""
        await self.initialize()
        subscription = ShardedSubscription(self._need_router(), on_message, self._subscriptions.remove)
        self._subscriptions.append(subscription)
        return subscription

    def stats(self) -> ClientStats:
        """What the client holds and has done, as one frozen object; empty before the first command."""
        if self._router is None:
            return ClientStats()
        return self._router.stats()

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<{type(self).__name__} nodes={len(stats.nodes)} connections={sum(stats.connections.values())} "
            f"in_flight={stats.in_flight} waiting={stats.waiting}>"
        )


# Calls with several keys mostly name the same ones again: those of a partition, a group, a user.
cached_slot = functools.lru_cache(maxsize=SLOTS_CACHED_MAX)(key_slot)
