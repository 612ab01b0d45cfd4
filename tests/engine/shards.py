"""All that a partition's server holds, byte for byte."""

from tradewind import RedisCluster
from tradewind.engine.keys import PartitionKeys

Content = dict[bytes, tuple[bytes, int]]


async def content(client: RedisCluster, keys: PartitionKeys) -> Content:
    """Every key of the partition's primary: its dump and when it expires."""
    node = client.get_node_from_key(keys.owner)
    assert node is not None
    names = await client.execute_command("KEYS", "*", target_nodes=node)
    return {
        name: (await client.execute_command("DUMP", name), await client.execute_command("PEXPIRETIME", name))
        for name in names
    }
