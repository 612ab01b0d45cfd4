"""The slot map from every form of CLUSTER SLOTS, and addresses as nodes give them."""

from typing import Any

import pytest

from tradewind.client.topology import Endpoint, parse_cluster_slots, resolve_endpoint

ASKED = Endpoint("asked.example", 7000)


def _node(host: Any, port: int = 7001) -> list[Any]:
    return [host, port, b"id", []]


@pytest.mark.parametrize("host", [None, b"", "", b"?", "?"])
def test_a_missing_host_means_the_host_that_was_asked(host: Any) -> None:
    slot_map = parse_cluster_slots([[0, 16383, _node(host)]], ASKED)
    assert slot_map.ranges[0].primary == Endpoint("asked.example", 7001)


@pytest.mark.parametrize("host", [b"::1", "::1", b"10.0.0.1", "redis-1.example"])
def test_hosts_come_as_bytes_or_text_names_or_addresses(host: Any) -> None:
    text = host.decode() if isinstance(host, bytes) else host
    slot_map = parse_cluster_slots([[0, 16383, _node(host), _node(host, 7002)]], ASKED)
    assert slot_map.ranges[0].primary == (text, 7001)
    assert slot_map.ranges[0].replicas == ((text, 7002),)
    assert slot_map.ranges[0].primary.name == f"{text}:7001"


def test_coverage_and_roles() -> None:
    first, second, replica = _node("a"), _node("b"), _node("c")
    slot_map = parse_cluster_slots([[0, 99, first, replica], [200, 200, second, first]], ASKED)
    assert slot_map.covered == 101
    assert dict(slot_map.endpoints()) == {("a", 7001): True, ("b", 7001): True, ("c", 7001): False}


def test_remapped_addresses_hold_for_maps_and_redirects() -> None:
    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return ("proxy", address[1] + 1000)

    assert parse_cluster_slots([[0, 0, _node("a")]], ASKED, remap).ranges[0].primary == ("proxy", 8001)
    assert resolve_endpoint("a", 7005, ASKED, remap) == ("proxy", 8005)
    assert resolve_endpoint("", 0, ASKED, None) == ASKED


@pytest.mark.parametrize(
    "reply",
    [
        None, 7, [[0]], [[0, 16384, ["a", 1]]], [[5, 4, ["a", 1]]], [[-1, 4, ["a", 1]]], [[0, 1]],
        [[0, 1, []]], [[0, 1, ["a"]]], [[0, 1, ["a", "port"]]], [["x", 1, ["a", 1]]], [b"text"],
        [[0, 1, [b"\xff", 1]]],
    ],
)  # fmt: skip
def test_garbage_is_one_clear_error(reply: Any) -> None:
    with pytest.raises(ValueError, match=r"asked\.example:7000: CLUSTER SLOTS answered in a form"):
        parse_cluster_slots(reply, ASKED)


def test_an_empty_map_is_a_map() -> None:
    assert parse_cluster_slots([], ASKED).covered == 0
