"""The files of an export: typed, in order, and none of them half written."""

import asyncio
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.trail.trails import append, deposits, export, exported, write_histories
from tradewind.engine.messages import OrderFilled, decode_event
from tradewind.trail.columns import KINDS
from tradewind.trail.errors import EventsMissing, TargetRefused
from tradewind.trail.events import StoredEvent
from tradewind.trail.parquet import EVENTS_PER_ROW_GROUP, IDENTITY_FILE, SCHEMA, _File


async def test_columns_have_the_types_of_the_events_fields(client, tmp_path):
    histories = await write_histories(client)
    await export(client, str(tmp_path))
    files = sorted(tmp_path.glob("p0000/*.parquet"))
    table = pyarrow.concat_tables(map(parquet.read_table, files))
    assert table.schema.equals(SCHEMA)
    assert KINDS["volume"] == "integer"
    assert KINDS["symbol"] == "text"
    events = [decode_event(payload) for payload in histories[0].events]
    assert table["sequence"].to_pylist() == list(range(1, len(events) + 1))
    assert set(table["partition"].to_pylist()) == {0}
    rows = [row for row in table.to_pylist() if row["type"] == "order_filled"]
    filled = [event for event in events if type(event) is OrderFilled]
    assert [(row["position"], row["volume"], row["price"]) for row in rows] == [
        (event.position, event.volume, event.price) for event in filled
    ]
    assert {row["at_ms"].timestamp() * 1000 for row in rows} == {filled[0].at_ms}


async def test_names_say_which_events_a_file_holds_and_nothing_unfinished_stays(client, tmp_path):
    await append(client, 2, deposits(10))
    await export(client, str(tmp_path), events_per_piece=6)
    names = [path.name for path in sorted((tmp_path / "p0002").iterdir())]
    assert names == ["000000000001-000000000006.parquet", "000000000007-000000000010.parquet"]


async def test_what_a_killed_export_left_unfinished_is_removed(client, tmp_path):
    await append(client, 2, deposits(3))
    (tmp_path / "p0002").mkdir()
    left = tmp_path / "p0002" / "000000000001.unfinished"
    left.write_bytes(b"PAR1 half")
    await export(client, str(tmp_path))
    assert not left.exists()
    assert len((await exported(str(tmp_path)))[2]) == 3


async def test_a_file_that_is_gone_is_an_error(client, tmp_path):
    await append(client, 2, deposits(10))
    await export(client, str(tmp_path), events_per_piece=3)
    (tmp_path / "p0002" / "000000000004-000000000006.parquet").unlink()
    with pytest.raises(EventsMissing, match="event 4 should begin a file"):
        await export(client, str(tmp_path))


async def test_files_without_their_identity_are_refused(client, tmp_path):
    await append(client, 2, deposits(3))
    await export(client, str(tmp_path))
    identity = tmp_path / IDENTITY_FILE
    identity.write_text("{")
    with pytest.raises(TargetRefused, match="cannot be read"):
        await export(client, str(tmp_path))
    identity.unlink()
    with pytest.raises(TargetRefused, match="put it back"):
        await export(client, str(tmp_path))


async def test_a_folder_that_cannot_be_made_is_an_error(client, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="cannot be written"):
        await export(client, str(tmp_path / "file" / "below"))


async def test_a_file_that_is_given_up_while_it_is_written_is_gone(tmp_path: Path) -> None:
    """Its step goes on in a thread; closing the writer beside it would end the process."""
    page = [StoredEvent(*numbered) for numbered in enumerate(deposits(EVENTS_PER_ROW_GROUP), 1)]
    for wait_s in (0.0, 0.001, 0.005, 0.01, 0.02, 0.04):
        file = _File(tmp_path, 3, 0)
        writing = asyncio.create_task(file.add(page))
        await asyncio.sleep(wait_s)
        writing.cancel()
        await asyncio.wait([writing])
        file.discard()
        assert not list(tmp_path.iterdir())
