"""The process around the routes: HTTPS, an engine that is silent, and an end in order."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.api.conftest import PARTITIONS, Api, another_api, funded, order, problem_of
from tests.support.tls import Authority
from tests.support.waiting import eventually
from tradewind import RedisCluster
from tradewind.api.limits import ANSWER_S_MAX
from tradewind.engine.keys import PartitionKeys, partition_of

WAIT_S_MAX = 30.0


@contextmanager
def silent_workers(api: Api) -> Iterator[None]:
    """The worker processes stand still inside, as on a machine that hangs."""
    parent = api.workers.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    pids = [int(pid) for pid in children]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def is_handed_in(api: Api, account: str, id: str) -> bool:
    """The last command of the account's partition is this one."""
    commands = PartitionKeys(partition_of(account, PARTITIONS)).commands
    async with RedisCluster.from_url(api.cluster.url) as client:
        last = str(await client.execute_command("XREVRANGE", commands, "+", "-", "COUNT", 1))
    return f'"{account}"' in last and f'"{id}"' in last


async def is_ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/health/ready")).status_code == 200


async def test_with_a_certificate_requests_and_streams_are_encrypted(api: Api, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    own = authority.sign("api")
    trusting = ssl.create_default_context(cafile=str(authority.file))
    files = ("--certificate", own.certificate, "--private-key", own.key)
    with another_api(api, *files, scheme="https") as secure:
        async with secure.client(verify=trusting) as http:
            account = await funded(http, "encrypted")
        url = f"{secure.url.replace('https', 'wss', 1)}/v1/events?account={account}"
        headers = {"Authorization": f"Bearer {api.tokens['all']}"}
        async with connect(url, additional_headers=headers, ssl=trusting, proxy=None) as socket:
            assert "account_opened" in str(await asyncio.wait_for(socket.recv(), WAIT_S_MAX))
        async with secure.client() as doubting:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await doubting.get("/health/live")


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_a_certificate_that_cannot_be_used_is_one_line(api: Api, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "bad.pem"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    words = ("api", "--url", api.cluster.url, "--certificate", str(file), "--private-key", str(file))
    done = subprocess.run(
        [sys.executable, "-m", "tradewind", *words],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "the certificate and its key cannot be used" in done.stderr


async def test_an_unknown_outcome_says_where_to_ask_and_has_one_answer(
    api: Api, http: httpx.AsyncClient
) -> None:
    account = await funded(http, "unknown")
    limit = order(account, "l-1", kind="limit", price=110_000)
    with silent_workers(api):
        waiting = asyncio.create_task(http.post("/v1/orders", json=limit))

        async def is_said_why() -> bool:
            return "have no worker" in (await http.get("/health/ready")).text

        await eventually(is_said_why, ANSWER_S_MAX)
        refused = await http.get("/health/ready")
        assert problem_of(refused)["code"] == "not_ready"
        assert int(refused.headers["retry-after"]) >= 1
        unknown = problem_of(await waiting)
    assert (unknown["status"], unknown["code"]) == (504, "outcome_unknown")

    async def is_decided() -> bool:
        return (await http.get(unknown["ask"])).status_code == 200

    await eventually(is_decided, WAIT_S_MAX)
    asked, again = await http.get(unknown["ask"]), await http.post("/v1/orders", json=limit)
    assert (again.status_code, again.json()) == (200, asked.json())
    [resting] = (await http.get("/v1/orders", params={"account": account})).json()["orders"]
    assert resting["client_id"] == "l-1"
    await eventually(lambda: is_ready(http), WAIT_S_MAX)


async def test_at_the_end_requests_are_answered_and_streams_are_told(
    api: Api, http: httpx.AsyncClient
) -> None:
    account = await funded(http, "ending")
    headers = {"Authorization": f"Bearer {api.tokens['all']}"}
    limit = order(account, "l-1", kind="limit", price=110_000)
    with another_api(api) as ending:
        url = f"{ending.url.replace('http', 'ws', 1)}/v1/events?account={account}"
        async with ending.client() as other, connect(url, additional_headers=headers, proxy=None) as socket:
            for _ in range(2):
                await asyncio.wait_for(socket.recv(), WAIT_S_MAX)
            with silent_workers(api):
                waiting = asyncio.create_task(other.post("/v1/orders", json=limit))
                await eventually(lambda: is_handed_in(api, account, "l-1"), WAIT_S_MAX)
                ending.process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed) as closed:
                    await asyncio.wait_for(socket.recv(), WAIT_S_MAX)
                assert ending.process.poll() is None
            answered = await waiting
        assert await asyncio.to_thread(ending.process.wait, WAIT_S_MAX) == 0
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert (answered.status_code, answered.json()["status"]) == (200, "accepted")


async def test_a_stream_from_before_what_was_trimmed_is_closed_as_gone(
    api: Api, http: httpx.AsyncClient
) -> None:
    account = await funded(http, "trimmed")
    page = (await http.get("/v1/events", params={"account": account})).json()
    first = page["events"][0]["sequence"]
    await http.post("/v1/orders", json=order(account, "o-1"))
    events = PartitionKeys(partition_of(account, PARTITIONS)).events
    async with RedisCluster.from_url(api.cluster.url) as client:
        await client.execute_command("XTRIM", events, "MAXLEN", 1)
    await eventually(lambda: is_trimmed(http, account, first), WAIT_S_MAX)
    url = f"{api.url.replace('http', 'ws', 1)}/v1/events?account={account}&after={first}"
    headers = {"Authorization": f"Bearer {api.tokens['all']}"}
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), WAIT_S_MAX)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4410


async def is_trimmed(http: httpx.AsyncClient, account: str, after: int) -> bool:
    page = (await http.get("/v1/events", params={"account": account, "after": after})).json()
    return bool(page["is_trimmed"])
