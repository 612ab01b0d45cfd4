"""What is refused before it reaches the engine leaves no trace in the cluster."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode

from tests.api.conftest import PARTITIONS, Api
from tradewind import RedisCluster
from tradewind.api.keys import API_KEYS_KEY
from tradewind.api.openapi import document
from tradewind.engine.keys import PartitionKeys

malformed: Any = schemathesis.openapi.from_dict(document())
malformed.config.generation.update(modes=[GenerationMode.NEGATIVE], with_security_parameters=False)
anything: Any = schemathesis.openapi.from_dict(document())
generated = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


async def state_of(api: Api) -> list[object]:
    """Of all partitions: the streams' last ids and lengths, the accounts; and the keys of the API."""
    async with RedisCluster.from_url(api.cluster.url) as client:
        found: list[object] = [await client.hgetall(API_KEYS_KEY)]
        for keys in map(PartitionKeys, range(PARTITIONS)):
            for stream in (keys.commands, keys.events, keys.poison):
                last = await client.execute_command("XREVRANGE", stream, "+", "-", "COUNT", 1)
                found.append((stream, await client.xlen(stream), last))
            found.append(sorted(await client.execute_command("SMEMBERS", keys.accounts)))
    return found


@pytest.fixture
async def unchanged(api: Api) -> AsyncIterator[None]:
    """Fails the test when anything is different after it."""
    before = await state_of(api)
    yield
    assert await state_of(api) == before


@malformed.exclude(path_regex="quotes|instruments|openapi|health").parametrize()  # no input, no mistake
@generated
def test_a_malformed_request_changes_nothing(api: Api, unchanged: None, case: Any) -> None:
    response = case.call(base_url=api.url, headers={"Authorization": f"Bearer {api.tokens['all']}"})
    assert 400 <= response.status_code < 500, (response.request.url, response.request.body, response.text)


@anything.include(path_regex="^/v1/(?!openapi)").parametrize()
@generated
def test_a_request_without_a_key_changes_nothing(api: Api, unchanged: None, case: Any) -> None:
    response = case.call(base_url=api.url, headers={"Authorization": "Bearer unknown"})
    assert response.status_code in (400, 401, 405), response.text
