"""The cluster of the scripted servers: who owns what, and what changes that."""

import random

from tests.simulation.clock_loop import Outside
from tests.simulation.ledger import Ledger
from tests.simulation.server import SLOT_COUNT, ScriptedServer
from tests.simulation.server_commands import ServerCommands

GOSSIP_S_MAX = 0.6  # until everybody who is reachable knows of a change


class ScriptedCluster:
    """Shards of one primary and its replicas. The slots are cut into a few ranges, which move as a whole."""

    def __init__(
        self, outside: Outside, dice: random.Random, *, shards: int, replicas: int, ranges_per_shard: int
    ) -> None:
        self.outside = outside
        self.ledger = Ledger(lambda: outside.now_s)
        self.commands = ServerCommands(self.ledger, dice, lambda: outside.now_s)
        self.hides_own_host = dice.random() < 0.2
        self.moved_permille: dict[int, int] = {}
        self._dice = dice
        self._range_count = shards * ranges_per_shard
        self._epoch = 1
        self.servers = [
            ScriptedServer(self, number + 1, number % shards, dice)
            for number in range(shards * (1 + replicas))
        ]
        self.owners = [self.servers[index % shards] for index in range(self._range_count)]
        for server in self.servers:
            server.view = [(1, owner) for owner in self.owners]
            server.replicas_answer = replicas

    def index_of(self, slot: int) -> int:
        return slot * self._range_count // SLOT_COUNT

    def bounds(self, index: int) -> tuple[int, int]:
        def first(i: int) -> int:
            return -(-i * SLOT_COUNT // self._range_count)

        return first(index), first(index + 1) - 1

    def shard(self, server: ScriptedServer) -> list[ScriptedServer]:
        return [other for other in self.servers if other.shard == server.shard]

    # -- changes ---------------------------------------------------------------------------------------------

    def _give(self, index: int, owner: ScriptedServer, first: ScriptedServer) -> None:
        """The range has a new owner; `first` knows at once, the others by gossip."""
        self._epoch += 1
        self.owners[index] = owner
        self.moved_permille.pop(index, None)
        for server in self.servers:
            delay_s = 0.0 if server in (owner, first) else self._dice.uniform(0, GOSSIP_S_MAX)
            self.outside.after(delay_s, server.learn, index, self._epoch, owner)

    def fail_over(self, primary: ScriptedServer) -> bool:
        """A replica that is there takes the primary's place. A primary that lives learns it by gossip."""
        ranges = [index for index, owner in enumerate(self.owners) if owner is primary]
        candidates = [
            server
            for server in self.shard(primary)
            if server is not primary and not server.down and server.reachable_s <= self.outside.now_s
        ]
        if not ranges or not candidates:
            return False
        heir = self._dice.choice(candidates)
        self.ledger.note("fault %s takes over from %s", heir, primary)
        for index in ranges:
            self._give(index, heir, heir)
        return True

    def start(self, server: ScriptedServer, loading_s: float) -> None:
        """The process starts, loads its data, and hears what has happened meanwhile."""
        server.down = False
        server.loading_until_s = self.outside.now_s + loading_s
        self.tell_news(server)

    def tell_news(self, server: ScriptedServer) -> None:
        """Who owns what, by gossip, to a server that could not be reached."""
        for index, owner in enumerate(self.owners):
            delay_s = self._dice.uniform(0, GOSSIP_S_MAX)
            self.outside.after(delay_s, server.learn, index, self._epoch, owner)

    def begin_migration(self, index: int, target: ScriptedServer, duration_s: float) -> None:
        """Keys leave one by one; at the end the range belongs to the target."""
        source = self.owners[index]
        if index in self.moved_permille or target is source:
            return
        self.ledger.note("fault range %d migrates from %s to %s in %.2f s", index, source, target, duration_s)
        self.moved_permille[index] = 0
        source.migrating[index], target.importing[index] = target, source
        for step in range(1, 11):
            self.outside.after(duration_s * step / 11, self._move_more, index, source, step * 100)
        self.outside.after(duration_s, self._end_migration, index, source, target)

    def _move_more(self, index: int, source: ScriptedServer, permille: int) -> None:
        if self.owners[index] is source and index in self.moved_permille:
            self.moved_permille[index] = permille

    def _end_migration(self, index: int, source: ScriptedServer, target: ScriptedServer) -> None:
        if self.owners[index] is not source or index not in self.moved_permille:
            return  # a failover came between
        if target.down or source.down:
            source.migrating.pop(index, None)
            target.importing.pop(index, None)
            self.moved_permille.pop(index)
            return
        self._give(index, target, source)
