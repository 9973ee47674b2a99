import inspect

import pytest

from headgate.core import errors
from headgate.core.errors import HeadgateError

# Whose fault, HTTP status, OpenAI's type and code, and whether the same call may succeed later.
TREE = {
    "BadCall": ("caller", 400, "invalid_request_error", None, False),
    "TooLarge": ("caller", 413, "invalid_request_error", "request_too_large", False),
    "Unauthorized": ("caller", 401, "authentication_error", "invalid_api_key", False),
    "Forbidden": ("caller", 403, "permission_error", "permission_denied", False),
    "NotFound": ("caller", 404, "not_found_error", "not_found", False),
    "Conflict": ("caller", 409, "invalid_request_error", "conflict", False),
    "OverLimit": ("caller", 429, "rate_limit_error", "rate_limit_exceeded", True),
    "OverBudget": ("caller", 429, "insufficient_quota", "insufficient_quota", False),
    "Blocked": ("caller", 400, "invalid_request_error", "content_filter", False),
    "Upstream": ("upstream", 502, "server_error", "upstream_error", True),
    "UpstreamTimeout": ("upstream", 504, "server_error", "upstream_timeout", True),
    "Truncated": ("upstream", 502, "server_error", "upstream_truncated", True),
    "Overloaded": ("ours", 503, "server_error", "overloaded", True),
    "Bug": ("ours", 500, "server_error", "internal_error", False),
}
BRANCHES = {"HeadgateError", "Refused", "Failed"}


def _classes() -> dict[str, type[HeadgateError]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in found if issubclass(kind, HeadgateError)}


def test_no_error_exists_without_a_decision() -> None:
    assert set(_classes()) == set(TREE) | BRANCHES


@pytest.mark.parametrize("name", TREE)
def test_each_error_says_whose_fault_it_is_and_what_the_caller_is_told(name: str) -> None:
    error = _classes()[name]("what is wrong, and the remedy")
    assert (error.fault, error.status, error.type, error.code, error.retryable) == TREE[name]
    assert str(error) == error.message == "what is wrong, and the remedy"
    assert (error.param, error.retry_after) == (None, None)
    branch = errors.Refused if error.fault == "caller" else errors.Failed
    assert isinstance(error, branch)


@pytest.mark.parametrize("name", sorted(BRANCHES | set(TREE)))
def test_each_error_is_described_and_drawn_in_the_tree(name: str) -> None:
    kind = _classes()[name]
    assert kind.__doc__
    line = next(line for line in (errors.__doc__ or "").splitlines() if name in line.replace("─", " ").split())
    if name in TREE:
        assert f" {kind.status} " in line


def test_one_error_may_say_more_without_changing_its_class() -> None:
    error = errors.BadCall("`n` is too large", code="too_many", param="n", retry_after=2.5, status=422)
    assert (error.code, error.param, error.retry_after, error.status) == ("too_many", "n", 2.5, 422)
    assert (errors.BadCall.code, errors.BadCall.status) == (None, 400)
