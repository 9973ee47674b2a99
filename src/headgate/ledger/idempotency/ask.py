"""What a call with an `Idempotency-Key` asks for, what is kept for it, and what it is told where it cannot have it.

The semantics are those of draft-ietf-httpapi-idempotency-key-header, with 409 for a reused key, as OpenAI's and
Anthropic's clients expect it.
"""

import hashlib
from typing import Annotated, Literal

from msgspec import Meta, Struct

from headgate.core.call import Call
from headgate.core.errors import Conflict
from headgate.core.reply import Header


class IdempotencySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How long answers are kept for calls with an `Idempotency-Key`, and how many."""

    keep_s: Annotated[float, Meta(ge=60, le=90 * 86_400)] = 86_400.0
    """Seconds from a complete answer until its key may be used anew."""
    answer_mb: Annotated[float, Meta(gt=0, le=64)] = 4.0
    """Larger answers reach their caller and are not kept."""
    memory_mb: Annotated[float, Meta(gt=0, le=65_536)] = 256.0
    """All answers in progress together; beyond it they are not kept either."""
    calls: Annotated[int, Meta(ge=1, le=100_000)] = 2_000
    """Calls with a key in progress at once; more are refused with 503."""


class Ask(Struct, frozen=True):
    """Of one call with a key. Both fields are hex SHA-256: neither the key nor the prompt is stored."""

    slot: str
    """Of tenant, operation and key: one key may be used once for each endpoint, and tenants never meet."""
    fingerprint: str
    """Of operation and body, byte for byte."""
    run_s: float
    """Seconds that the call may take."""


class Kept(Struct, frozen=True):
    """A complete answer. Its status is 200: no other is kept."""

    headers: tuple[Header, ...]
    content: bytes | None
    """The body, or all frames of the stream, `[DONE]` included. None where it was too large."""


Found = Kept | Literal["mine", "elsewhere", "gone"]
"""The answer; or whose the call is: this process's now, another's still, or nobody's."""


def make_ask(call: Call, tenant: str, run_s: float) -> Ask:
    """`call` has an idempotency key."""
    key = call.idempotency_key or ""
    slot = hashlib.sha256("\0".join((tenant, call.operation, key)).encode("utf-8", "surrogatepass"))
    fingerprint = hashlib.sha256(call.operation.encode() + b"\0" + call.raw)
    return Ask(slot.hexdigest(), fingerprint.hexdigest(), run_s)


def reused() -> Conflict:
    return Conflict(
        "This Idempotency-Key was used with another request body. A key stands for one request: "
        "send the same body again, or use a new key.",
        code="idempotency_key_reused",
    )


def outcome_unknown() -> Conflict:
    return Conflict(
        "The server that ran the request with this Idempotency-Key died before its answer was kept; it may have run, "
        "and is not run again. Use a new key to run it once more.",
        code="idempotency_outcome_unknown",
    )


def too_large() -> Conflict:
    return Conflict(
        "The request with this Idempotency-Key did run, but its answer is too large to be kept "
        "(idempotency.answer_mb). Use a new key to run it once more.",
        code="idempotency_too_large",
    )
