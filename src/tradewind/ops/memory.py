"""How full the servers are. At `maxmemory` they refuse writes, so a run ends in order before that."""

import asyncio

from tradewind import RedisCluster

MEMORY_SHARE_MAX = 0.9
ANSWER_S_MAX = 0.8


async def memory_share(client: RedisCluster) -> float:
    """The fullest server's share of its `maxmemory`; 0 without a limit. Silent servers are left out."""
    calls = client.with_options(timeout_s=ANSWER_S_MAX)
    answers = await asyncio.gather(
        *(calls.execute_command("INFO", "memory", target_nodes=[node]) for node in client.get_nodes()),
        return_exceptions=True,
    )
    shares = [
        answer["used_memory"] / answer["maxmemory"]
        for answer in answers
        if isinstance(answer, dict) and answer.get("maxmemory")
    ]
    return max(shares, default=0.0)
