"""One caller of a random client: what it asks next, and what it remembers of the answers. No I/O.

Its questions follow from its seed and the answers it got. It asks for new orders, alone or in a burst, asks
again what was answered long ago, asks again what it does not know, and tries other orders under ids that it
has used.
"""

import random
from dataclasses import dataclass
from typing import Final

from tests.ledger.orders import AccountView, other_body, random_command
from tradewind.engine.messages import Answer, Command

DESKS: Final = 2
ACCOUNTS: Final = 3
ANSWERED_KEPT_MAX: Final = 300
BURST_SHARE: Final = 0.05
BURST_MAX: Final = 12
REPEAT_SHARE: Final = 0.05
OTHER_BODY_SHARE: Final = 0.03
UNKNOWN_SHARE: Final = 0.5
"""How often an outcome that is not known is asked for before anything new."""

GIVE_UP_SHARE: Final = 0.04
GIVE_UP_AFTER_S_MAX: Final = 0.03
IMPATIENT_SHARE: Final = 0.04
IMPATIENT_S: Final = 0.3
PATIENCE_S: Final = 30.0


@dataclass(frozen=True)
class Question:
    """A command to hand in through one of the client's desks, which know nothing of each other.

    `gives_up`: the caller is cancelled after `patience_s`; else that is the deadline.
    """

    command: Command
    desk: int = 0
    patience_s: float = PATIENCE_S
    gives_up: bool = False


class Trader:
    """`name` is part of its ids and accounts. A later `life` of the same trader has the same accounts."""

    def __init__(self, seed: int, name: str, life: int) -> None:
        self.views = {account: AccountView(account) for n in range(ACCOUNTS) if (account := f"{name}-{n}")}
        self.unknown: dict[tuple[str, str, str], Command] = {}
        self._chance = random.Random(f"{seed}/{name}/{life}")
        self._prefix = f"{name}.{life}"
        self._number = 0
        self._answered: list[Command] = []

    def next_questions(self) -> list[Question]:
        """What to ask now, all at once. Never two under one id."""
        chance = self._chance
        if self.unknown and chance.random() < UNKNOWN_SHARE:
            return [self._in_some_manner(chance.choice(list(self.unknown.values())))]
        if self._answered and chance.random() < REPEAT_SHARE + OTHER_BODY_SHARE:
            known = chance.choice(self._answered)
            is_other = chance.random() * (REPEAT_SHARE + OTHER_BODY_SHARE) < OTHER_BODY_SHARE
            return [self._in_some_manner(other_body(chance, known) if is_other else known)]
        count = 1 + (chance.randrange(BURST_MAX) if chance.random() < BURST_SHARE else 0)
        return [self._in_some_manner(self._new_command()) for _ in range(count)]

    def open_questions(self) -> list[Question]:
        """Everything whose outcome is not known; of several under one id, the first."""
        firsts = {(command.account, command.id): command for command in reversed(self.unknown.values())}
        return [Question(command) for command in firsts.values()]

    def _new_command(self) -> Command:
        self._number += 1
        view = self._chance.choice(list(self.views.values()))
        return random_command(self._chance, view, f"{self._prefix}-{self._number}")

    def _in_some_manner(self, command: Command) -> Question:
        desk, chance = self._chance.randrange(DESKS), self._chance.random()
        if chance < GIVE_UP_SHARE:
            return Question(command, desk, self._chance.random() * GIVE_UP_AFTER_S_MAX, gives_up=True)
        return Question(
            command, desk, IMPATIENT_S if chance < GIVE_UP_SHARE + IMPATIENT_SHARE else PATIENCE_S
        )

    def learn(self, command: Command, answer: Answer) -> None:
        self.unknown.pop(_key(command), None)
        if command.account in self.views:
            self.views[command.account].learn(command, answer)
        if len(self._answered) < ANSWERED_KEPT_MAX:
            self._answered.append(command)
        else:
            self._answered[self._chance.randrange(ANSWERED_KEPT_MAX)] = command

    def learn_nothing(self, command: Command) -> None:
        """It may have taken effect or not: it will be asked again."""
        self.unknown[_key(command)] = command


def _key(command: Command) -> tuple[str, str, str]:
    return command.account, command.id, repr(command)
