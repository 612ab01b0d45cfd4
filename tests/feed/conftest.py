"""Tick files to order, the real ones, and a clock that only moves when told."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


class FakeClock:
    """Time passes by sleeping, at once; the wall clock is `wall_start_ms` plus what has elapsed."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.wall_start_ms = 1_700_000_000_000
        self.slept: list[float] = []

    def elapsed_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return self.wall_start_ms + round((self.now_s - 100.0) * 1_000)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


WriteTicks = Callable[..., Path]


@pytest.fixture
def write_ticks(tmp_path: Path) -> WriteTicks:
    """write_ticks(name, content, compressed=False): content is text, bytes, or a list of lines."""

    def write(name: str, content: str | bytes | list[str], compressed: bool = False) -> Path:
        if isinstance(content, list):
            content = "".join(f"{line}\n" for line in content)
        if isinstance(content, str):
            content = content.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if compressed else content)
        return path

    return write


def _real(name: str) -> Path:
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"real ticks are not here: {path}")
    return path


@pytest.fixture
def real_eurusd() -> Path:
    """9,500 HistData ticks of January 1st, 2020."""
    return _real("eurusd-ticks-2020-01-histdata.csv.gz")


@pytest.fixture
def real_usdjpy() -> Path:
    """1,000 TrueFX ticks of January 1st, 2013, under a timestamp,bid,ask header."""
    return _real("usdjpy-ticks-2013-01-truefx.csv")
