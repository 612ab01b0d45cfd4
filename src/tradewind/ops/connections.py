"""How many connections each server has, by its own count, sampled while a run goes on."""

import asyncio
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from tradewind import RedisCluster

PER_NODE_MAX = 250
"""What the whole system may hold on one node with the default 50 workers and 64 partitions."""

PER_WORKER = 3
"""On each node: a lane, one for durable batches, one for quotes. Each partition takes one more to be read."""

OWN_MAX = 16
"""This process on each node: lanes, answers, administration, and the client's reserve."""

ANSWER_S_MAX = 0.8


def limit_per_node(workers: int, partitions: int) -> int:
    """The budget of one node. After failovers one node may own every partition."""
    return max(PER_NODE_MAX, workers * PER_WORKER + partitions + OWN_MAX)


@dataclass
class ConnectionCounts:
    """Maxima of all samples. `now` has the last one by node; a node that did not answer is left out."""

    per_node_max: int = 0
    total_max: int = 0
    now: dict[str, int] = field(default_factory=dict)

    async def sample(self, client: RedisCluster) -> None:
        nodes = client.get_nodes()
        calls = client.with_options(timeout_s=ANSWER_S_MAX)
        answers = await asyncio.gather(
            *(calls.execute_command("INFO", "clients", target_nodes=[node]) for node in nodes),
            return_exceptions=True,
        )
        self.now = {}
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, RedisError | OSError):
                continue
            if isinstance(answer, BaseException):
                raise answer
            self.now[node.name] = int(answer["connected_clients"])
        self.per_node_max = max(self.per_node_max, *self.now.values(), 0)
        self.total_max = max(self.total_max, sum(self.now.values()))
