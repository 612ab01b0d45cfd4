"""What holds for everybody: the trading state of the whole system and of each symbol, the hours of each
symbol, and the groups.

Kept in two hashes of the cluster; each worker has a copy, which `house_store` keeps up to date. All of a
worker's partitions look at the one copy whenever they decide, so a change is effective for commands that
waited in a stream, too. Nothing of it is part of an account, which has its own copy of its group's terms:
accounts are rebuilt without it.
"""

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from tradewind.engine.hours import NEVER, Hours, HoursRuling, parse_hours
from tradewind.engine.messages import ACTIVE, HALTED, TradingState
from tradewind.engine.messages.groups import Terms, decode_terms

SYSTEM_FIELD: Final = "system"
SYMBOL_FIELD_PREFIX: Final = "symbol:"
HOURS_FIELD_PREFIX: Final = "hours:"
GROUP_FIELD_PREFIX: Final = "group:"
VERSION_FIELD: Final = "version"

logger = logging.getLogger(__name__)


class Ruling(msgspec.Struct, frozen=True, omit_defaults=True):
    """A trading state, why it was set, and when."""

    state: TradingState = ACTIVE
    why: str = ""
    at_ms: int = 0


OPEN: Final = Ruling()
UNREADABLE: Final = Ruling(HALTED, "the state in the cluster cannot be read")


class House:
    """Empty, as it begins, it lets everything pass. `version` grows with every change in the cluster."""

    __slots__ = ("groups", "hours", "symbols", "system", "version")

    def __init__(self) -> None:
        self.version = 0
        self.system = OPEN
        self.symbols: Mapping[str, Ruling] = {}  # those that are not active
        self.hours: Mapping[str, Hours] = {}  # those that are not traded always
        self.groups: Mapping[str, Terms] = {}

    def __repr__(self) -> str:
        symbols = "".join(f", {symbol} {ruling.state}" for symbol, ruling in sorted(self.symbols.items()))
        return f"<House version {self.version}: system {self.system.state}{symbols}>"

    def is_open(self, symbol: str, now_ms: int) -> bool:
        """Whether it is within the hours of the symbol."""
        hours = self.hours.get(symbol)
        return hours is None or hours.is_open(now_ms)

    def take(self, rules: Mapping[str, str]) -> None:
        """Replace everything by what the cluster has. What is older than what is known is left out.

        A state that cannot be read halts what it is about: trading on what nobody knows would be worse. So do
        hours that cannot be read; a group that cannot be read takes no account.
        """
        version = int(rules.get(VERSION_FIELD, "0"))
        if version < self.version:
            return
        self.version = version
        self.system = _ruling(rules, SYSTEM_FIELD)
        symbols = {
            name.removeprefix(SYMBOL_FIELD_PREFIX): _ruling(rules, name)
            for name in rules
            if name.startswith(SYMBOL_FIELD_PREFIX)
        }
        self.symbols = {symbol: ruling for symbol, ruling in symbols.items() if ruling.state != ACTIVE}

        hours = {
            name.removeprefix(HOURS_FIELD_PREFIX): _hours(rules, name)
            for name in rules
            if name.startswith(HOURS_FIELD_PREFIX)
        }
        self.hours = {symbol: each for symbol, each in hours.items() if each is not None}

        named = ((name.removeprefix(GROUP_FIELD_PREFIX), name) for name in rules)
        groups = {group: _terms(rules, name) for group, name in named if group != name}
        self.groups = {group: terms for group, terms in groups.items() if terms is not None}


def _terms(rules: Mapping[str, str], name: str) -> Terms | None:
    try:
        return decode_terms(rules[name])
    except msgspec.MsgspecError as error:
        logger.error("%s takes no account: its terms %r: %s", name, rules[name], error)
        return None


def _hours(rules: Mapping[str, str], name: str) -> Hours | None:
    try:
        return parse_hours(_decode_hours(rules[name]).hours)
    except (ValueError, msgspec.MsgspecError) as error:
        logger.error("%s is closed: its hours %r: %s", name, rules[name], error)
        return NEVER


def _ruling(rules: Mapping[str, str], name: str) -> Ruling:
    if name not in rules:
        return OPEN
    try:
        return _decode_ruling(rules[name])
    except msgspec.MsgspecError as error:
        logger.error("%s is halted: its trading state %r: %s", name, rules[name], error)
        return UNREADABLE


_decode_hours: Final = msgspec.json.Decoder(HoursRuling).decode
_decode_ruling: Final = msgspec.json.Decoder(Ruling).decode
encode_rules: Final = msgspec.json.Encoder().encode
decode_rules: Final = msgspec.json.Decoder(dict[str, str]).decode
