"""Compiling aside: nothing waits for it, it is bounded in number, time and memory, and what dies of it is not us."""

import gc
import json
import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.core.errors import BadCall, Overloaded
from headgate.engine.grammars.grammar import COMPILED_AT_ONCE, MAX_ASKED, MAX_ASKED_EACH, Grammars, Ticket
from headgate.engine.grammars.turns import Turns
from tests.backends import folders

TOKENIZER = folders.tokenizer()
END = TOKENIZER.get_vocab()["<|im_end|>"]
SLOW = "start: %json " + json.dumps(
    {"allOf": [{"type": "string", "pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrstu"]}
)
LONGEST_S = 30.0
LINUX = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="a process's children are listed in /proc only, which macOS has not"
)


def grammars() -> Grammars:
    return Grammars(TOKENIZER.to_str(), vocabulary=TOKENIZER.get_vocab_size(), eos_ids=(END,))


def settled(made: Grammars) -> list[Ticket]:
    """As the engine's loop does it: sleeps until told, then looks."""
    ready: list[Ticket] = []
    until = time.monotonic() + LONGEST_S
    while made.pending and time.monotonic() < until:
        select.select([made], [], [], 1.0)
        ready += made.poll()
    assert not made.pending
    return ready


def children() -> set[int]:
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="ascii")
    return {int(pid) for pid in listed.split()}


def test_asking_takes_no_time_and_a_quick_grammar_overtakes_a_slow_one() -> None:
    made = grammars()
    slow = made.ask(SLOW)
    assert not slow.ready
    assert made.pending == 1
    quick = made.ask('start: "yes"')
    assert settled(made)[0] is quick
    with pytest.raises(BadCall, match="too complex"):
        slow.matcher()
    assert quick.matcher().forced() or quick.matcher().masks()
    made.close()


def test_one_grammar_asked_for_twice_is_compiled_once_and_kept() -> None:
    made = grammars()
    first = made.ask('start: "yes"')
    assert made.ask('start: "yes"') is first
    assert settled(made) == [first]
    assert made.ask('start: "yes"') is first
    assert made.pending == 0
    assert made.poll() == []
    made.close()


def asked_until_refused(made: Grammars, tenants: Iterable[str]) -> int:
    count = 0
    with suppress(Overloaded):
        for tenant in tenants:
            made.ask(SLOW + f"// {tenant} {count}", tenant)
            count += 1
    return count


def test_the_queue_is_bounded_and_one_tenant_has_half_of_it_at_most() -> None:
    made = grammars()
    flood = asked_until_refused(made, ["flood"] * 2 * MAX_ASKED)
    assert MAX_ASKED_EACH <= flood <= MAX_ASKED_EACH + COMPILED_AT_ONCE
    others = asked_until_refused(made, (f"tenant {index}" for index in range(2 * MAX_ASKED)))
    assert flood + others == MAX_ASKED
    made.close()


def test_a_tenant_waits_for_one_grammar_of_another_not_for_all_of_them() -> None:
    made = grammars()
    slow = [made.ask(SLOW + f"// {index}", "flood") for index in range(8)]
    quick = made.ask('start: "yes"', "calm")
    ready: list[Ticket] = []
    while quick not in ready:
        assert select.select([made], [], [], LONGEST_S)[0]
        ready += made.poll()
    assert len(ready) <= 2 * COMPILED_AT_ONCE + 1
    assert not slow[-1].ready
    made.close()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=30))
def test_turns_lose_nothing_keep_each_tenants_order_and_alternate(put: list[tuple[str, int]]) -> None:
    turns: Turns[tuple[str, int]] = Turns()
    for tenant, item in put:
        turns.put(tenant, (tenant, item))
    taken = [turns.take() for _ in put]
    for tenant in "abc":
        assert [item for item in taken if item[0] == tenant] == [item for item in put if item[0] == tenant]
    for at in range(1, len(taken)):
        if taken[at][0] == taken[at - 1][0]:
            assert {tenant for tenant, _ in taken[at:]} == {taken[at][0]}  # nobody else waits any more


def outcome(ticket: Ticket) -> str:
    try:
        assert len(ticket.matcher().masks()) == 1
    except BadCall as error:
        return error.message
    return "compiled"


@pytest.mark.parametrize(
    "grammar",
    [
        "start: " + "(" * 50_000 + '"a"' + ")" * 50_000,
        "start: %json " + '{"items":' * 20_000 + "{}" + "}" * 20_000,
        "start: %json " + json.dumps({"type": "string", "pattern": "((a{1,300}){1,300}){1,300}"}),
        "start: %json " + json.dumps({"enum": [f"{'x' * 40}{index}" for index in range(5000)]}),
        'start: a{1,100000}\na: b{1,100000}\nb: "x"{1,100000}',
        '{"grammars": [{"gbnf": "root ::= ' + "(" * 50_000 + '"}]}',
        '{"grammars": []}',
        '{"grammars": 7}',
        "{",
        '{"grammars": [{"lark_grammar": "start: @gone"}]}',
    ],
    ids=["parentheses", "nested", "repeats", "enum", "rules", "gbnf", "none", "number", "cut", "gone"],
)
def test_what_explodes_is_refused_or_compiled_and_the_process_lives(grammar: str) -> None:
    made = grammars()
    ticket = made.ask(grammar)
    settled(made)
    said = outcome(ticket)
    assert said == "compiled" or ("schema" in said and len(said) < 1000)
    assert made.start('start: "yes"').masks()
    made.close()


@LINUX
def test_a_killed_helper_is_replaced() -> None:
    before = children()
    made = grammars()
    helpers = children() - before
    assert len(helpers) == 2
    for pid in helpers:
        os.kill(pid, signal.SIGKILL)
    refused = 0
    for index in range(6):
        try:
            made.start(f'start: "{index}"')
        except Overloaded:
            refused += 1
    assert refused <= 2
    assert made.start('start: "0"')
    made.close()
    assert children() <= before


@LINUX
def test_the_helpers_end_with_their_owner() -> None:
    before = children()
    made = grammars()
    made.start('start: "yes"')
    assert len(children() - before) == 2
    del made
    until = time.monotonic() + 10
    while not children() <= before and time.monotonic() < until:
        gc.collect()  # a thread may still be about to let go of it
        time.sleep(0.01)
    assert children() <= before
