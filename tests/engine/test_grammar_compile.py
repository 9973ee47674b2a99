"""Compiling aside: nothing waits for it, it is bounded in number, time and memory, and what dies of it is not us."""

import gc
import json
import os
import select
import signal
import time
from pathlib import Path

import pytest

from headgate.core.errors import BadCall, Overloaded
from headgate.engine.grammars.grammar import MAX_ASKED, Grammars, Ticket
from tests.backends import folders

TOKENIZER = folders.tokenizer()
END = TOKENIZER.get_vocab()["<|im_end|>"]
SLOW = "start: %json " + json.dumps(
    {"allOf": [{"type": "string", "pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrstu"]}
)
LONGEST_S = 30.0
LINUX = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")


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


def test_the_queue_is_bounded() -> None:
    made = grammars()
    for index in range(MAX_ASKED):
        made.ask(f'start: "{index}"')
    with pytest.raises(Overloaded, match="too many schemas"):
        made.ask('start: "one more"')
    made.close()


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
