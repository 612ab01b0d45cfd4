"""Ports come in pairs, each free, none twice."""

import socket

import pytest

from tradewind.embedded import ClusterStartFailed, ports


def test_ports_are_distinct_and_free_with_their_bus_ports():
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    assert not set(found) & {port + ports.BUS_PORT_OFFSET for port in found}
    assert all(ports.is_free(port) for port in found)


@pytest.mark.parametrize("offset", [0, ports.BUS_PORT_OFFSET])
def test_a_pair_with_one_port_taken_is_not_free(offset):
    (port,) = ports.free_ports(1)
    with socket.socket() as listener:
        listener.bind((ports.HOST, port + offset))
        listener.listen()
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_excluded_ports_are_not_given(monkeypatch):
    (port,) = ports.free_ports(1)
    monkeypatch.setattr(ports, "PORT_FIRST", port)
    monkeypatch.setattr(ports, "PORT_LAST", port)
    assert ports.free_ports(1) == [port]
    with pytest.raises(ClusterStartFailed, match="only 0 of 1 ports free"):
        ports.free_ports(1, excluded=[port])
