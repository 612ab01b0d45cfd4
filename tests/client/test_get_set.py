"""GET and SET go by a way of their own: the same bytes, values and hooks as by the way of all commands."""

from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import DataError

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tradewind import RedisCluster
from tradewind.client.get_set import KEY_BYTES_MAX, VALUE_BYTES_MAX

KEYS = [
    "", "key", "kÄy", "{tag}key", "a\r\nb", b"bytes \xff",
    *("k" * (KEY_BYTES_MAX + more) for more in (-1, 0, 1)), "ü" * (KEY_BYTES_MAX // 2 + 1),
]  # fmt: skip
VALUES = [
    "", "text", "välue", "*1\r\n$4\r\nPING\r\n", b"bytes \xff", 17, -2.5,
    *("v" * (VALUE_BYTES_MAX + more) for more in (-1, 0, 1)), "ü" * (VALUE_BYTES_MAX // 2 + 1),
]  # fmt: skip


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_keys_and_values_of_every_kind_arrive_as_they_are(
    clean_cluster: EmbeddedCluster, make_client: MakeClient, decode: bool
) -> None:
    port = clean_cluster.nodes[0].port
    ours = make_client(port, decode_responses=decode)
    async with redis.asyncio.RedisCluster(host="127.0.0.1", port=port) as theirs:
        for key in KEYS:
            for value in VALUES:
                assert await ours.set(key, value) is True
                expected = theirs.encoder.encode(value)
                assert await theirs.get(key) == expected
                if not decode:
                    assert await ours.get(key) == expected
                elif value != b"bytes \xff":
                    assert await ours.get(key) == expected.decode()
                assert await ours.delete(key) == 1
                assert await ours.get(key) is None


async def test_what_has_no_bytes_is_refused(client: RedisCluster) -> None:
    nothing: Any = None
    with pytest.raises(DataError, match="bytes, str"):
        await client.set("key", nothing)
    with pytest.raises(DataError, match="bytes, str"):
        await client.get(nothing)


async def test_callbacks_that_were_set_are_asked(client: RedisCluster) -> None:
    await client.set("key", "value")
    client.set_response_callback("GET", lambda reply: ("got", reply))
    client.set_response_callback("SET", lambda reply: ("set", reply))
    assert await client.set("key", "other") == ("set", "OK")
    assert await client.get("key") == ("got", "other")


async def test_telemetry_that_comes_before_the_client_is_open_sees_them_too(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    client, seen = make_client(clean_cluster.nodes[0].port), []
    dispatch = client._dispatch

    def look(command: Any, *args: Any, **options: Any) -> None:
        seen.append(command.name)
        dispatch(command, *args, **options)

    client.intercept(_dispatch=look)
    await client.set("key", "value")
    await client.get("key")
    assert seen == ["SET", "GET"]
