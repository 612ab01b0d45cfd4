"""One random client: a process with two order desks and many callers, `python -m tests.ledger.client`.

Takes its configuration as one JSON argument. Says on standard output, line by line, how many questions have
been told; asks nothing new when a line comes on standard input, ends when it knows every outcome, and at
once when standard input ends. Killed, and started again with the same history, it asks first for what it
does not know.
"""

import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import RedisError

from tests.ledger.history import HistoryWriter, Silence, askings
from tests.ledger.trader import DESKS, Question, Trader
from tradewind import ClientClosed, OutcomeUnknown, Overloaded, RedisCluster
from tradewind.embedded.ports import HOST
from tradewind.engine.desk import OrderDesk
from tradewind.engine.messages import Answer
from tradewind.ops.loop import run_loop

SAY_EVERY_S = 0.2
START_S_MAX = 30.0
PAUSE_S = 0.2  # of a caller who was not served at all


class ClientConfig(msgspec.Struct, frozen=True):
    ports: list[int]
    partitions: int
    history: str
    seed: int
    number: int
    life: int
    callers: int


class Progress(msgspec.Struct, frozen=True):
    """`told` counts over all lives of the client."""

    told: int
    unknown: int
    settled: bool = False


class Client:
    def __init__(self, config: ClientConfig, desks: list[OrderDesk], history: HistoryWriter) -> None:
        self._config = config
        self._desks = desks
        self._history = history
        self._told = 0
        self._is_ending = asyncio.Event()
        self._traders = {name: Trader(config.seed, name, config.life) for name in self._names()}

    def _names(self) -> list[str]:
        return [f"c{self._config.number}x{caller}" for caller in range(self._config.callers)]

    def recall(self) -> None:
        """What earlier lives of this client asked and were told."""
        for asking in askings(Path(self._config.history)):
            trader = self._traders[asking.command.account.partition("-")[0]]
            if asking.answer is not None:
                self._told += 1
                trader.learn(asking.command, asking.answer)
            elif asking.how != "not_sent":
                trader.learn_nothing(asking.command)

    async def run(self) -> None:
        reporter = asyncio.create_task(self._report())
        listener = asyncio.create_task(self._listen())
        try:
            async with asyncio.TaskGroup() as group:
                for trader in self._traders.values():
                    group.create_task(self._trade(trader))
        finally:
            reporter.cancel()
            listener.cancel()
            await asyncio.gather(reporter, listener, return_exceptions=True)
        self._say(settled=True)

    async def _trade(self, trader: Trader) -> None:
        """Ask on and on; at the end, ask until every outcome is known."""
        while not self._is_ending.is_set():
            await self._ask_all(trader, trader.next_questions())
        while trader.unknown:
            await self._ask_all(trader, trader.open_questions())

    async def _ask_all(self, trader: Trader, questions: list[Question]) -> None:
        await asyncio.gather(*(self._ask(trader, question) for question in questions))

    async def _ask(self, trader: Trader, question: Question) -> None:
        command = question.command
        asking = self._history.asked(command)
        answer = await self._outcome(question)
        if isinstance(answer, Answer):
            self._history.told(asking, answer)
            self._told += 1
            trader.learn(command, answer)
            return
        self._history.ended(asking, answer)
        if answer == "not_sent":
            await asyncio.sleep(PAUSE_S)
        else:
            trader.learn_nothing(command)

    async def _outcome(self, question: Question) -> Answer | Silence:
        desk = self._desks[question.desk]
        try:
            if not question.gives_up:
                return await desk.submit(question.command, deadline_s=question.patience_s)
            async with asyncio.timeout(question.patience_s):
                return await desk.submit(question.command)
        except TimeoutError:
            return "given_up"
        except OutcomeUnknown:
            return "unknown"
        except (Overloaded, ClientClosed):
            return "not_sent"

    async def _report(self) -> None:
        while True:
            self._say()
            await asyncio.sleep(SAY_EVERY_S)

    def _say(self, *, settled: bool = False) -> None:
        unknown = sum(len(trader.unknown) for trader in self._traders.values())
        line = msgspec.json.encode(Progress(self._told, unknown, settled)).decode()
        print(line, flush=True)

    async def _listen(self) -> None:
        """A line is the wish to end; the end of the input is the end of whoever started us."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        if await reader.readline():
            self._is_ending.set()
            await reader.read()
        os._exit(1)  # nobody is there to hear of anything else


async def _started_desk(client: RedisCluster, partitions: int) -> OrderDesk:
    """Servers may be down at this moment: a desk that did not start is followed by another."""
    deadline_s = time.monotonic() + START_S_MAX
    while True:
        desk = OrderDesk(client, partitions)
        try:
            await desk.start()
            return desk
        except RedisError:
            await desk.aclose()
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(PAUSE_S)


async def main(config: ClientConfig) -> None:
    async with AsyncExitStack() as stack:
        client = RedisCluster(startup_nodes=[ClusterNode(HOST, port) for port in config.ports])
        stack.push_async_callback(client.aclose)
        desks = []
        for _ in range(DESKS):
            desks.append(await _started_desk(client, config.partitions))
            stack.push_async_callback(desks[-1].aclose)
        history = HistoryWriter(Path(config.history))
        stack.callback(history.close)
        caller = Client(config, desks, history)
        caller.recall()
        await caller.run()


if __name__ == "__main__":
    run_loop(main(msgspec.json.decode(sys.argv[1], type=ClientConfig)))
