"""schemathesis over the whole API: no server error; what is malformed is refused and changes nothing."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import Api
from tradewind.api.openapi import document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
described: Any = schemathesis.openapi.from_dict(document())


@described.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_the_api_keeps_its_description(api: Api, case: Any) -> None:
    headers = {"Authorization": f"Bearer {api.tokens['all']}"}
    case.call_and_validate(base_url=api.url, headers=headers, checks=CHECKS)


@pytest.mark.parametrize("path", ["/v1/openapi.json"])
async def test_the_served_description_is_this_one(api: Api, path: str) -> None:
    async with api.client(None) as http:
        assert (await http.get(path)).json() == document()
