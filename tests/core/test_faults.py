"""Every error of the house has a class, and blame falls on whoever earned it."""

import pytest

from headgate.core.errors import (
    BadCall,
    Blocked,
    Bug,
    HeadgateError,
    NotFound,
    OverBudget,
    Overloaded,
    Truncated,
    Upstream,
    UpstreamTimeout,
)
from headgate.core.faults import blame, classify, unsent
from headgate.core.rules import DEFAULT_NEXT, Rules

KINDS = [
    (Upstream("x"), "upstream", "theirs"),
    (Truncated("x"), "upstream", "theirs"),
    (UpstreamTimeout("x"), "timeout", "theirs"),
    (UpstreamTimeout("x", code="deadline_exceeded"), "timeout", "caller"),
    (Overloaded("x", code="upstream_overloaded"), "overload", "theirs"),
    (Overloaded("x", code="upstream_rate_limited", status=429), "overload", "theirs"),
    (Overloaded("x", code="queue_full"), "overload", "ours"),
    (Overloaded("x", code="engine_queue_full"), "overload", "ours"),
    (Overloaded("x", code="upstream_quota"), "auth", "theirs"),
    (Upstream("x", code="upstream_auth"), "auth", "theirs"),
    (BadCall("x"), "bad_request", "caller"),
    (NotFound("x"), "bad_request", "caller"),
    (OverBudget("x"), "bad_request", "caller"),
    (BadCall("x", code="context_length_exceeded"), "context_length", "caller"),
    (BadCall("x", code="content_filter"), "content_policy", "caller"),
    (Blocked("x"), "content_policy", "caller"),
    (Bug("x"), "upstream", "ours"),
]


@pytest.mark.parametrize(("error", "kind", "whose"), KINDS, ids=lambda value: str(getattr(value, "code", value)))
def test_an_error_has_a_class_and_someone_to_blame(error: HeadgateError, kind: str, whose: str) -> None:
    assert (classify(error), blame(error)) == (kind, whose)


def test_only_what_never_left_may_be_sent_again_whatever_it_does() -> None:
    assert unsent(Upstream("x", code="upstream_unreachable"))
    assert unsent(Overloaded("x", code="queue_timeout"))
    assert not unsent(Upstream("x"))
    assert not unsent(Truncated("x"))


def test_a_refusal_for_the_content_is_never_shopped_around_unless_a_route_says_so() -> None:
    assert Rules().next("content_policy") == "stop"
    assert Rules(on_error={"content_policy": "fallback"}).next("content_policy") == "fallback"
    assert {kind for kind, then in DEFAULT_NEXT.items() if then == "stop"} == {
        "content_policy",
        "bad_request",
        "context_length",
    }
