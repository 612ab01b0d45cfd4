"""`tradewind poison` as an operator runs it, beside a partition at work."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from tests.engine.partition_runs import KEYS, running
from tests.support.clients import check_idle
from tests.support.commands import run_command
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.embedded import EmbeddedCluster
from tradewind.engine import partition as partition_module
from tradewind.engine.messages import Deposit, encode
from tradewind.engine.opening import open_engine
from tradewind.engine.poison import POISON_MAX, count_poison
from tradewind.functions_path import function_library_source


@pytest.fixture
async def client(clean_cluster: EmbeddedCluster) -> AsyncIterator[RedisCluster]:
    client = RedisCluster.from_url(clean_cluster.url)
    await open_engine(client, KEYS.partition + 1)
    yield client
    await check_idle(client)
    await client.aclose()


async def poison(cluster: EmbeddedCluster, *words: str, code: int = 0) -> dict[str, object]:
    out, _ = await run_command(cluster, "poison", *words, "--json", code=code)
    return dict(json.loads(out or "{}"))


async def put_aside(client: RedisCluster, *commands: bytes) -> list[str]:
    return [
        f"{KEYS.partition}:{(await client.xadd(KEYS.poison, {'command': each, 'reason': 'a test'})).decode()}"
        for each in commands
    ]


async def test_a_command_that_was_put_aside_takes_effect_once_it_is_replayed(client, clean_cluster):
    async with running(client) as run:
        await run.fund("A1")
        deposit = encode(Deposit(account="A1", id="late", amount=5))
        (name,) = await put_aside(client, deposit)
        told = await poison(clean_cluster, "list")
        assert told == {
            "total": 1,
            "commands": [{"name": name, "reason": "a test", "command": deposit.decode()}],
        }
        balance = run.runner._book.accounts["A1"].balance
        assert await poison(clean_cluster, "replay", name) == {"replayed": 1, "missing": []}
        await eventually(lambda: run.runner._book.accounts["A1"].balance == balance + 5)
        assert await poison(clean_cluster, "replay", name, code=1) == {"replayed": 0, "missing": [name]}
        (again,) = await put_aside(client, deposit)
        await poison(clean_cluster, "replay", again)
        await run.ask(Deposit(account="A1", id="after", amount=1))
        assert run.runner._book.accounts["A1"].balance == balance + 6


async def test_what_is_dropped_is_gone_and_the_rest_stays(client, clean_cluster):
    first, _second, _third = await put_aside(client, b"{", b"[", b"?")
    assert await poison(clean_cluster, "drop", first) == {"dropped": 1, "missing": []}
    assert await count_poison(client, KEYS.partition) == 2
    await poison(clean_cluster, "drop", code=1)
    await poison(clean_cluster, "drop", "17", code=1)
    assert await poison(clean_cluster, "drop", "--all") == {"dropped": 2, "missing": []}


async def test_at_the_maximum_nothing_is_dropped_and_commands_wait_for_room(
    client, clean_cluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(partition_module, "POISON_FULL_RETRY_S", 0.05)
    async with running(client) as run:
        await run.fund("A1")
        async with client.pipeline(transaction=False) as pipe:
            for _ in range(POISON_MAX):
                pipe.xadd(KEYS.poison, {"command": b"?", "reason": "a test"})
            await pipe.execute()
        await client.xadd(KEYS.commands, {"command": b"unreadable"})
        reloads = run.runner.counts.reloads
        waiting = asyncio.create_task(run.ask(Deposit(account="A1", id="waits", amount=5)))
        await eventually(lambda: run.runner.counts.reloads > reloads + 1)
        assert not waiting.done()
        assert await count_poison(client, KEYS.partition) == POISON_MAX
        ((oldest, _),) = await client.xrange(KEYS.poison, count=1)
        await client.xdel(KEYS.poison, oldest)
        assert (await waiting).status == "done"
        assert await count_poison(client, KEYS.partition) == POISON_MAX


def test_the_maximum_is_the_functions_own():
    found = re.search(r"POISON_MAX = (\d+)", function_library_source("engine"))
    assert found is not None
    assert int(found[1]) == POISON_MAX
