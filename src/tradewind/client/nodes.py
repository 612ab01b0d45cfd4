"""The nodes that a client knows, and which of them owns which slot."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from redis.exceptions import ConnectionError as RedisConnectionError

from tradewind.client.command import pack
from tradewind.client.node import Node
from tradewind.client.topology import SLOT_COUNT, Endpoint, SlotMap

ASKED_MAX = 6  # nodes asked in one refresh, besides the original endpoints
DEMOTED_GRACE_S = 1.0  # a demoted node tells who blocks there; after that they are told by us


class Nodes:
    """The registry of nodes, by address and by slot. Owns them: makes, names, demotes, forgets, closes them.

    `seeds`: the endpoints that the client was given, kept for ever as the last resort. `asks_only_seeds`:
    no others are asked for the slot map. `seed_names`: what the user called them, for TLS. `on_map`: who
    hears of every map that is installed.
    """

    def __init__(
        self,
        seeds: Iterable[Endpoint],
        *,
        make_node: Callable[[Endpoint], Node],
        seed_names: Mapping[Endpoint, str],
        asks_only_seeds: bool,
        on_map: Callable[[SlotMap], None],
        rng: random.Random,
    ) -> None:
        self.seeds = tuple(dict.fromkeys(seeds))
        self.slot_map = SlotMap(())
        self.owners: list[Node | None] = [None] * SLOT_COUNT  # by slot; a new list with each map
        self.by_endpoint: dict[Endpoint, Node] = {}
        self.on_map = [on_map]
        self._make_node = make_node
        self._seed_names = seed_names
        self._asks_only_seeds = asks_only_seeds
        self._rng = rng
        self._demotions: dict[Node, asyncio.TimerHandle] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self.by_endpoint.values())

    def at(self, endpoint: Endpoint) -> Node:
        """The node at an address, made when it is first heard of. Dials nothing."""
        node = self.by_endpoint.get(endpoint)
        if node is None:
            node = self.by_endpoint[endpoint] = self._make_node(endpoint)
            node.announced_name = self._announced_name(endpoint)
        return node

    def _announced_name(self, endpoint: Endpoint) -> str | None:
        return self.slot_map.names.get(endpoint) or self._seed_names.get(endpoint)

    # -- which one -------------------------------------------------------------------------------------------

    def primaries(self) -> list[Node]:
        """Nodes that own slots, each once."""
        return list(dict.fromkeys(node for node in self.owners if node is not None))

    def replicas_of(self, primary: Node) -> list[Node]:
        """Of its slots, as the map says."""
        ranges = [item for item in self.slot_map.ranges if item.primary == primary.endpoint]
        replicas = [self.at(one) for one in dict.fromkeys(one for item in ranges for one in item.replicas)]
        for replica in replicas:
            replica.role = "replica"
        return replicas

    def reachable(self, preferred: Node | None) -> Node:
        """For what any node can do: the preferred one while it answers, else another that does."""
        known = [node for node in self if node.role != "unknown" and not node.dialer.is_failing]
        connected = [node for node in known if node.connected]
        candidates = connected or known or list(self)
        return preferred if preferred in candidates else self._rng.choice(candidates)

    def to_ask(self) -> list[Node]:
        """Known nodes in random order, connected and answering ones first, then the original endpoints."""
        if self._asks_only_seeds:
            return [self.at(seed) for seed in self.seeds]
        now_s = time.monotonic()
        known = [
            self.by_endpoint[endpoint]
            for endpoint, _ in self.slot_map.endpoints()
            if endpoint in self.by_endpoint
        ]
        self._rng.shuffle(known)
        known.sort(key=lambda node: (node.deadlines.is_silent(now_s), not node.connected))
        return list(dict.fromkeys((*known[:ASKED_MAX], *(self.at(seed) for seed in self.seeds))))

    # -- a new map -------------------------------------------------------------------------------------------

    def install(self, slot_map: SlotMap) -> None:
        """From now on this map holds. What waits at a node that has lost its slot still has to be moved."""
        owners: list[Node | None] = [None] * SLOT_COUNT
        for item in slot_map.ranges:
            owners[item.first : item.last + 1] = [self.at(item.primary)] * (item.last - item.first + 1)
        roles = dict(slot_map.endpoints())
        self.slot_map, self.owners = slot_map, owners
        for endpoint, node in self.by_endpoint.items():
            node.announced_name = self._announced_name(endpoint)
        for listener in tuple(self.on_map):
            listener(slot_map)
        self._settle(roles)

    def _settle(self, roles: dict[Endpoint, bool]) -> None:
        """Set roles; give up silent connections to demoted nodes, and in a while those that somebody has for
        himself at demoted or lost nodes; forget nodes that are gone and empty.
        """
        now_s = time.monotonic()
        for endpoint, node in list(self.by_endpoint.items()):
            before = node.role
            node.role = "primary" if roles.get(endpoint) else "replica" if endpoint in roles else "unknown"
            if node.role == "primary":
                continue
            if before == "primary" or before != node.role == "unknown":
                self._demoted(node)
            if node.deadlines.is_silent(now_s):
                node.drop_connections(
                    RedisConnectionError(f"{node.name}: silent, and it owns no slots any more")
                )
            if endpoint not in roles and endpoint not in self.seeds and not node.busy:
                del self.by_endpoint[endpoint]
                node.forget()

    def _demoted(self, node: Node) -> None:
        """If it still is so in a while: the map that said so may have been a stale node's."""
        if node not in self._demotions:
            loop = asyncio.get_running_loop()
            self._demotions[node] = loop.call_later(DEMOTED_GRACE_S, self._settle_demotion, node)

    def _settle_demotion(self, node: Node) -> None:
        del self._demotions[node]
        if node.role != "primary":
            node.on_demoted()

    # -- all of them -----------------------------------------------------------------------------------------

    def reauthenticate(self, credentials: tuple[str, ...]) -> None:
        """Open connections take these credentials in line; new ones ask the provider themselves."""
        auth = pack(("AUTH", *credentials))
        for node in self:
            node.upkeep.reauthenticate(auth)

    def close(self) -> None:
        """Close every connection, at once."""
        for timer in self._demotions.values():
            timer.cancel()
        for node in self:
            node.forget("the client is closed")

    async def aclose(self) -> None:
        """Close every connection, tell everyone who waits at a node, and know none any more."""
        await asyncio.gather(*(node.aclose() for node in self))
        self._demotions.clear()
        self.by_endpoint.clear()
        self.owners = [None] * SLOT_COUNT
