"""The call: what the api hands to the pipeline, decoded once and never changed."""

from typing import Literal

from msgspec import Struct

from headgate.core.deadline import Deadline
from headgate.core.policy import Priority
from headgate.core.request import ChatRequest, CompletionRequest, EmbeddingRequest

Operation = Literal["chat", "completion", "embedding", "rerank", "passthrough"]
Dialect = Literal["openai", "anthropic"]
Body = ChatRequest | CompletionRequest | EmbeddingRequest
"""A `RerankRequest` and a `PassthroughRequest` are of the last kind."""


class Call(Struct, frozen=True, kw_only=True):
    """One request of one caller. `raw` is the body as it came; `body` is the same, decoded."""

    id: str
    operation: Operation
    dialect: Dialect
    model: str
    body: Body
    raw: bytes
    stream: bool
    include_usage: bool
    """The caller asked for usage in the stream (`stream_options.include_usage`)."""
    deadline: Deadline
    received: float
    """Monotonic seconds at which the request was complete."""
    backend: str | None = None
    """The only backend it may go to, where the caller named one (passthrough); else the route table says."""
    credential: str | None = None
    """The API key as sent. Only `pipeline/auth` reads it; it is never logged."""
    tenant: str = ""
    """Whose call it is: set on admission, when the key has been checked."""
    client: str = ""
    """The caller's address, without port."""
    client_request_id: str | None = None
    """The client's own name for the request (`X-Client-Request-Id`), cleaned for logs."""
    retry_count: int = 0
    """Which retry of the client's own SDK this is (`x-stainless-retry-count`)."""
    idempotency_key: str | None = None
    session: str | None = None
    """What the caller counts as one conversation or run (`x-headgate-session`)."""
    priority: Priority | None = None
    """The class to wait in, if not the highest that the policies allow (`x-headgate-priority`); admission lowers it to
    what they allow."""
    output_cap: int | None = None
    """The most tokens each answer may have where the body sets no maximum: what a budget could hold for it."""
    user: str | None = None
    tags: dict[str, str] = {}
