"""Exports to real files and a real PostgreSQL: every event once, whatever happens meanwhile."""

import asyncio
import json
import random
import signal
import subprocess
from functools import partial

import psycopg
import pytest

from tests.support.waiting import eventually
from tests.trail.trails import (
    PARTITIONS,
    append,
    command_line,
    deposits,
    export,
    exported,
    run,
    stored,
    write_histories,
)
from tradewind import RedisCluster
from tradewind.engine.keys import SETTINGS_KEY, PartitionKeys
from tradewind.trail.errors import EventsMissing, TargetRefused, TargetUnavailable
from tradewind.trail.events import pages_of
from tradewind.trail.export import Export
from tradewind.trail.places import target_of
from tradewind.trail.positions import all_registered, forget, registered


async def test_an_export_has_every_event_as_it_was_written(client, place):
    await write_histories(client)
    done = await export(client, place)
    there = await stored(client)
    assert await exported(place) == there
    assert done.events == done.total == sum(map(len, there.values())) > 0
    assert done.pieces > PARTITIONS


async def test_a_second_export_brings_what_is_new_and_nothing_else(client, place):
    await append(client, 0, deposits(10))
    assert (await export(client, place)).events == 10
    await append(client, 0, deposits(5, first=11))
    again = await export(client, place)
    assert (again.events, again.total) == (5, 15)
    assert await exported(place) == await stored(client)
    assert (await export(client, place)).events == 0


async def test_the_cluster_knows_how_far_each_target_is_until_it_is_forgotten(client, place):
    await append(client, 1, deposits(9))
    done = await export(client, place)
    assert await registered(client, 0) == {done.target: 0}
    assert await registered(client, 1) == {done.target: 9}
    assert await all_registered(client, range(PARTITIONS)) == {done.target: 9}
    assert await forget(client, PARTITIONS, done.target)
    assert not await forget(client, PARTITIONS, done.target)
    assert await all_registered(client, range(PARTITIONS)) == {}


async def test_a_piece_that_fails_leaves_no_trace(client, place, monkeypatch):
    await append(client, 0, deposits(20))

    async def broken(*arguments):
        async for page in pages_of(*arguments):
            yield page
            if arguments[2] >= 14:
                raise ConnectionError("the cluster went away")

    with monkeypatch.context() as patch:
        patch.setattr("tradewind.trail.export.pages_of", broken)
        with pytest.raises(ConnectionError):
            await export(client, place)
    assert [event.sequence for event in (await exported(place))[0]] == list(range(1, 15))
    assert (await export(client, place)).events == 6
    assert await exported(place) == await stored(client)


async def test_events_that_are_gone_before_they_were_exported_are_an_error(client, place):
    await append(client, 0, deposits(10))
    await export(client, place)
    await append(client, 0, deposits(10, first=11))
    await client.xdel(PartitionKeys(0).events, "15-0")
    with pytest.raises(EventsMissing, match="partition 0: event 15 is not in the cluster"):
        await export(client, place)
    assert [event.sequence for event in (await exported(place))[0]] == list(range(1, 11))


async def test_a_cluster_that_was_set_back_is_an_error(client, place):
    """What it does from now on is another history under the same numbers."""
    await append(client, 0, deposits(10))
    await export(client, place)
    await client.hset(PartitionKeys(0).cursor, "sequence", 8)
    with pytest.raises(EventsMissing, match=r"partition 0 ends with event 8, and .* has 10"):
        await export(client, place)


async def test_two_exports_to_one_place_are_refused(client, place):
    async with Export(client, PARTITIONS, target_of(place)):
        with pytest.raises(TargetRefused, match="another export writes to"):
            await export(client, place)
    await export(client, place)


async def test_a_place_with_the_events_of_another_cluster_is_refused(client, place):
    await append(client, 0, deposits(1))
    await export(client, place)
    await client.hset(SETTINGS_KEY, "cluster", "another")
    with pytest.raises(TargetRefused, match="holds the events of another cluster"):
        await export(client, place)


async def test_a_name_of_its_own_is_kept_in_the_target(client, place):
    async with Export(client, PARTITIONS, target_of(place, name="archive")) as first:
        pass
    async with Export(client, PARTITIONS, target_of(place)) as second:
        pass
    assert first.done.target == second.done.target == "archive"


async def test_only_events_that_a_replica_has_are_exported(own_cluster, tmp_path):
    """An event without a replica may be replaced by another one after a failover."""
    client = RedisCluster.from_url(own_cluster.url)
    try:
        from tradewind.engine.opening import open_engine

        await open_engine(client, PARTITIONS)
        await append(client, 0, deposits(3))
        node = client.get_node_from_key(PartitionKeys(0).events)
        await client.execute_command("CONFIG SET", "min-replicas-to-write", 2, target_nodes=[node])
        with pytest.raises(Exception, match="NOREPLICAS"):
            await export(client, str(tmp_path))
        assert (await exported(str(tmp_path)))[0] == []
    finally:
        await client.aclose()


