"""What a live server says of its commands: keys, effects, blocking."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from tests.conftest import EmbeddedCluster
from tradewind.client.blocking import blocking_call
from tradewind.client.catalog import CommandSpec, find_keys, parse_catalog

Catalog = dict[str, CommandSpec]


@pytest.fixture(scope="module", params=[2, 3], ids=["resp2", "resp3"])
def catalog(request: pytest.FixtureRequest, cluster: EmbeddedCluster) -> Iterator[Catalog]:
    with Redis(port=cluster.nodes[0].port, protocol=request.param) as server:
        server.set_response_callback("COMMAND", lambda reply, **_options: reply)
        yield parse_catalog(server.execute_command("COMMAND"))


def _spec(catalog: Catalog, args: tuple[Any, ...]) -> CommandSpec:
    return catalog.get(f"{args[0]} {args[1]}" if len(args) > 1 else "", catalog.get(args[0], catalog["GET"]))


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (("GET", "a"), ["a"]),
        (("SET", "a", "b"), ["a"]),
        (("MSET", "a", 1, "b", 2), ["a", "b"]),
        (("DEL", "a", "b", "c"), ["a", "b", "c"]),
        (("XADD", "s", "*", "a", "b"), ["s"]),
        (("XREAD", "COUNT", 1, "BLOCK", 0, "STREAMS", "s", "t", "0", "0"), ["s", "t"]),
        (("XREAD", "streams", "s", "0"), ["s"]),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"), ["s"]),
        (("XREADGROUP", "GROUP", "streams", "c", "STREAMS", "s", ">"), ["s"]),
        (("EVAL", "return 1", 2, "a", "b", "x"), ["a", "b"]),
        (("EVAL", "return 1", 0, "x"), []),
        (("EVALSHA", "f" * 40, 1, "a"), ["a"]),
        (("FCALL", "f", 1, "a", "x"), ["a"]),
        (("FCALL_RO", "f", "1", "a"), ["a"]),
        (("BLPOP", "a", "b", 5), ["a", "b"]),
        (("BLMPOP", 5, 2, "a", "b", "LEFT"), ["a", "b"]),
        (("BLMOVE", "a", "b", "LEFT", "RIGHT", 5), ["a", "b"]),
        (("ZUNIONSTORE", "d", 2, "a", "b"), ["d", "a", "b"]),
        (("ZUNION", 2, "a", "b"), ["a", "b"]),
        (("LMPOP", 1, "a", "LEFT"), ["a"]),
        (("XINFO STREAM", "s"), ["s"]),
        (("XINFO", "STREAM", "s"), ["s"]),
        (("XGROUP CREATE", "s", "g", "$"), ["s"]),
        (("OBJECT ENCODING", "a"), ["a"]),
        (("MEMORY USAGE", "a"), ["a"]),
        (("SORT", "a", "BY", "w_*", "STORE", "d"), ["a"]),
        (("GEORADIUS", "g", 1, 2, 3, "km", "STORE", "d"), ["g", "d"]),
        (("BITOP", "AND", "d", "a", "b"), ["d", "a", "b"]),
        (("RENAME", "a", "b"), ["a", "b"]),
        (("COPY", "a", "b"), ["a", "b"]),
        (("SPUBLISH", "c", "m"), ["c"]),
        (("PING",), []),
        (("KEYS", "*"), []),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_keys_are_found(catalog: Catalog, args: tuple[Any, ...], keys: list[str]) -> None:
    spec = catalog.get(str(args[0])) or _spec(catalog, args)
    if args[:2] == ("XINFO", "STREAM"):
        spec = catalog["XINFO STREAM"]
    assert find_keys(spec, args) == keys


@pytest.mark.parametrize(
    "name", ["GET", "MGET", "HGETALL", "XRANGE", "EVAL_RO", "FCALL_RO", "ZRANGE", "TTL", "PING", "XREAD"]
)
def test_reads_may_run_again(catalog: Catalog, name: str) -> None:
    assert catalog[name].repeatable
    assert not catalog[name].writes


@pytest.mark.parametrize(
    "name",
    ["SET", "INCR", "DEL", "XADD", "EVAL", "EVALSHA", "FCALL", "BLPOP", "XREADGROUP", "XACK", "GETDEL",
     "GETEX",     "SPOP", "FLUSHALL", "FUNCTION LOAD", "SORT", "EXPIRE"],
)  # fmt: skip
def test_writes_may_not_run_again(catalog: Catalog, name: str) -> None:
    assert not catalog[name].repeatable
    assert catalog[name].writes


@pytest.mark.parametrize("name", ["SPUBLISH", "PUBLISH", "CONFIG SET", "CLUSTER FAILOVER", "SHUTDOWN"])
def test_what_changes_the_server_may_not_run_again(catalog: Catalog, name: str) -> None:
    assert not catalog[name].repeatable


def test_what_may_be_asked_of_a_busy_server(catalog: Catalog) -> None:
    assert catalog["CLIENT REPLY"].runs_when_busy
    assert not catalog["GET"].runs_when_busy


def test_one_key_at_a_fixed_place_takes_the_short_path(catalog: Catalog) -> None:
    short = {"GET": 1, "SET": 1, "HSET": 1, "XADD": 1, "LPUSH": 1, "ZADD": 1, "SPUBLISH": 1}
    assert {name: catalog[name].first_key for name in short} == short
    long = ("MGET", "DEL", "EVAL", "BLPOP", "XREAD", "PING", "BITOP", "RENAME", "COPY")
    assert {name: catalog[name].first_key for name in long} == dict.fromkeys(long, 0)


@pytest.mark.parametrize(
    ("args", "seconds"),
    [
        (("BLPOP", "a", 5), 5.0),
        (("BLPOP", "a", "0.5"), 0.5),
        (("BLPOP", "a", 0), float("inf")),
        (("BLPOP", "a", b"2"), 2.0),
        (("BLPOP", "a", "soon"), float("inf")),
        (("BLMPOP", 3, 1, "a", "LEFT"), 3.0),
        (("BZMPOP", 0, 1, "a", "MIN"), float("inf")),
        (("BLMOVE", "a", "b", "LEFT", "RIGHT", 1.5), 1.5),
        (("XREAD", "BLOCK", 60000, "STREAMS", "s", "$"), 60.0),
        (("XREAD", b"block", "0", "streams", "s", "$"), float("inf")),
        (("XREAD", "COUNT", 1, "STREAMS", "s", "$"), None),
        (("XREAD", "STREAMS", "BLOCK", "$"), None),
        (("XREADGROUP", "GROUP", "block", "c", "STREAMS", "s", ">"), None),
        (("XREADGROUP", "GROUP", "streams", "block", "BLOCK", 10, "STREAMS", "s", ">"), 0.01),
        (("GET", "a"), None),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_how_long_a_command_blocks(catalog: Catalog, args: tuple[Any, ...], seconds: float | None) -> None:
    call = blocking_call(catalog[args[0]], args)
    assert (call.seconds if call else None) == seconds


@pytest.mark.parametrize(
    ("args", "rest"),
    [
        (("BLPOP", "a", 5), ("BLPOP", "a", 1.5)),
        (("BLPOP", "a", 0), ("BLPOP", "a", 0)),
        (("BLMPOP", 5, 1, "a", "LEFT"), ("BLMPOP", 1.5, 1, "a", "LEFT")),
        (("XREAD", "BLOCK", 60000, "STREAMS", "s", "$"), ("XREAD", "BLOCK", 1500, "STREAMS", "s", "$")),
        (("BLPOP", "a", "soon"), ("BLPOP", "a", "soon")),
    ],
    ids=str,
)
def test_a_command_that_blocks_again_blocks_for_the_rest_of_its_time(
    catalog: Catalog, args: tuple[Any, ...], rest: tuple[Any, ...]
) -> None:
    call = blocking_call(catalog[args[0]], args)
    assert call is not None
    assert call.shortened(1.5) == rest


def test_the_rest_of_a_time_is_never_nothing_which_would_mean_for_ever(catalog: Catalog) -> None:
    pop = blocking_call(catalog["BLPOP"], ("BLPOP", "a", 5))
    read = blocking_call(catalog["XREAD"], ("XREAD", "BLOCK", 5, "STREAMS", "s", "$"))
    assert pop is not None
    assert read is not None
    assert pop.shortened(0.00001)[-1] > 0
    assert read.shortened(0.00001)[2] > 0
