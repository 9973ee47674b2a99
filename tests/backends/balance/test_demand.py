"""What a call asks of a replica: blocks that say the same of the same beginning, and nothing across tenants."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.balance.demand import BLOCK_BYTES, BLOCKS_MOST, Demand, demand_of
from headgate.core.call import Call
from tests.backends.calls import call

LONG = "In the beginning there was the system prompt. " * 100
TURNS = [
    {"role": "system", "content": LONG},
    {"role": "user", "content": "What came first? " * 100},
    {"role": "assistant", "content": "The egg did. " * 200},
    {"role": "user", "content": "And then? " * 300},
]


def _blocks(asked: Call, tenant: str = "acme") -> tuple[int, ...]:
    return demand_of(asked, tenant, 1_000, 100, blocks=True).blocks


def _chat(turns: list[dict[str, Any]], **fields: Any) -> Call:
    return call("m", messages=turns, **fields)


def test_a_conversation_that_goes_on_begins_with_the_blocks_it_had() -> None:
    before, after = _blocks(_chat(TURNS[:2])), _blocks(_chat(TURNS))
    assert len(before) == len(LONG + "What came first? " * 100) // BLOCK_BYTES
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert len(set(after)) == len(after)


def test_what_a_client_changes_from_turn_to_turn_changes_no_block() -> None:
    plain = _blocks(_chat(TURNS))
    assert _blocks(_chat(TURNS, temperature=0.5, max_tokens=7, stream=True, user="u", seed=4)) == plain


@pytest.mark.parametrize("place", range(4))
def test_a_text_that_differs_changes_all_blocks_from_there_on(place: int) -> None:
    turns = [dict(turn) for turn in TURNS]
    turns[place]["content"] = "X" + str(turns[place]["content"])[1:]
    plain, other = _blocks(_chat(TURNS)), _blocks(_chat(turns))
    whole = sum(len(str(turn["content"])) + len(str(turn["role"])) + 2 for turn in TURNS[:place]) // BLOCK_BYTES
    assert other[:whole] == plain[:whole]
    assert not set(other[whole + 1 :]) & set(plain)


def test_tenants_models_and_tools_share_no_block() -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    all_of = [
        _blocks(_chat(TURNS)),
        _blocks(_chat(TURNS), "umbrella"),
        _blocks(call("n", messages=TURNS)),
        _blocks(_chat(TURNS, tools=[tool])),
    ]
    assert len({block for blocks in all_of for block in blocks}) == sum(map(len, all_of))


def test_parts_tools_and_completions_have_blocks_too() -> None:
    parts = [{"type": "text", "text": LONG}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    assert len(_blocks(_chat([{"role": "user", "content": parts}]))) == len(LONG) // BLOCK_BYTES
    uses = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": LONG}}]
    assert _blocks(_chat([{"role": "assistant", "content": None, "tool_calls": uses}]))
    assert len(_blocks(call("m", operation="completion", prompt=LONG))) == len(LONG) // BLOCK_BYTES
    assert _blocks(call("m", operation="completion", prompt=list(range(2_000))))
    assert _blocks(call("m", operation="completion", prompt=[LONG, LONG]))
    assert _blocks(call("m", operation="embedding", input=LONG)) == ()


def test_short_prompts_and_routes_that_do_not_ask_have_none() -> None:
    assert _blocks(_chat([{"role": "user", "content": "Hello"}])) == ()
    assert demand_of(_chat(TURNS), "acme", 9, 8, blocks=False) == Demand(9, 8)


def test_the_number_of_blocks_is_bounded_and_the_rest_counts_as_unknown() -> None:
    asked = _chat([{"role": "user", "content": "word " * 200_000}])
    demand = demand_of(asked, "acme", 250_000, 100, blocks=True)
    assert len(demand.blocks) == BLOCKS_MOST
    assert demand.tokens_per_block * BLOCKS_MOST < 250_000 / 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=3_000)), min_size=1, max_size=6))
def test_any_text_has_blocks_that_cover_no_more_than_it(said: list[tuple[str, str]]) -> None:
    asked = _chat([{"role": role, "content": text} for role, text in said])
    demand = demand_of(asked, "acme", 500, 10, blocks=True)
    assert len(demand.blocks) * demand.tokens_per_block <= 500 + 1e-6
    assert demand == demand_of(asked, "acme", 500, 10, blocks=True)