async def test_a_database_that_is_not_there_is_named_without_its_password(client):
    with pytest.raises(TargetUnavailable, match=r"postgresql://127\.0\.0\.1:1/db") as told:
        await export(client, "postgresql://user:geheim@127.0.0.1:1/db")
    assert "geheim" not in str(told.value)


async def test_a_place_that_is_none_is_refused():
    with pytest.raises(TargetRefused, match="no events go to mysql"):
        target_of("mysql://host/db")


# -- the command ---------------------------------------------------------------------------------------


async def test_the_command_says_what_it_did(client, clean_cluster, place):
    await append(client, 0, deposits(12))
    done = await run("export", "--url", clean_cluster.url, "--to", place, "--events", "5", "--json")
    assert done.returncode == 0, done
    told = json.loads(done.stdout)
    assert (told["events"], told["total"], told["pieces"]) == (12, 12, 3)
    listed = await run("export", "--url", clean_cluster.url, "--targets", "--json")
    assert json.loads(listed.stdout) == {"targets": {told["target"]: 12}}
    for code in (0, 1):
        gone = await run("export", "--url", clean_cluster.url, "--forget", told["target"])
        assert gone.returncode == code, gone


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "one of --to PLACE"),
        (("--to", "x", "--targets"), "one of --to PLACE"),
        (("--to", "x", "--events", "0"), "--events 0"),
        (("--to", "x", "--every-s", "-1"), "--every-s -1"),
    ],
)
async def test_options_that_do_not_go_together_are_refused(words, why):
    done = await run("export", *words)
    assert done.returncode == 1
    assert why in done.stderr


async def test_following_brings_what_happens_meanwhile_until_it_is_told_to_end(client, clean_cluster, place):
    words = ("--url", clean_cluster.url, "--to", place, "--follow", "--every-s", "0.1", "--json")
    process = subprocess.Popen(command_line("export", *words), stdout=subprocess.PIPE, text=True)
    try:
        for first in (1, 11, 21):
            await append(client, 0, deposits(10, first=first))
            await eventually(partial(_registered, client, first + 9), timeout_s=30)
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 0
    assert json.loads(out)["events"] == 30
    assert await exported(place) == await stored(client)


async def test_following_goes_on_after_the_database_has_dropped_the_connection(
    client, clean_cluster, database
):
    words = ("--url", clean_cluster.url, "--to", database, "--follow", "--every-s", "0.1", "--json")
    process = subprocess.Popen(
        command_line("export", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for first in (1, 11, 21):
            await append(client, 0, deposits(10, first=first))
            await eventually(partial(_registered, client, first + 9), timeout_s=30)
            _drop_others(database)
    finally:
        process.send_signal(signal.SIGTERM)
        out, told = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 0
    assert json.loads(out)["events"] == 30
    assert "going on in 0.1 s" in told
    assert await exported(database) == await stored(client)


def _drop_others(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def _registered(client: RedisCluster, sequence: int) -> bool:
    return list((await registered(client, 0)).values()) == [sequence]


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_an_export_that_is_killed_anywhere_has_every_event_once(client, clean_cluster, place):
    for partition in range(PARTITIONS):
        await append(client, partition, deposits(8_000))
    expected = await stored(client)
    chance = random.Random(7)
    command = command_line("export", "--url", clean_cluster.url, "--to", place, "--events", "400")
    for _ in range(8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began = await _position(client)
        await eventually(partial(_moved, client, began, process), timeout_s=60)
        await asyncio.sleep(chance.random() * 0.1)  # anywhere: not a wait for something
        process.kill()
        await asyncio.to_thread(process.wait)
    last = await run(*command[3:])
    assert last.returncode == 0, last
    assert await exported(place) == expected


async def _position(client: RedisCluster) -> int:
    return sum((await all_registered(client, range(PARTITIONS))).values())


async def _moved(client: RedisCluster, before: int, process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None or await _position(client) > before


# -- what stands in the target -------------------------------------------------------------------------


async def test_the_table_of_events_can_be_asked(client, database):
    histories = await write_histories(client)
    await export(client, database)
    account = next(iter(histories[0].accounts))
    with psycopg.connect(database) as connection:
        paid = connection.execute(
            "SELECT sum((event->>'amount')::bigint) FROM tradewind_events "
            "WHERE account = %s AND type = 'deposited'",
            [account],
        ).fetchone()
        (at,) = connection.execute("SELECT min(at) FROM tradewind_events").fetchone() or (None,)
    assert paid == (100_000,)
    assert at is not None
    assert at.year >= 2025


async def test_a_zero_character_in_an_event_does_not_stop_an_export(client, place):
    strange = [b'{"type":"?","account":"A\\u0000","at_ms":99999999999999999,"cause":"c","new":1}', b"[1]"]
    await append(client, 0, strange)
    await export(client, place)
    assert [event.payload for event in (await exported(place))[0]] == strange
