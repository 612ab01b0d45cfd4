"""Reading what servers say, without servers but for one test."""

import asyncio
from contextlib import suppress

from redis.exceptions import RedisError

from tests.conftest import EmbeddedCluster
from tradewind.embedded.folder import own_id, with_ports
from tradewind.embedded.survey import Admin, NodeReport, missing, owner_of, parse_cluster_nodes
from tradewind.ops.loop import new_event_loop

NODES = """\
aaa 127.0.0.1:7000@17000,,tls-port=0,shard-id=1 myself,master - 0 0 1 connected 0-5460 9000 [93-<-bbb]
bbb 127.0.0.1:7001@17001,host,shard-id=2 master,fail? - 1 2 2 disconnected 5461-8999
ccc 127.0.0.1:7002@17002 slave aaa 0 3 1 connected
"""


def test_cluster_nodes_are_parsed():
    first, second, third = parse_cluster_nodes(NODES)
    assert (first.id, first.port, first.slots, first.myself, first.healthy) == ("aaa", 7000, 5462, True, True)
    assert (second.healthy, second.slots, second.primary_id) == (False, 3539, None)
    assert (third.primary_id, third.healthy, third.slots) == ("aaa", True, 0)


def test_reasons_name_the_node_and_what_it_lacks():
    views = tuple(parse_cluster_nodes(NODES))
    cluster = {"cluster_state": "fail", "cluster_slots_ok": "5462"}
    reports = [
        NodeReport(7000, views=views, cluster=cluster),
        NodeReport(7001, error="Connection refused"),
        NodeReport(7002, error="Timeout"),
    ]
    assert missing(reports) == [
        "node 7000 does not see [7001]",
        "node 7000 has cluster state fail with 5462 of 16384 slots",
        "node 7001 does not answer: Connection refused",
        "node 7002 does not answer: Timeout",
    ]
    assert [report.role for report in reports] == ["primary", "down", "down"]


def _whole(port: int, views: str) -> NodeReport:
    cluster = {"cluster_state": "ok", "cluster_slots_ok": "16384"}
    return NodeReport(port, views=tuple(parse_cluster_nodes(views)), cluster=cluster)


BEFORE = """\
aaa 127.0.0.1:{aaa}@17000 {me_aaa}master - 0 0 1 connected 0-8191
bbb 127.0.0.1:{bbb}@17001 {me_bbb}master - 0 0 2 connected 8192-16383
"""


def _two(**changes: object) -> list[NodeReport]:
    words = {"aaa": 7000, "bbb": 7001, "me_aaa": "", "me_bbb": ""} | changes
    return [
        _whole(7000, BEFORE.format(**words | {"me_aaa": "myself,"})),
        _whole(7001, BEFORE.format(**words | {"me_bbb": "myself,"})),
    ]


def test_servers_that_announce_other_ports_are_known_by_their_ids():
    assert missing(_two()) == []
    assert missing(_two(aaa=9000, bbb=9001)) == []


def test_a_server_that_has_not_heard_of_its_successor_is_missing():
    first, second = _two()
    text = BEFORE.format(aaa=7000, bbb=7001, me_aaa="", me_bbb="myself,").replace("0-8191", "")
    later = _whole(7001, text.replace("0 0 2 connected 8192-16383", "0 0 3 connected 0-16383"))
    assert missing([first, later]) == [
        "node 7000 has not heard what [7001] now serve",
        "node 7001 has not heard what [7000] now serve",
    ]
    assert [owner.id for owner in (owner_of(5, [first, second]), owner_of(5, [first, later])) if owner] == [
        "aaa",
        "bbb",
    ]


def test_moved_ports_change_addresses_and_nothing_else():
    assert own_id(NODES) == "aaa"
    moved = with_ports(NODES + "vars currentEpoch 7000 lastVoteEpoch 0\n", {"aaa": 7001, "bbb": 8000})
    assert "127.0.0.1:7001@17001,,tls-port=0,shard-id=1 myself" in moved
    assert "127.0.0.1:8000@18000,host" in moved
    assert "127.0.0.1:7002@17002 slave" in moved
    assert "currentEpoch 7000" in moved


def test_a_connection_that_has_just_ended_is_an_error_of_the_server(cluster: EmbeddedCluster):
    """On uvloop, too, where writing to it is a RuntimeError."""

    async def ask_while_it_ends() -> None:
        async with Admin(cluster.nodes[0].port) as admin:
            await admin.ask("PING")
            connection = admin._redis.connection_pool._available_connections[0]
            connection._writer.transport.abort()
            with suppress(RedisError):
                await admin.ask("PING")
            assert await admin.ask("PING")

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(ask_while_it_ends())
