"""The steps that make servers one cluster, when one of them fails."""

import asyncio

import pytest

from tests.support.fake_server import FakeServer, bulk
from tradewind.embedded import ClusterStartFailed, formation

NOBODY_MET = bulk("own :0@0 myself,master - 0 0 1 connected\n")
PRIMARY_MET = bulk("own :0@0 myself,master - 0 0 1 connected\nprimary :0@0 master - 0 0 1 connected\n")


async def _no_check() -> None:
    return


def _answers(known: bytes, replicate: bytes = b"+OK\r\n"):
    def answer(request: list[bytes]) -> bytes | None:
        match request:
            case [b"CLUSTER", b"MYID"]:
                return bulk("primary")
            case [b"CLUSTER", b"NODES"]:
                return known
            case [b"CLUSTER", b"REPLICATE", _]:
                return replicate
        return b"+OK\r\n"

    return answer


async def test_a_step_that_fails_ends_the_others_before_their_connections_are_closed():
    """One that went on would connect again, and nobody would close that connection."""
    refuses = _answers(PRIMARY_MET, b"-ERR no\r\n")
    async with (
        FakeServer(_answers(NOBODY_MET)) as primary,
        FakeServer(_answers(NOBODY_MET)) as waits,
        FakeServer(refuses) as refusing,
    ):
        ports = [primary.port, waits.port, refusing.port]
        with pytest.raises(ClusterStartFailed, match=r"cannot be formed .* no"):
            await formation.form(ports, 1, formation.Deadline(5, _no_check))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert waits.connections_made == 1
