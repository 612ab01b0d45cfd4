"""The requests of docs/api.md are answered as they stand there."""

import json
import os
import re
import shutil
import subprocess

import httpx
import pytest

from tests.api.conftest import Api, funded
from tests.programs import ROOT

CURL = re.compile(r"^curl .*?[^\\]$", re.DOTALL | re.MULTILINE)
REQUESTS = CURL.findall((ROOT / "docs" / "api.md").read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
@pytest.mark.parametrize("request_line", REQUESTS)
async def test_a_documented_request_is_filled(api: Api, http: httpx.AsyncClient, request_line: str) -> None:
    await funded(http, "alice")
    done = subprocess.run(
        ["bash", "-c", request_line.replace("http://127.0.0.1:8080", api.url)],
        env=os.environ | {"TRADEWIND_KEY": api.tokens["all"]},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["status"] == "filled"
