"""Prompts that begin alike are computed once: what is found, for whom, how long it is kept, and what is counted."""

from headgate.engine.plan import SamplingParams, Share
from headgate.engine.scheduling.sequence import Sequence
from tests.engine.drive import Engine, limits
from tests.engine.machine_runner import HashRunner, expected_text

FREE = SamplingParams(ignore_eos=True)


def ask(engine: Engine, prompt: list[int], max_tokens: int = 4, salt: str = "") -> int:
    sequence = Sequence(engine.next_key, tuple(prompt), FREE, max_tokens=max_tokens, share=Share(salt=salt))
    key = engine.add(sequence)
    engine.run()
    assert engine.texts[key] == expected_text(prompt, max_tokens, stop=False)
    return key


def test_full_blocks_are_found_and_the_last_token_is_always_computed() -> None:
    engine = Engine(HashRunner(8), limits())
    prompt = list(range(1, 33))
    found = [engine.cached[ask(engine, prompt[:length])] for length in (32, 32, 31, 30, 8, 7)]
    assert found == [0, 31, 24, 24, 7, 0]
    assert engine.cached[ask(engine, [*prompt[:20], 99, *prompt[20:]])] == 16
    assert engine.cached[ask(engine, [99, *prompt])] == 0


def test_answers_are_found_by_the_next_turn() -> None:
    engine = Engine(HashRunner(8), limits(blocks=200))
    prompt, asked, found = list(range(1, 30)), 0, 0
    for turn in range(8):
        key = ask(engine, prompt, 20)
        asked, found = asked + len(prompt), found + engine.cached[key]
        prompt = prompt + engine.texts[key] + [90, 91, turn]
    assert found / asked > 0.8
    counters = engine.scheduler.counters
    assert (counters.prefix_queries, counters.prefix_hits, counters.cached_tokens) == (asked, found, found)
    assert counters.prompt_tokens == asked


def test_other_salts_share_nothing() -> None:
    engine = Engine(HashRunner(8), limits())
    prompt = list(range(1, 33))
    assert [engine.cached[ask(engine, prompt, salt=salt)] for salt in ("", "a", "b", "a")] == [0, 0, 0, 31]


def test_the_longest_unused_is_given_up_first_and_ends_before_beginnings() -> None:
    engine = Engine(HashRunner(8), limits(blocks=12))
    first, second, third = ([start] * 40 for start in (1, 2, 3))
    ask(engine, first)
    ask(engine, second)  # five blocks each are kept, and two are free
    ask(engine, first, 1)
    ask(engine, third)  # takes the two, and the ends of the second
    assert engine.cached[ask(engine, second, 1)] == 8
    assert engine.cached[ask(engine, first, 1)] > 8


def test_running_sequences_share_blocks() -> None:
    engine = Engine(HashRunner(8), limits(max_batch_tokens=64))
    prompt = list(range(1, 33))
    engine.submit([*prompt, 50], 30, FREE)
    engine.step()
    engine.submit([*prompt, 51], 30, FREE)
    engine.step()
    assert engine.scheduler.pool.used == 4 + 1 + 1
    engine.run()
    assert engine.texts[1] == expected_text([*prompt, 51], 30, stop=False)


def test_it_can_be_switched_off() -> None:
    engine = Engine(HashRunner(8), limits(prefix_cache=False))
    assert [engine.cached[ask(engine, list(range(32)))] for _ in range(2)] == [0, 0]
    assert engine.scheduler.counters.prefix_queries == 0
    assert engine.scheduler.pool.cached == 0
