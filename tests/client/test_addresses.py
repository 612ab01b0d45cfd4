"""Where servers are: IPv6, host names, what is missing in an address, and addresses that are mapped."""

import socket

import pytest

from tests.conftest import EmbeddedCluster
from tests.support.client_fixtures import MakeClient
from tests.support.clients import keys_of_each_shard
from tests.support.proxy import ProxiedCluster
from tradewind import RedisCluster


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine's loopback")
async def test_ipv6_in_a_url_and_in_what_servers_announce() -> None:
    settings = {"bind": "127.0.0.1 ::1", "cluster-announce-ip": "::1"}
    async with EmbeddedCluster(replicas_per_primary=0, server_settings=settings) as cluster:
        port = cluster.nodes[0].port
        async with RedisCluster.from_url(f"redis://[::1]:{port}", decode_responses=True) as client:
            keys = keys_of_each_shard(client)
            assert len(keys) == 3
            for name, key in keys.items():
                assert name.startswith("::1:")
                assert await client.set(key, name)
                assert await client.get(key) == name
            assert set(client.stats().connections) == {f"::1:{node.port}" for node in cluster.nodes}


async def test_host_names_that_are_announced_are_resolved(make_client: MakeClient) -> None:
    settings = {"cluster-announce-hostname": "localhost", "cluster-preferred-endpoint-type": "hostname"}
    async with EmbeddedCluster(replicas_per_primary=0, server_settings=settings) as cluster:
        client = make_client(cluster.nodes[0].port, host="localhost", decode_responses=True)
        await client.initialize()
        for name, key in keys_of_each_shard(client).items():
            assert name.startswith("127.0.0.1:")  # redis-py's name for it
            assert await client.set(key, name)
        assert len(client.stats().nodes) == 3
        await client.aclose()


async def test_an_unknown_endpoint_means_the_host_that_was_asked(make_client: MakeClient) -> None:
    settings = {"cluster-preferred-endpoint-type": "unknown-endpoint"}
    async with EmbeddedCluster(replicas_per_primary=0, server_settings=settings) as cluster:
        client = make_client(cluster.nodes[0].port, decode_responses=True)
        await client.initialize()
        for name, key in keys_of_each_shard(client).items():
            assert name.startswith("127.0.0.1:")
            assert await client.set(key, name)
        await client.aclose()


async def test_addresses_are_mapped_in_the_slot_map_and_in_redirects(
    clean_cluster: EmbeddedCluster, make_client: MakeClient
) -> None:
    async with ProxiedCluster([node.port for node in clean_cluster.nodes]) as network:
        client = make_client(network.port, address_remap=network.address_remap)
        await client.initialize()
        first_key, key, *_ = keys_of_each_shard(client).values()
        first, second = client.keyslot(first_key), client.keyslot(key)
        router = client._router
        assert router is not None
        owner, router.nodes.owners[second] = router.nodes.owners[second], router.nodes.owners[first]
        assert await client.set(key, "moved")
        assert router.nodes.owners[second] is owner
        assert client.stats().redirects_moved == 1
        names = {f"127.0.0.1:{proxy.port}" for proxy in network.proxies.values()}
        assert client.stats().connections.keys() <= names
        await client.aclose()
