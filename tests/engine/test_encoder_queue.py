"""Texts take turns: nothing is lost, nobody starves, and nobody waits for company that is not to be expected."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headgate.engine.encoder_wire import Text
from headgate.engine.encoding.cache import ENTRY_BYTES, VectorCache, key_of
from headgate.engine.encoding.queue import TextQueue, Window
from headgate.engine.plan import Share


def served(queue: TextQueue, budget: int, steps: int) -> list[list[tuple[int, int]]]:
    return [queue.take(budget) for _ in range(steps)]


def test_a_single_text_passes_thousands_of_anothers_within_a_step() -> None:
    queue = TextQueue()
    queue.add(1, [10] * 2000, range(2000))
    first = queue.take(100)
    queue.add(2, [10], [0])
    assert [key for key, _ in first] == [1] * 10
    assert (2, 0) in queue.take(100)


def test_short_texts_of_a_request_go_first_and_a_long_one_alone() -> None:
    queue = TextQueue()
    queue.add(1, [500, 3, 7], range(3))
    assert queue.take(100) == [(1, 1), (1, 2)]
    assert queue.take(100) == [(1, 0)]
    assert queue.take(100) == []


def test_many_requests_of_one_tenant_get_no_more_than_one_of_another() -> None:
    queue = TextQueue()
    for key in range(10):
        queue.add(key, [10] * 100, range(100), Share("many"))
    queue.add(99, [10] * 100, range(100), Share("one"))
    taken = [key for batch in served(queue, 100, 20) for key, _ in batch]
    assert 60 <= taken.count(99) <= 110


def test_the_last_class_still_moves() -> None:
    queue = TextQueue()
    queue.add(1, [10] * 100, range(100), Share("a", priority=0))
    queue.add(2, [10] * 100, range(100), Share("b", priority=2))
    taken = [key for batch in served(queue, 100, 10) for key, _ in batch]
    assert 3 <= taken.count(2) <= 10


class Machine(RuleBasedStateMachine):
    """Against a model that knows only which texts are owed."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = TextQueue()
        self.owed: dict[int, dict[int, int]] = {}
        self.key = 0

    @rule(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=12), data=st.data())
    def add(self, lengths: list[int], data: st.DataObject) -> None:
        places = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
        self.key += 1
        share = Share(data.draw(st.sampled_from("abc")), priority=data.draw(st.integers(0, 2)))
        self.queue.add(self.key, lengths, places, share)
        self.owed[self.key] = {place: lengths[place] for place in places}

    @rule(budget=st.integers(1, 120))
    def take(self, budget: int) -> None:
        taken = self.queue.take(budget)
        assert bool(taken) == bool(self.owed)
        lengths = [self.owed[key].pop(place) for key, place in taken]
        assert sum(lengths) <= budget or len(lengths) == 1
        self.owed = {key: left for key, left in self.owed.items() if left}

    @precondition(lambda self: self.key)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.integers(1, self.key))
        self.queue.cancel(key)
        self.owed.pop(key, None)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.waiting == sum(map(len, self.owed.values()))
        assert self.queue.tokens == sum(sum(left.values()) for left in self.owed.values())
        assert self.queue.requests == len(self.owed)
        assert bool(self.queue._open) == bool(self.owed)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase


def queue_of(requests: int, tokens: int = 10) -> TextQueue:
    queue = TextQueue()
    for key in range(requests):
        queue.add(key, [tokens], [0])
    return queue


def test_whoever_comes_to_an_idle_engine_does_not_wait() -> None:
    window = Window(0.005)
    assert window.hold(100.0, queue_of(1), 256) == 0.0
    window.stepped(100.0, answered=8, left=0)
    assert window.hold(100.006, queue_of(1), 256) == 0.0


def test_a_caller_who_is_alone_does_not_wait() -> None:
    window = Window(0.005)
    window.stepped(100.0, answered=1, left=0)
    assert window.hold(100.0001, queue_of(1), 256) == 0.0


def test_after_a_step_the_next_waits_for_those_who_were_answered_but_not_longer_than_the_window() -> None:
    window = Window(0.005)
    window.stepped(100.0, answered=3, left=1)
    assert 0 < window.hold(100.001, queue_of(2), 256) <= 0.004
    assert window.hold(100.001, queue_of(4), 256) == 0.0
    assert window.hold(100.005, queue_of(2), 256) == 0.0
    assert window.hold(100.001, TextQueue(), 256) == 0.0


def test_half_a_batch_waits_for_nobody() -> None:
    window = Window(0.005)
    window.stepped(100.0, answered=32, left=0)
    assert window.hold(100.001, queue_of(3, 50), 256) == 0.0


def test_the_cache_keeps_what_was_used_last_and_stays_within_its_bytes() -> None:
    cache = VectorCache(3 * (ENTRY_BYTES + 40))
    keys = [key_of(Text((number,)), "") for number in range(4)]
    for key in keys[:3]:
        cache.put(key, bytes(40))
    assert cache.get(keys[0]) == bytes(40)
    cache.put(keys[3], bytes(40))
    assert len(cache) == 3
    assert cache.get(keys[1]) is None
    assert cache.get(keys[0]) is not None
    cache.put(keys[0], bytes(10_000))  # more than the whole cache
    assert len(VectorCache(0)._vectors) == 0
    assert not VectorCache(0).enabled


def test_what_is_computed_from_differs_in_key() -> None:
    texts = [Text((1, 2)), Text((2, 1)), Text((1, 2), 1), Text((1, 2, 0)), Text((258,)), Text((2, 1, 0, 0))]
    assert len({key_of(text, salt) for text in texts for salt in ("a", "b")}) == 2 * len(texts)
    assert key_of(Text((1, 2)), "a") == key_of(Text((1, 2)), "a")
