"""The faults of a run, from its seed: which, when, and on whom. Plain functions: a seed names a whole run.

A round begins when so many questions have been told, and only after the round before it has healed. It hits
servers (two of different shards at times), workers and clients at once. What is hit is named by a number that
the run takes modulo what is there at that moment.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ROUND_EVERY: Final = 10_000
ROUNDS_MIN: Final = 4
CLIENTS: Final = 4
CALLERS: Final = 150

SERVER_FAULTS: Final = (
    "F01 primary killed",
    "F02 primary killed with its replica cut off",
    "F03 primary stopped past its replacement",
    "F04 primary stopped for a moment",
    "F05 failover",
    "F06 failover by force",
    "F06 takeover",
    "F07 replica killed",
    "F08 connections killed",
    "F08 clients paused",
    "F09 failover there and back",
    "F10 slots moved at once",
    "F11 F12 slot moved key by key",
)
WORKER_FAULTS: Final = ("F40 worker killed", "F40 worker stopped", "F40 worker told to end")
CLIENT_FAULTS: Final = ("client killed",)
HOUSE_ACTS: Final = ("symbol halted for a moment", "system reducing for a moment")
NO_FAULT: Final = ""
SLOT_MOVES: Final = ("F10 slots moved at once", "F11 F12 slot moved key by key")
"""They come without another server's fault: a key on its way is on one server only."""

SECOND_SHARE: Final = 0.3
WORKER_SHARE: Final = 0.5
CLIENT_SHARE: Final = 0.35
HOUSE_SHARE: Final = 0.15


@dataclass(frozen=True)
class Fault:
    """`pick` chooses the victim, `share` (0 to 1) how long or how far it goes."""

    name: str
    pick: int
    share: float


@dataclass(frozen=True)
class Round:
    at_told: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Plan:
    """A run: its random clients ask until `orders` questions have been told and all rounds are over."""

    seed: int
    orders: int
    workers: int
    clients: int
    callers: int
    rounds: tuple[Round, ...]


def plan(
    seed: int,
    orders: int,
    workers: int,
    *,
    rounds: int | None = None,
    only: str = "",
    clients: int = CLIENTS,
    callers: int = CALLERS,
) -> Plan:
    """The same arguments, the same plan. `only`: of the servers' faults, those with this in their names."""
    chance = random.Random(seed)
    count = max(ROUNDS_MIN, orders // ROUND_EVERY) if rounds is None else rounds
    server_faults = _in_turn(chance, [name for name in SERVER_FAULTS if only in name], count)
    made = tuple(
        Round(orders * (number + 1) // (count + 1), _round(chance, server_faults[number]))
        for number in range(count)
    )
    return Plan(seed, orders, workers, clients, callers, made)


def _in_turn(chance: random.Random, names: Sequence[str], count: int) -> list[str]:
    """Every fault once before any comes again, in random order."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += chance.sample(names, len(names))
    return drawn[:count]


def _round(chance: random.Random, server_fault: str) -> tuple[Fault, ...]:
    others = [name for name in SERVER_FAULTS if name not in SLOT_MOVES]
    second = chance.choice(others) if chance.random() < SECOND_SHARE else NO_FAULT
    worker_fault = chance.choice(WORKER_FAULTS) if chance.random() < WORKER_SHARE else NO_FAULT
    client_fault = chance.choice(CLIENT_FAULTS) if chance.random() < CLIENT_SHARE else NO_FAULT
    house_act = chance.choice(HOUSE_ACTS) if chance.random() < HOUSE_SHARE else NO_FAULT
    names = [server_fault, worker_fault, client_fault, house_act]
    if server_fault not in SLOT_MOVES:
        names.insert(1, second)
    return tuple(Fault(name, chance.randrange(1 << 30), chance.random()) for name in names if name)
