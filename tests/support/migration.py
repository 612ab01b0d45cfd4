"""A slot that moves from one primary to another, step by step."""

from redis.crc import key_slot

from tests.conftest import EmbeddedCluster
from tradewind.embedded.survey import Admin

TAG = "moving"  # the keys {moving}:...


class Migration:
    """One slot on its way from its owner to another primary."""

    def __init__(
        self, slot: int, source: int, target: int, primaries: list[int], ids: dict[int, str]
    ) -> None:
        self.slot = slot
        self.source, self.target = source, target
        self._primaries, self._ids = primaries, ids

    @staticmethod
    async def plan(cluster: EmbeddedCluster, key: str = TAG) -> "Migration":
        """The slot of `key`, to another primary than its own."""
        primaries = [port for port, role in (await cluster.roles()).items() if role == "primary"]
        ids = {}
        for port in primaries:
            async with Admin(port) as admin:
                ids[port] = await admin.ask("CLUSTER", "MYID")
        source = (await cluster.primary_of(key)).port
        target = next(port for port in primaries if port != source)
        return Migration(key_slot(key.encode()), source, target, primaries, ids)

    async def begin(self) -> None:
        async with Admin(self.target) as admin:
            await admin.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._ids[self.source])
        async with Admin(self.source) as admin:
            await admin.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._ids[self.target])

    async def move_keys(self, count: int) -> int:
        """Returns how many were there to be moved."""
        async with Admin(self.source) as admin:
            keys = await admin.ask("CLUSTER", "GETKEYSINSLOT", self.slot, count)
            if keys:
                await admin.ask("MIGRATE", "127.0.0.1", self.target, "", 0, 1000, "KEYS", *keys)
            return len(keys)

    async def finish(self) -> None:
        while await self.move_keys(100):
            pass
        for port in (self.target, self.source, *self._primaries):
            async with Admin(port) as admin:
                await admin.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self._ids[self.target])

    async def back(self) -> "Migration":
        return Migration(self.slot, self.target, self.source, self._primaries, self._ids)
