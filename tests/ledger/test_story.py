"""What the ledger keeps of an attempt's story comes back, the same on SQLite and PostgreSQL; old lines ship too."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from headgate.core.errors import NotFound
from headgate.core.usage import Receipt, Usage
from headgate.ledger.accounts.questions import Accounts
from headgate.ledger.accounts.store import Store as Reader
from headgate.ledger.accounts.story import Story, tell
from headgate.ledger.events import usage_event
from headgate.ledger.journal import decode
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from tests.cli.stories import CALL, RESCUED
from tests.ledger.test_journal import receipt

NEW = {"replica", "reason", "begun_ms", "queue_ms", "overhead_ms", "passed_over"}


async def nothing() -> None:
    return


def kept(url: str, receipts: list[Receipt], call_id: str) -> tuple[list[Receipt], list[Receipt], Story]:
    async def main() -> tuple[list[Receipt], list[Receipt], Story]:
        sql = await open_sql(url)
        try:
            await Store(sql).add_receipts(receipts, "log", 1)
            return *await Reader(sql).call(call_id), await Accounts(Reader(sql), nothing).story_of(call_id)
        finally:
            await sql.aclose()

    return asyncio.run(main())


def test_a_call_s_entries_come_back_as_they_were_in_order_and_without_others(sql_url: str) -> None:
    mend = structs.replace(receipt(9), id="cor_1", outcome="correction", corrects=RESCUED[0].id)
    entries, corrections, story = kept(sql_url, [receipt(1), *reversed(RESCUED), mend], CALL)
    assert entries == RESCUED
    assert corrections == [mend]
    assert [step.id for step in story.attempts] == [entry.id for entry in RESCUED]
    assert [each.id for each in story.corrections] == ["cor_1"]


def test_a_journal_line_from_before_ships_and_reads_as_a_first_attempt(sql_url: str) -> None:
    line = msgspec.json.encode(receipt(4, queue_ms=7.0))
    old = msgspec.json.encode({name: value for name, value in msgspec.json.decode(line).items() if name not in NEW})
    (found,) = decode([old])
    assert isinstance(found, Receipt)
    entries, _, story = kept(sql_url, [found], "req_4")
    assert entries == [receipt(4)]
    assert (story.queue_ms, story.overhead_ms, story.attempts[0].waited_ms) == (None, None, None)


def test_a_call_without_attempts_is_not_found_and_says_where_to_look(sql_url: str) -> None:
    with pytest.raises(NotFound, match=r"call\.done.*request_id"):
        kept(sql_url, [receipt(1)], "req_\x00nobody")


def test_events_tell_what_the_ledger_keeps() -> None:
    data = msgspec.json.decode(usage_event(RESCUED[1], "/headgate/x").message.body)["data"]
    assert {name: data[name] for name in NEW} == {name: getattr(RESCUED[1], name) for name in NEW}


def test_the_answer_of_a_call_is_that_of_the_attempt_that_succeeded() -> None:
    hedged = [RESCUED[2], structs.replace(RESCUED[0], attempt=4, outcome="cancelled", status=499)]
    assert (tell(CALL, hedged).outcome, tell(CALL, hedged).status) == ("ok", 200)
    assert (tell(CALL, RESCUED[:2]).outcome, tell(CALL, RESCUED[:2]).code) == ("failed", "upstream_stalled")


numbers = st.none() | st.floats(0, 1e6)


@given(
    st.lists(
        st.builds(
            receipt, st.integers(0, 10**6), queue_ms=numbers, overhead_ms=numbers, begun_ms=numbers, ttft_ms=numbers,
            cost_nanos=st.none() | st.integers(0, 10**12),
        ),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_sums_are_those_of_the_attempts_and_no_time_is_negative(entries: list[Receipt]) -> None:
    story = tell("c", entries)
    assert story.input_tokens == sum(entry.usage.input for entry in entries)
    costs = [entry.cost_nanos for entry in entries]
    assert story.cost_nanos == (None if None in costs else sum(cost or 0 for cost in costs))
    assert all(step.at_ms >= 0 and (step.waited_ms or 0) >= 0 for step in story.attempts)
    assert story.duration_ms >= max(step.duration_ms for step in story.attempts)


def test_usage_without_tokens_needs_no_price() -> None:
    free = structs.replace(RESCUED[0], cost_nanos=None, usage=Usage())
    assert tell(CALL, [free, RESCUED[2]]).cost_nanos == 120_450
    assert tell(CALL, [free]).cost_nanos is None
