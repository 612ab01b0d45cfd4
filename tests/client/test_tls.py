"""TLS: whom the client trusts, what it shows, and certificates that change while it runs."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from tests.support.client_fixtures import MakeClient
from tests.support.tls import Authority, Certificate, TlsCluster
from tests.support.waiting import eventually
from tradewind import ClusterNotReady, RedisCluster

READY_S = 2.0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsCluster]:
    """Started outside any test's event loop, as the session's cluster is."""
    cluster = TlsCluster(tmp_path_factory.mktemp("tls"))
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.stop())


@pytest.fixture
async def tls_cluster(started: TlsCluster) -> AsyncIterator[TlsCluster]:
    """Clients need no certificate; the test may change all of it."""
    await started.set_all("tls-auth-clients", "no")
    yield started
    await started.present(started.certificate, started.authority)
    await started.set_all("tls-protocols", "", "tls-ciphers", "DEFAULT")
    await started.set_all("cluster-preferred-endpoint-type", "ip")
    await started.announce_host("")


@pytest.fixture
def authority(tls_cluster: TlsCluster) -> Authority:
    return tls_cluster.authority


def options(authority: Authority, **more: Any) -> dict[str, Any]:
    return {"ssl": True, "ssl_ca_certs": str(authority.file), "socket_connect_timeout": READY_S, **more}


async def works(client: RedisCluster) -> bool:
    """On every node."""
    await asyncio.gather(*(client.set(f"key:{number}", number) for number in range(30)))
    return all(node.lanes for node in client.stats().nodes if node.role == "primary")


async def reasons(client: RedisCluster) -> str:
    """Why it does not become ready."""
    with pytest.raises(ClusterNotReady) as caught:
        await client.initialize()
    return str(caught.value)


# -- whom to trust -----------------------------------------------------------------------------------------


async def test_a_url_with_rediss_and_the_authority(tls_cluster: TlsCluster, authority: Authority) -> None:
    url = f"rediss://localhost:{tls_cluster.ports[0]}?ssl_ca_certs={authority.file}"
    async with RedisCluster.from_url(url) as client:
        assert await works(client)
        assert await client.get("key:3") == b"3"


async def test_the_authority_as_text(
    tls_cluster: TlsCluster, authority: Authority, make_client: MakeClient
) -> None:
    client = make_client(tls_cluster.ports[0], ssl=True, ssl_ca_data=authority.file.read_text())
    assert await works(client)


async def test_an_unknown_authority_is_the_reason(tls_cluster: TlsCluster, make_client: MakeClient) -> None:
    client = make_client(tls_cluster.ports[0], ssl=True, socket_connect_timeout=READY_S)
    assert "certificate verify failed: self-signed certificate" in await reasons(client)
    careless = make_client(tls_cluster.ports[0], ssl=True, ssl_cert_reqs="none")
    assert await works(careless)


async def test_an_expired_certificate_is_the_reason_and_open_connections_live_on(
    tls_cluster: TlsCluster, authority: Authority, make_client: MakeClient
) -> None:
    client = make_client(tls_cluster.ports[0], **options(authority))
    assert await works(client)
    await tls_cluster.present(authority.sign("expired", "IP:127.0.0.1", days=-1), authority)
    assert await works(client)
    assert not client.stats().errors
    newcomer = make_client(tls_cluster.ports[0], **options(authority))
    assert "certificate has expired" in await reasons(newcomer)


async def test_a_server_that_wants_a_certificate_gets_one(
    tls_cluster: TlsCluster, authority: Authority, make_client: MakeClient
) -> None:
    await tls_cluster.set_all("tls-auth-clients", "yes")
    assert await reasons(make_client(tls_cluster.ports[0], **options(authority)))
    own = authority.sign("client")
    shown = {"ssl_certfile": str(own.certificate), "ssl_keyfile": str(own.key)}
    assert await works(make_client(tls_cluster.ports[0], **options(authority, **shown)))


@pytest.mark.parametrize(
    ("setting", "demand"),
    [
        (("tls-protocols", "TLSv1.2"), {"ssl_min_version": ssl.TLSVersion.TLSv1_3}),
        (
            ("tls-protocols", "TLSv1.2", "tls-ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"),
            {"ssl_ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"},
        ),
    ],
    ids=["version", "ciphers"],
)
async def test_what_the_client_insists_on(
    tls_cluster: TlsCluster,
    authority: Authority,
    make_client: MakeClient,
    setting: tuple[str, ...],
    demand: dict[str, Any],
) -> None:
    await tls_cluster.set_all(*setting)
    assert await works(make_client(tls_cluster.ports[0], **options(authority)))
    assert await reasons(make_client(tls_cluster.ports[0], **options(authority, **demand)))


async def test_a_plain_port_and_a_plain_client_are_told_by_the_reason(
    tls_cluster: TlsCluster, authority: Authority, make_client: MakeClient
) -> None:
    plain = tls_cluster.cluster.nodes[0].port
    assert "is it a port for TLS?" in await reasons(make_client(plain, **options(authority)))
    unencrypted = make_client(tls_cluster.ports[0], socket_connect_timeout=READY_S)
    assert "does the port want TLS?" in await reasons(unencrypted)


@pytest.mark.parametrize(
    "wrong", [{"ssl_ca_certs": "/nowhere/ca.crt"}, {"ssl_cert_reqs": "perhaps"}, {"ssl_ciphers": "ROT13"}]
)
def test_wrong_options_are_told_by_the_constructor(wrong: dict[str, Any]) -> None:
    with pytest.raises((OSError, RedisError)):
        RedisCluster(host="127.0.0.1", ssl=True, **wrong)


# -- names -------------------------------------------------------------------------------------------------


@pytest.fixture
async def named(tls_cluster: TlsCluster, authority: Authority) -> TlsCluster:
    """The certificate names a host, the slot map addresses."""
    await tls_cluster.present(authority.sign("named", "DNS:localhost"), authority)
    return tls_cluster


async def test_a_certificate_for_names_nobody_announces_says_what_to_do(
    named: TlsCluster, authority: Authority, make_client: MakeClient
) -> None:
    client = make_client(named.ports[0], host="localhost", **options(authority, socket_timeout=2))
    with pytest.raises(RedisConnectionError, match=r"not valid for '127.0.0.1'.*cluster-announce-hostname"):
        await works(client)


@pytest.mark.parametrize("endpoint_type", ["ip", "hostname"])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_certificate_may_name_the_announced_host(
    named: TlsCluster, authority: Authority, make_client: MakeClient, endpoint_type: str, protocol: int
) -> None:
    await named.announce_host("localhost")
    await named.set_all("cluster-preferred-endpoint-type", endpoint_type)
    client = make_client(named.ports[0], host="localhost", **options(authority, protocol=protocol))
    assert await works(client)
    assert not client.stats().errors


async def test_a_certificate_may_name_the_address_though_a_host_is_announced(
    tls_cluster: TlsCluster, authority: Authority, make_client: MakeClient
) -> None:
    await tls_cluster.announce_host("another.example")
    client = make_client(tls_cluster.ports[0], **options(authority))
    assert await works(client)
    assert not client.stats().errors


async def test_a_certificate_may_name_what_was_announced_before_it_was_mapped(
    tls_cluster: TlsCluster, authority: Authority, make_client: MakeClient
) -> None:
    await tls_cluster.announce_host("inner.example")
    await tls_cluster.set_all("cluster-preferred-endpoint-type", "hostname")
    await tls_cluster.present(authority.sign("inner", "DNS:inner.example,DNS:localhost"), authority)
    client = make_client(
        tls_cluster.ports[0],
        host="localhost",
        **options(authority, address_remap=lambda address: ("127.0.0.1", address[1])),
    )
    assert await works(client)
    assert not client.stats().errors


# -- certificates that change ------------------------------------------------------------------------------


async def test_a_new_authority_is_read_by_the_next_connection(
    tls_cluster: TlsCluster, authority: Authority, make_client: MakeClient, tmp_path: Path
) -> None:
    trusted = tmp_path / "ca.crt"
    trusted.write_bytes(authority.file.read_bytes())
    client = make_client(tls_cluster.ports[0], ssl=True, ssl_ca_certs=str(trusted), socket_timeout=10)
    assert await works(client)
    successor = Authority(tmp_path, "successor")
    await tls_cluster.present(successor.sign("renewed", "IP:127.0.0.1"), successor)
    await tls_cluster.drop_clients()
    waiting = asyncio.create_task(works(client))
    await eventually(lambda: any("certificate" in node.last_error for node in client.stats().nodes))
    trusted.write_bytes(successor.file.read_bytes())
    assert await waiting


async def test_a_renewed_certificate_is_shown_and_a_pair_that_does_not_fit_is_left_alone(
    tls_cluster: TlsCluster,
    authority: Authority,
    make_client: MakeClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = Certificate(tmp_path / "client.crt", tmp_path / "client.key")
    shown.replace(authority.sign("first"))
    await tls_cluster.set_all("tls-auth-clients", "yes")
    files = {"ssl_certfile": str(shown.certificate), "ssl_keyfile": str(shown.key)}
    client = make_client(tls_cluster.ports[0], **options(authority, **files))
    assert await works(client)

    shown.key.write_bytes(authority.sign("second").key.read_bytes())  # half of the renewal
    await tls_cluster.drop_clients()
    assert await works(client)
    assert "going on with the former ones" in caplog.text

    successor = Authority(tmp_path, "successor")
    shown.replace(successor.sign("third"))
    await tls_cluster.present(tls_cluster.certificate, successor)  # only the successor's clients are let in
    await tls_cluster.drop_clients()
    assert await works(client)
