"""Each kind of fault, planted in a sound history, is found and counted as what it is."""

from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from tests.ops.history import History, Scribe, short_history
from tradewind import clock
from tradewind.engine.account import from_fields, to_fields
from tradewind.engine.keys import DAY_MS
from tradewind.engine.ledger import rebuild
from tradewind.engine.messages import (
    AccountOpened,
    AllCanceled,
    Amend,
    CancelAll,
    CloseAll,
    Deposit,
    Deposited,
    OpenAccount,
    OrderAccepted,
    OrderAmended,
    OrderCanceled,
    OrderFilled,
    OrderReduced,
    Place,
    PositionClosed,
    PositionsClosedBy,
    decode_event,
    encode,
)
from tradewind.ops.partition_audit import FINDINGS_MAX, Findings, PartitionAudit

Damage = Callable[[History], None]
COUNTS = ("lost", "duplicated", "balance_errors", "gaps", "mismatched", "answer_errors")


def examine(history: History) -> PartitionAudit:
    """All that `audit` does with one partition, without a cluster."""
    found = PartitionAudit(history.partition)
    for sequence, event in enumerate(history.events, 1):
        if event:  # an empty one is missing from the stream
            found.take(f"{sequence}-0", event)
    found.check_accounts(history.accounts)
    found.end(len(history.events))
    found.check_money()
    found.check_stored_answers(history.answers.items(), clock.now_ms() // DAY_MS)
    found.check_told(history.journal)
    return found


def counts(found: Findings) -> dict[str, int]:
    return {name: getattr(found, name) for name in COUNTS if getattr(found, name)}


def index_of(history: History, kind: type) -> int:
    return next(i for i, event in enumerate(history.events) if type(decode_event(event)) is kind)


def forged(history: History, kind: type, **changes: object) -> None:
    index = index_of(history, kind)
    history.events[index] = encode(msgspec.structs.replace(decode_event(history.events[index]), **changes))


def told_otherwise(history: History, **changes: object) -> None:
    index = next(i for i, entry in enumerate(history.journal) if entry.told and entry.told.profit)
    entry = history.journal[index]
    told = msgspec.structs.replace(entry.told, **changes)
    history.journal[index] = msgspec.structs.replace(entry, told=told)


def stored_otherwise(history: History) -> None:
    key = next(iter(history.answers))
    history.answers[key] = history.answers[key].replace(b'"done"', b'"lost"')


def first_key(history: History) -> str:
    return next(iter(history.answers))


def test_a_sound_history_is_clean():
    found = examine(short_history(1))
    assert counts(found.findings) == {}, found.findings.sentences
    assert found.findings.clean
    assert len(found.stop_outs) >= 2


def test_the_history_has_every_kind_of_event():
    kinds = {type(decode_event(event)).__name__ for event in short_history(1).events}
    assert {"AccountOpened", "Deposited", "OrderFilled", "OrderRejected", "PositionClosed"} <= kinds
    assert {"AllClosed", "MarginCall", "AllCanceled", "PositionProtected", "PositionsClosedBy"} <= kinds
    assert {"OrderAccepted", "OrderAmended", "OrderTriggered", "OrderCanceled", "OrderReduced"} <= kinds


def drop_event(history: History) -> None:
    history.events[index_of(history, OrderFilled)] = b""


def cut_event_short(history: History) -> None:
    index = index_of(history, OrderFilled)
    history.events[index] = history.events[index][:20]


def drop_last_event(history: History) -> None:
    history.events[-1] = b""


def repeat_deposit(history: History) -> None:
    """The same client order id takes effect twice, with sums that add up."""
    event = decode_event(history.events[index_of(history, Deposited)])
    account = history.accounts[event.account]
    history.events.append(
        encode(msgspec.structs.replace(event, balance=int(account["balance"]) + event.amount))
    )
    account["balance"] = str(int(account["balance"]) + event.amount)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        # The fill's command has answers and no event; its account no longer adds up.
        (drop_event, {"gaps": 1, "lost": 1, "balance_errors": 1}),
        (drop_last_event, {"gaps": 1, "lost": 1}),
        (repeat_deposit, {"duplicated": 1}),
        (cut_event_short, {"gaps": 1, "lost": 1, "balance_errors": 1}),
        (lambda h: h.accounts[next(iter(h.accounts))].update(balance="1"), {"balance_errors": 1}),
        (lambda h: h.accounts[next(iter(h.accounts))].update(used_margin="1"), {"balance_errors": 1}),
        (lambda h: h.accounts[next(iter(h.accounts))].update({"position:9-9": "{}"}), {"balance_errors": 1}),
        (lambda h: h.accounts.update(ghost={"id": "ghost"}), {"balance_errors": 1}),
        (lambda h: told_otherwise(h, price=1), {"mismatched": 1}),
        (lambda h: told_otherwise(h, profit=1), {"mismatched": 1}),
        (lambda h: told_otherwise(h, balance=1), {"mismatched": 1}),
        (lambda h: told_otherwise(h, position="1-99"), {"mismatched": 1}),
        (lambda h: told_otherwise(h, status="rejected"), {"mismatched": 1}),
        (stored_otherwise, {"answer_errors": 1}),
        (lambda h: h.answers.pop(first_key(h)), {"answer_errors": 1}),
        (lambda h: h.answers.update({"A:never": h.answers[first_key(h)]}), {"lost": 1}),
    ],
)
def test_a_planted_fault_is_counted_as_what_it_is(damage: Damage, expected: dict[str, int]):
    history = short_history(1)
    damage(history)
    found = examine(history).findings
    assert counts(found) == expected, found.sentences
    assert not found.clean


