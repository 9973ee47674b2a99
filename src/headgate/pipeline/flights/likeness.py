"""Which calls may share one answer, and which are the same."""

from hashlib import blake2b

from headgate.core.call import Call
from headgate.core.request import ChatRequest, CompletionRequest


def cacheable(call: Call) -> bool:
    """Whether two callers who ask the same at the same time may get the same answer: an embedding, a ranking, or one
    answer at temperature 0 that is not to be stored. A call with an idempotency key has a run of its own.
    """
    body = call.body
    if isinstance(body, ChatRequest | CompletionRequest):
        return (
            body.temperature == 0
            and body.n in {None, 1}
            and call.idempotency_key is None
            and b'"store"' not in call.raw  # kept by the model server: each caller wants its own
        )
    return call.operation in {"embedding", "rerank"} and call.idempotency_key is None


def fingerprint(tenant: str, call: Call) -> bytes:
    """The same for the same bytes of the same tenant that must look the same in the answer; 32 bytes.

    Members in another order make another one: to find that out would cost more than it saves.
    """
    about = (tenant, call.operation, call.dialect, call.model, call.stream, call.include_usage, call.output_cap)
    digest = blake2b(repr(about).encode(), digest_size=32)
    digest.update(b"\0")
    digest.update(call.raw)
    return digest.digest()
