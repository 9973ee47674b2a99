"""Extra attempts and the SDKs' own retries share one budget."""

from headgate.pipeline.retry_budget import RetryBudget, RetrySettings


def test_a_failing_upstream_gets_a_bounded_part_more_attempts() -> None:
    budget = RetryBudget(RetrySettings(ratio=0.1, reserve=10))
    retries = 0
    for _ in range(1000):
        budget.came(client_retry=False)
        retries += budget.take()
    assert retries <= 10 + 1000 * 0.1 + 1


def test_the_retries_of_clients_use_up_the_budget_and_are_not_refused() -> None:
    budget = RetryBudget(RetrySettings(ratio=0.1, reserve=10))
    for _ in range(4):
        budget.came(client_retry=True)
    assert budget.left == 6


def test_who_calls_everything_a_retry_leaves_half_of_the_budget_to_the_others() -> None:
    budget = RetryBudget(RetrySettings(ratio=0.1, reserve=10))
    for _ in range(1_000):
        budget.came(client_retry=True)
    assert budget.left == 5
    while budget.take():
        pass
    budget.came(client_retry=True)
    assert budget.left == 0, "and brings none back"


def test_it_recovers_with_calls_that_are_no_retries() -> None:
    budget = RetryBudget(RetrySettings(ratio=0.5, reserve=10))
    while budget.take():
        pass
    for _ in range(4):
        budget.came(client_retry=False)
    assert budget.take()
    assert budget.take()
    assert not budget.take()


def test_less_reserve_takes_effect_at_once() -> None:
    budget = RetryBudget(RetrySettings(reserve=100))
    budget.use(RetrySettings(reserve=2))
    assert budget.left == 2
