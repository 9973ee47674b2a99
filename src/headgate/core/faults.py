"""What kind of fault an error is, and whose: the one table that retries, fallbacks and breakers go by."""

from typing import Literal

from headgate.core.errors import Blocked, Bug, Failed, HeadgateError, Overloaded, UpstreamTimeout

ErrorClass = Literal["overload", "timeout", "upstream", "auth", "context_length", "content_policy", "bad_request"]
"""`upstream`: it failed, was cut off or did not speak its protocol. `auth`: our own credential or quota there.
`bad_request`: the caller's fault, the same everywhere."""
Blame = Literal["theirs", "ours", "caller"]

CONTEXT_LENGTH = "context_length_exceeded"
CONTENT_POLICY = "content_filter"
"""The codes under which backends raise these two, whatever the upstream calls them."""
_AUTH = frozenset({"upstream_auth", "upstream_quota"})
_CALLERS_END = frozenset({"deadline_exceeded", "client_closed"})
_OURS = frozenset(
    {
        "queue_full",
        "queue_timeout",
        "engine_queue_full",
        "backend_unavailable",
        "ledger_unavailable",
        "ledger_behind",
        "upstream_closed",
    }
)
_UNSENT = frozenset(
    {
        "upstream_unreachable",
        "upstream_tls",
        "upstream_address_refused",
        "upstream_connect_timeout",
        "upstream_pool_full",
        "upstream_pool_wait",
        "upstream_closed",
        "queue_full",
        "queue_timeout",
        "engine_queue_full",
        "backend_unavailable",
    }
)


_FINAL = frozenset({"deadline_exceeded", "client_closed", "internal_error", "ledger_unavailable", "ledger_behind"})
_NOT_TRIED = frozenset({"queue_full", "queue_timeout", "backend_unavailable"})


def classify(error: HeadgateError) -> ErrorClass:
    """The class whose policy decides what is tried next."""
    if error.code == CONTEXT_LENGTH:
        return "context_length"
    if error.code == CONTENT_POLICY or isinstance(error, Blocked):
        return "content_policy"
    if error.code in _AUTH:
        return "auth"
    if isinstance(error, Overloaded):
        return "overload"
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    return "upstream" if isinstance(error, Failed) else "bad_request"


def blame(error: HeadgateError) -> Blame:
    """Whose fault it is. Only `theirs` tells something of the replica that was asked."""
    if error.code in _CALLERS_END or not isinstance(error, Failed):
        return "caller"
    return "ours" if error.code in _OURS or isinstance(error, Bug) else "theirs"


def unsent(error: HeadgateError) -> bool:
    """Whether the upstream cannot have begun to work on it: then even what has side effects may be sent again."""
    return error.code in _UNSENT


def final(error: HeadgateError) -> bool:
    """Whether no other attempt may help: the time is over, nobody listens, or the answer could not be accounted for."""
    return error.code in _FINAL


def not_tried(error: HeadgateError) -> bool:
    """Whether the call never left for its target: no attempt was made, and there is nothing there to wait for."""
    return error.code in _NOT_TRIED
