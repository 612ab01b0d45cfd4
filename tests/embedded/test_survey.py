"""Reading what servers say, without servers."""

from tradewind.embedded.folder import own_id, with_ports
from tradewind.embedded.survey import NodeReport, missing, parse_cluster_nodes

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


def test_moved_ports_change_addresses_and_nothing_else():
    assert own_id(NODES) == "aaa"
    moved = with_ports(NODES + "vars currentEpoch 7000 lastVoteEpoch 0\n", {"aaa": 7001, "bbb": 8000})
    assert "127.0.0.1:7001@17001,,tls-port=0,shard-id=1 myself" in moved
    assert "127.0.0.1:8000@18000,host" in moved
    assert "127.0.0.1:7002@17002 slave" in moved
    assert "currentEpoch 7000" in moved
