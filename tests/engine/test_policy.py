"""Whose turn it is: classes and waiting, tenants and what they were given, short and long; nobody waits for ever."""

from collections import Counter

import pytest

from headgate.engine.plan import SamplingParams, Share
from headgate.engine.scheduling.policy import MAX_TENANTS, OVERDUE, Accounts, Waiting
from headgate.engine.scheduling.sequence import Account, Sequence
from tests.engine.drive import Engine, limits
from tests.engine.machine_runner import HashRunner

FREE = SamplingParams(ignore_eos=True)


class Queue:
    """A queue, with accounts, at a time set by hand."""

    def __init__(self, *, short_first: bool = False) -> None:
        self.waiting = Waiting(age_s=10.0, short_first=short_first)
        self.accounts: dict[str, Account] = {}
        self.now = 0.0
        self._next = 0

    def push(self, tenant: str = "", priority: int = 0, prompt: int = 10, max_tokens: int = 10) -> Sequence:
        share = Share(tenant, "", priority)
        sequence = Sequence(self._next, (1,) * prompt, FREE, max_tokens=max_tokens, share=share)
        self._next += 1
        sequence.arrived = self.now
        sequence.account = self.accounts.setdefault(tenant, Account())
        self.waiting.push(sequence)
        return sequence

    def pop(self) -> Sequence:
        sequence = self.waiting.choose(self.now)
        assert sequence is not None
        self.waiting.remove(sequence)
        sequence.account.served += sequence.length
        return sequence


def test_first_come_is_first_served() -> None:
    queue = Queue()
    pushed = [queue.push(prompt=10 - index) for index in range(5)]
    assert [queue.pop() for _ in range(5)] == pushed
    assert queue.waiting.choose(0.0) is None


def test_the_urgent_come_first_until_others_have_waited() -> None:
    queue = Queue()
    late = queue.push(priority=1)
    queue.now = 9.0
    urgent = queue.push(priority=0)
    assert queue.pop() is urgent
    queue.push(priority=0)
    queue.now = 10.0
    assert queue.pop() is late


def test_tenants_share_by_tokens_not_by_requests() -> None:
    queue = Queue()
    for _ in range(300):
        queue.push("flood", prompt=20)
        queue.push("long", prompt=100, max_tokens=100)
        queue.push("modest", prompt=20)
    given: Counter[str] = Counter()
    for _ in range(200):
        sequence = queue.pop()
        given[sequence.share.tenant] += sequence.length
    assert max(given.values()) - min(given.values()) <= 300  # the longest of all


def test_a_flood_delays_another_tenant_by_one_turn() -> None:
    queue = Queue()
    for _ in range(500):
        queue.push("flood")
    for _ in range(50):
        queue.pop()
    queue.now = 60.0
    mine = queue.push("me")
    assert mine in (queue.pop(), queue.pop())


def test_nobody_saves_up_turns_by_staying_away() -> None:
    queue = Queue()
    for _ in range(200):
        queue.push("steady")
    queue.push("away")
    for _ in range(100):
        queue.pop()
    for _ in range(50):
        queue.push("away")
    turns = Counter(queue.pop().share.tenant for _ in range(20))
    assert turns["steady"] >= 9


def test_short_ones_pass_long_ones_that_came_a_little_before() -> None:
    queue = Queue(short_first=True)
    long = queue.push(prompt=400, max_tokens=100)
    queue.now = 1.0
    short = queue.push(prompt=10, max_tokens=10)
    queue.now = 2.0
    assert queue.pop() is short
    queue.now = 40.0
    queue.push(prompt=10, max_tokens=10)
    assert queue.pop() is long


@pytest.mark.parametrize("short_first", [True, False])
def test_every_wait_is_bounded_whatever_else_arrives(short_first: bool) -> None:
    """Each second one leaves, and one arrives that would be preferred for each reason there is."""
    queue = Queue(short_first=short_first)
    queue.push("me", priority=5, prompt=1000)
    for _ in range(20):
        queue.push("other", priority=-1, prompt=1, max_tokens=1)
    while True:
        queue.now += 1.0
        queue.push(f"new{queue.now}", priority=-1, prompt=1, max_tokens=1)
        if queue.pop().share.tenant == "me":
            break
        assert queue.now < OVERDUE * 10.0 + 2 * 21
    assert queue.now > 10.0


def test_the_bound_holds_in_the_scheduler() -> None:
    engine = Engine(HashRunner(8), limits(max_sequences=1, max_waiting=50, age_s=0.01))
    engine.step_s = 0.001

    def add(share: Share) -> int:
        return engine.add(Sequence(engine.next_key, (1, 2), FREE, max_tokens=2, share=share))

    add(Share())
    mine = add(Share("me", "", 100))
    while mine not in engine.finished:
        while engine.scheduler.waiting < 5:
            add(Share(f"new{engine.next_key}", "", -1))
        engine.step()
        assert engine.now < OVERDUE * 0.01 + 0.001 * 2 * 7
    assert engine.now > 0.05


def test_tenants_are_forgotten_when_they_are_idle_and_many() -> None:
    accounts = Accounts()
    busy = [accounts.open(f"busy{index}") for index in range(10)]
    for index in range(5 * MAX_TENANTS):
        accounts.open(f"tenant{index}").sequences -= 1
    assert len(accounts) <= MAX_TENANTS
    assert [accounts.open(f"busy{index}") for index in range(10)] == busy
