"""Each kind of fault, planted in a sound history and the cluster that goes with it, is found for what it is.

The places are drawn from a seed.
"""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from tests.ledger.checker import Verdict, check
from tests.ledger.history import Asked, HistoryWriter, Line, Told, read_history
from tests.ledger.orders import other_body
from tests.ops.history import PARTITIONS, History, short_history
from tradewind import RedisCluster, clock
from tradewind.embedded import EmbeddedCluster
from tradewind.engine.keys import DAY_MS, PartitionKeys
from tradewind.engine.messages import RejectReason, duplicate_id_answer
from tradewind.engine.opening import open_engine
from tradewind.engine.partition import FINGERPRINT_DIGITS

SECOND_NS = 1_000_000_000


@dataclass
class Scene:
    """A cluster that has traded, what its callers asked, and a seeded choice of where to do damage."""

    client: RedisCluster
    histories: list[History]
    path: Path
    chance: random.Random
    faults_ended_ns: int = 0

    # -- the cluster ---------------------------------------------------------------------------------

    def partition(self) -> tuple[PartitionKeys, History]:
        history = self.chance.choice(self.histories)
        return PartitionKeys(history.partition), history

    def account(self) -> str:
        keys, history = self.partition()
        return keys.account(self.chance.choice(sorted(history.accounts)))

    def answer(self) -> tuple[str, str, bytes]:
        """Key, field and value of a stored answer."""
        keys, history = self.partition()
        name = self.chance.choice(sorted(history.answers))
        return keys.ids(clock.now_ms() // DAY_MS), name, history.answers[name]

    # -- the history ---------------------------------------------------------------------------------

    def told(self) -> Told:
        """An answer, no refusal of another body."""
        told = [line for line in self.lines() if isinstance(line, Told)]
        answers = [line for line in told if line.answer.reason is not RejectReason.DUPLICATE_ID]
        return self.chance.choice(answers)

    def lines(self) -> list[Line]:
        return list(read_history(self.path))

    def replace(self, old: Line, *new: Line) -> None:
        lines = self.lines()
        at = lines.index(old)
        lines[at : at + 1] = new
        self.path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def question_of(self, told: Told) -> Asked:
        return next(line for line in self.lines() if isinstance(line, Asked) and line.asking == told.asking)

    async def checked(self) -> Verdict:
        return await check(self.client, PARTITIONS, [self.path], self.faults_ended_ns or time.monotonic_ns())


@pytest.fixture(params=[1, 2, 3])
async def scene(clean_cluster: EmbeddedCluster, tmp_path: Path, request: pytest.FixtureRequest):
    """Every command asked once; some asked again; another body under some ids, refused."""
    client = RedisCluster.from_url(clean_cluster.url)
    await open_engine(client, PARTITIONS)
    chance = random.Random(request.param)
    histories = [short_history(partition) for partition in range(PARTITIONS)]
    writer = HistoryWriter(tmp_path / "history")
    for history in histories:
        await history.write(client)
        for entry in history.journal:
            assert entry.told is not None
            asking = writer.asked(entry.asked)
            if chance.random() < 0.2:
                writer.ended(asking, "unknown")
                asking = writer.asked(entry.asked)
            writer.told(asking, entry.told)
            if chance.random() < 0.2:
                other = other_body(chance, entry.asked)
                writer.told(writer.asked(other), duplicate_id_answer(other))
            if chance.random() < 0.2:
                writer.told(writer.asked(entry.asked), entry.told)
    writer.close()
    yield Scene(client, histories, tmp_path / "history", chance)
    await client.aclose()


async def test_a_sound_history_is_clean(scene: Scene):
    verdict = await scene.checked()
    assert verdict.clean, (verdict.sentences, verdict.audit.findings.sentences)
    assert verdict.orders == sum(len(history.journal) for history in scene.histories)
    assert verdict.told == sum(isinstance(line, Told) for line in scene.lines())
    assert verdict.repeats > 0
    assert verdict.refused_bodies > 0


async def _drop_event(scene: Scene) -> None:
    keys, history = scene.partition()
    await scene.client.xdel(keys.events, f"{scene.chance.randrange(len(history.events)) + 1}-0")


async def _double_event(scene: Scene) -> None:
    """As if an order had taken effect twice, and been counted."""
    keys, history = scene.partition()
    deposits = [event for event in history.events if b'"deposited"' in event]
    sequence = len(history.events) + 1
    event = scene.chance.choice(deposits)
    await scene.client.execute_command("XADD", keys.events, f"{sequence}-0", "event", event)
    await scene.client.hset(keys.cursor, "sequence", sequence)


async def _change_balance(scene: Scene) -> None:
    await scene.client.hincrby(scene.account(), "balance", scene.chance.choice((-1, 1)))


async def _change_margin(scene: Scene) -> None:
    await scene.client.hincrby(scene.account(), "used_margin", 1)


async def _drop_account(scene: Scene) -> None:
    await scene.client.delete(scene.account())


async def _drop_answer(scene: Scene) -> None:
    key, name, _ = scene.answer()
    await scene.client.hdel(key, name)


async def _change_kept_answer(scene: Scene) -> None:
    key, name, value = scene.answer()
    await scene.client.hset(key, name, value.replace(b'"sequence":', b'"sequence":9'))


async def _change_kept_body(scene: Scene) -> None:
    """The kept answer belongs to another question than the one that was asked."""
    key, name, value = scene.answer()
    await scene.client.hset(key, name, b"0" * FINGERPRINT_DIGITS + value[FINGERPRINT_DIGITS:])


async def _change_told(scene: Scene) -> None:
    told = scene.told()
    changed = msgspec.structs.replace(told.answer, sequence=told.answer.sequence + 1)
    scene.replace(told, msgspec.structs.replace(told, answer=changed))


async def _change_one_of_two_tellings(scene: Scene) -> None:
    told = scene.told()
    question = scene.question_of(told)
    changed = msgspec.structs.replace(told.answer, balance=(told.answer.balance or 0) + 1)
    again = [
        msgspec.structs.replace(question, asking=10_000),
        Told(10_000, told.at_ns, changed),
    ]
    scene.replace(told, told, *again)


async def _tell_of_an_order_that_never_was(scene: Scene) -> None:
    told = scene.told()
    question = scene.question_of(told)
    command = msgspec.structs.replace(question.command, id="never-arrived")
    scene.replace(question, msgspec.structs.replace(question, command=command))


async def _accept_another_body(scene: Scene) -> None:
    told = scene.told()
    question = scene.question_of(told)
    other = other_body(scene.chance, question.command)
    kept = next(
        history.journal[at].told
        for history in scene.histories
        for at, entry in enumerate(history.journal)
        if (entry.asked.account, entry.asked.id) == (other.account, other.id)
    )
    assert kept is not None
    again = [Asked(10_000, told.at_ns, other), Told(10_000, told.at_ns + 1, kept)]
    scene.replace(told, told, *again)


async def _forget_an_unknown(scene: Scene) -> None:
    asked = scene.lines()[0]
    assert isinstance(asked, Asked)
    command = msgspec.structs.replace(asked.command, id="never-asked-again")
    scene.replace(asked, asked, Asked(10_000, asked.at_ns, command))


async def _resolve_too_late(scene: Scene) -> None:
    told = scene.told()
    scene.faults_ended_ns = told.at_ns
    for line in [line for line in scene.lines() if isinstance(line, Told)]:
        if scene.question_of(line).command == scene.question_of(told).command:
            scene.replace(line, msgspec.structs.replace(line, at_ns=line.at_ns + 11 * SECOND_NS))


async def _tell_the_last_one_first(scene: Scene) -> None:
    """The last order of a partition was told before its first one was asked."""
    _, history = scene.partition()
    last = history.journal[-1].asked
    first_ns = min(line.at_ns for line in scene.lines())
    for line in scene.lines():
        question = line if isinstance(line, Asked) else scene.question_of(line)
        if question.command == last:
            early_ns = first_ns - (2 if isinstance(line, Asked) else 1)
            scene.replace(line, msgspec.structs.replace(line, at_ns=early_ns))


Damage = Callable[[Scene], Awaitable[None]]


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (_drop_event, "gaps"),
        (_double_event, "duplicated"),
        (_change_balance, "balance_errors"),
        (_change_margin, "balance_errors"),
        (_drop_account, "balance_errors"),
        (_drop_answer, "missing"),
        (_change_kept_answer, "changed"),
        (_change_kept_body, "not refused"),
        (_change_told, "changed"),
        (_change_one_of_two_tellings, "changed"),
        (_tell_of_an_order_that_never_was, "missing"),
        (_accept_another_body, "not refused"),
        (_forget_an_unknown, "unresolved"),
        (_resolve_too_late, "late"),
        (_tell_the_last_one_first, "order"),
    ],
)
async def test_a_planted_fault_is_found(scene: Scene, damage: Damage, name: str):
    await damage(scene)
    verdict = await scene.checked()
    assert not verdict.clean
    found = {**verdict.audit.as_dict(), **verdict.found}
    assert found.get(name), found
