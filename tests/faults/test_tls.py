"""Certificates that expire, are for another name, or are renewed while the client runs (Debian's servers)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.client_fixtures import MakeClient
from tests.support.clients import keys_of_each_shard
from tests.support.tls import Authority, Certificate, TlsCluster
from tests.support.waiting import eventually
from tradewind import ClusterNotReady, RedisCluster

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90)]


@pytest.fixture
async def tls(tls_cluster: TlsCluster) -> AsyncIterator[TlsCluster]:
    """The servers have a good certificate again afterwards, and the first authority alone is trusted."""
    yield tls_cluster
    await tls_cluster.renew(tls_cluster.authority.sign("good"), tls_cluster.authority.file)


async def _answered(client: RedisCluster, keys: list[str]) -> list[str]:
    return await asyncio.gather(*(client.get(key) for key in keys))


async def _ready_on_all(client: RedisCluster) -> list[str]:
    keys = list(keys_of_each_shard(await client.initialize()).values())
    assert all(await asyncio.gather(*(client.set(key, "v") for key in keys)))
    return keys


async def test_both_sides_show_certificates(tls: TlsCluster, make_client: MakeClient) -> None:
    client = make_client(tls.ports[0], decode_responses=True, **tls.options(ssl_check_hostname=True))
    keys = await _ready_on_all(client)
    assert await client.durable().set(keys[0], "durable")
    assert await client.blpop(["no-list"], 0.1) is None
    assert set(client.stats().connections) <= {f"127.0.0.1:{port}" for port in tls.ports}


async def test_a_client_without_a_certificate_is_not_let_in(tls: TlsCluster, make_client: MakeClient) -> None:
    """The server says why and hangs up; the hanging up may be here first."""
    options = {"ssl": True, "ssl_ca_certs": str(tls.trusted), "socket_connect_timeout": 0.5}
    with pytest.raises(ClusterNotReady, match=r"(?i)certificate.required|during the handshake"):
        await make_client(tls.ports[0], **options)


async def test_a_certificate_for_another_name_is_the_reason(tls: TlsCluster, make_client: MakeClient) -> None:
    await tls.renew(tls.authority.sign("stranger", names="DNS:elsewhere.test"))
    options = tls.options(ssl_check_hostname=True, socket_connect_timeout=0.5)
    with pytest.raises(ClusterNotReady, match=r"certificate is not valid for '127\.0\.0\.1'"):
        await make_client(tls.ports[0], **options)


@pytest.mark.parametrize("fault", ["expired", "of an unknown authority"])
async def test_open_connections_outlive_a_bad_certificate_and_new_ones_wait_for_a_good_one(
    tls: TlsCluster, make_client: MakeClient, tmp_path: Path, fault: str
) -> None:
    options = tls.options(decode_responses=True, socket_timeout=0.6)
    client = make_client(tls.ports[0], **options)
    keys = await _ready_on_all(client)
    await tls.renew(_bad_certificate(tls, tmp_path, fault))
    assert await _answered(client, keys) == ["v"] * 3
    assert sum(node.connections_lost for node in client.stats().nodes) == 0

    await tls.drop_clients()
    before = sum(node.dials for node in client.stats().nodes)
    reason = "has expired" if fault == "expired" else "self-signed|unable to get local issuer"
    with pytest.raises(RedisConnectionError, match=reason):
        await client.get(keys[0])
    assert sum(node.dials for node in client.stats().nodes) - before < 60, "no storm"

    await tls.renew(tls.authority.sign("renewed"))
    await eventually(lambda: _serves(client, keys))


def _bad_certificate(tls: TlsCluster, folder: Path, fault: str) -> Certificate:
    if fault == "expired":
        return tls.authority.sign("expired", days=-1)
    return Authority(folder, "unknown").sign("server")


async def _serves(client: RedisCluster, keys: list[str]) -> bool:
    try:
        return await _answered(client, keys) == ["v"] * 3
    except RedisConnectionError:
        return False


async def test_a_new_authority_and_new_certificates_are_taken_up_without_a_new_client(
    tls: TlsCluster, make_client: MakeClient, tmp_path: Path
) -> None:
    """First both authorities are trusted, then the certificates are changed, then the old one is dropped."""
    client = make_client(tls.ports[0], **tls.options(decode_responses=True, socket_timeout=2.0))
    keys = await _ready_on_all(client)
    successor = Authority(tmp_path, "successor")
    own = tls.client_certificate
    before = Certificate(tmp_path / "own.crt", tmp_path / "own.key")
    before.replace(own)
    await tls.renew(successor.sign("server"), tls.authority.file, successor.file)
    own.replace(successor.sign("client"))
    await tls.renew(successor.sign("server"), successor.file)
    await tls.drop_clients()
    await eventually(lambda: _serves(client, keys))
    lost = sum(node.connections_lost for node in client.stats().nodes)
    assert lost > 0, "it has connected anew, with what the files hold now"
    own.replace(before)
