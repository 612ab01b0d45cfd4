"""The function library on servers that do not take it."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from tradewind import RedisCluster
from tradewind.cli import explains_itself
from tradewind.engine.errors import FunctionsRefused
from tradewind.engine.opening import open_engine


async def test_a_server_without_functions_is_told_in_one_line(client, monkeypatch):
    ask = RedisCluster.execute_command

    async def old_server(self: RedisCluster, *words: Any, **options: Any) -> Any:
        if words[0] == "FUNCTION LOAD":
            raise ResponseError("unknown command 'FUNCTION', with args beginning with: 'LOAD'")
        return await ask(self, *words, **options)

    monkeypatch.setattr(RedisCluster, "execute_command", old_server)
    with pytest.raises(
        FunctionsRefused, match=r"unknown command 'FUNCTION'.* Redis 7\.0 or Valkey 7\.2"
    ) as caught:
        await open_engine(client)
    assert "\n" not in str(caught.value)
    assert explains_itself(caught.value)
