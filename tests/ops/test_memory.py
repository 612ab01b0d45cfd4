"""How full the servers are, by their own word."""

from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.embedded.survey import Admin
from tradewind.ops.memory import memory_share


async def test_the_share_is_that_of_the_fullest_server(own_cluster: EmbeddedCluster) -> None:
    async with RedisCluster.from_url(own_cluster.url) as client:
        assert 0 < await memory_share(client) < 0.1
        async with Admin(own_cluster.nodes[1].port) as admin:
            used = int((await admin.ask("INFO", "memory"))["used_memory"])
            await admin.ask("CONFIG", "SET", "maxmemory", used * 2)
        assert 0.4 < await memory_share(client) < 0.7