def test_a_fill_that_nobody_asked_for_so_is_a_mismatch():
    history = short_history(1)
    forged(history, OrderFilled, side="sell")
    assert counts(examine(history).findings) == {"mismatched": 1}


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        (OrderAccepted, {"volume": 4_000}, {"mismatched"}),
        (OrderCanceled, {"left": 1_000}, {"mismatched", "answer_errors"}),
        (OrderReduced, {"price": 1}, {"mismatched", "answer_errors"}),
        (OrderAmended, {"volume": 2_000}, {"balance_errors"}),
        (PositionsClosedBy, {"by": "1-99"}, {"balance_errors", "mismatched"}),
        (AllCanceled, {"canceled": 7}, {"mismatched", "answer_errors"}),
    ],
)
def test_a_forged_event_of_an_order_is_found(kind: type, changes: dict[str, object], expected: set[str]):
    history = short_history(1)
    forged(history, kind, **changes)
    assert counts(examine(history).findings).keys() >= expected


def test_a_forged_amount_breaks_the_account():
    history = short_history(1)
    forged(history, PositionClosed, profit=12_345)
    assert examine(history).findings.balance_errors == 1


def test_an_unknown_outcome_may_have_happened_or_not():
    history = short_history(1)
    history.journal[3] = msgspec.structs.replace(history.journal[3], told=None)
    asked = msgspec.structs.replace(history.journal[3].asked, id="never-arrived")
    history.journal.append(msgspec.structs.replace(history.journal[3], asked=asked))
    assert examine(history).findings.clean


def test_an_answer_of_long_ago_may_have_been_forgotten():
    history = short_history(1)
    history.answers.clear()
    found = PartitionAudit(1)
    for sequence, event in enumerate(history.events, 1):
        found.take(f"{sequence}-0", event)
    found.end(len(history.events))
    found.check_stored_answers([], clock.now_ms() // DAY_MS + 2)
    assert found.findings.clean


def test_sentences_are_few_and_counts_go_on():
    history = short_history(1)
    found = examine(History(1, journal=history.journal * 2))
    assert found.findings.lost == len(history.journal) > FINDINGS_MAX
    assert len(found.findings.sentences) == FINDINGS_MAX


def test_an_id_may_be_used_again_once_its_answer_is_forgotten():
    def audited(kept_ms: int | None) -> PartitionAudit:
        found = PartitionAudit(3, kept_ms)
        found.take("1-0", encode(AccountOpened(account="A1", at_ms=0, cause="open", leverage=100)))
        for number, day in ((1, 0), (2, 5), (3, 6)):
            event = Deposited(account="A1", at_ms=day * DAY_MS, cause="pay", amount=1, balance=number)
            found.take(f"{number + 1}-0", encode(event))
        return found

    assert audited(4 * DAY_MS).findings.duplicated == 1  # the one a day later
    assert audited(None).findings.duplicated == 2


def history_of_orders() -> History:
    """Orders that rest, are filled, amended, canceled, set off, expired, reduced."""
    scribe = Scribe(1)
    scribe.quote(112_120)
    for name in ("A1", "A2"):
        scribe.run(OpenAccount(account=name, id="open"))
        scribe.run(Deposit(account=name, id="fund", amount=1_000_000))
        buy = partial(Place, account=name, symbol="EURUSD", side="buy", volume=20_000)
        scribe.run(buy(id="now", stop_loss=112_000))
        scribe.run(buy(id="limit", kind="limit", price=112_130))
        resting = scribe.run(buy(id="rests", kind="limit", price=111_900))
        scribe.run(buy(id="stop", kind="stop", stop_price=112_500))
        scribe.run(buy(id="day", kind="limit", price=111_500, time_in_force="day"))
        scribe.run(Amend(account=name, id="amend", order=resting.order or "", price=111_950))
        scribe.run(buy(id="less", side="sell", volume=30_000, reduce_only=True))
    scribe.quote(111_940)
    scribe.quote(112_600)
    scribe.run(CancelAll(account="A1", id="cancel-all"))
    scribe.run(CloseAll(account="A2", id="close-all"))
    scribe.now_ms += DAY_MS
    scribe.quote(112_600)
    return scribe.finish()


@pytest.mark.parametrize("make", [partial(short_history, 1), history_of_orders], ids=["market", "resting"])
def test_from_a_checkpoint_after_any_command_the_rest_is_proved(make: Callable[[], History]):
    history = make()
    events = [decode_event(payload) for payload in history.events]
    today = clock.now_ms() // DAY_MS
    for sequence in range(1, len(events)):
        before, after = events[sequence - 1], events[sequence]
        if (before.account, before.cause) == (after.account, after.cause):
            continue
        kept = {name: to_fields(account) for name, account in rebuild(events[:sequence]).items()}
        found = PartitionAudit(1)
        found.begin(sequence, {name: from_fields(fields) for name, fields in kept.items()})
        for number in range(sequence + 1, len(events) + 1):
            found.take(f"{number}-0", history.events[number - 1])
        found.end(len(events))
        found.check_accounts(history.accounts)
        found.check_money()
        found.check_stored_answers(history.answers.items(), today)
        found.check_told(history.journal)
        assert found.findings.clean, (sequence, found.findings.sentences)
        assert found.events == len(events) - sequence
