"""From a request's head and body to the `Call` that the pipeline takes."""

from typing import Any

import msgspec
from msgspec import Struct

from headgate.api.http import Request
from headgate.api.settings import ServerSettings
from headgate.api.wire import heads, rules
from headgate.api.wire.decode import decode
from headgate.core.call import Body, Call, Operation
from headgate.core.clock import Clock
from headgate.core.deadline import Deadline
from headgate.core.policy import Priority
from headgate.core.request import ChatRequest, CompletionRequest, EmbeddingRequest

MAX_TAGS = 16
MAX_TAG_KEY = 64
MAX_TAG_VALUE = 512
MAX_USER = 256

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_embedding = msgspec.json.Decoder(EmbeddingRequest)


class Head(Struct, frozen=True, kw_only=True):
    """What a call has besides its body."""

    id: str
    received: float
    deadline: Deadline
    credential: str | None
    client: str
    client_request_id: str | None
    retry_count: int
    idempotency_key: str | None
    session: str | None
    priority: Priority | None


def read_head(request: Request, request_id: str, settings: ServerSettings, clock: Clock) -> Head:
    """Raises `BadCall` on headers that make no sense."""
    received = clock.monotonic()
    allowed = heads.timeout_s(request, settings.default_timeout_s, settings.max_timeout_s)
    return Head(
        id=request_id,
        received=received,
        deadline=Deadline(received + allowed),
        credential=heads.credential(request),
        client=request.client,
        client_request_id=heads.client_request_id(request),
        retry_count=heads.retry_count(request),
        idempotency_key=heads.idempotency_key(request),
        session=heads.session(request),
        priority=heads.priority(request),
    )


def chat_call(head: Head, raw: bytes) -> Call:
    body = decode(_chat, raw)
    rules.check_chat(body)
    options = body.stream_options
    return _call(head, "chat", body, raw, bool(body.stream), bool(options and options.include_usage))


def completion_call(head: Head, raw: bytes) -> Call:
    body = decode(_completion, raw)
    rules.check_completion(body)
    options = body.stream_options
    return _call(head, "completion", body, raw, bool(body.stream), bool(options and options.include_usage))


def embedding_call(head: Head, raw: bytes) -> Call:
    body = decode(_embedding, raw)
    rules.check_embedding(body)
    return _call(head, "embedding", body, raw, False, False)


def _call(head: Head, operation: Operation, body: Body, raw: bytes, stream: bool, include_usage: bool) -> Call:
    metadata = None if isinstance(body, EmbeddingRequest) else body.metadata
    return Call(
        id=head.id,
        operation=operation,
        dialect="openai",
        model=body.model,
        body=body,
        raw=raw,
        stream=stream,
        include_usage=include_usage,
        deadline=head.deadline,
        received=head.received,
        credential=head.credential,
        client=head.client,
        client_request_id=head.client_request_id,
        retry_count=head.retry_count,
        idempotency_key=head.idempotency_key,
        session=head.session,
        priority=head.priority,
        user=body.user[:MAX_USER] if body.user else None,
        tags=_tags(metadata) if metadata else {},
    )


def _tags(metadata: dict[str, Any]) -> dict[str, str]:
    """The short texts among a call's metadata; the rest goes to the upstream only."""
    tags: dict[str, str] = {}
    for key, value in metadata.items():
        if len(tags) == MAX_TAGS:
            break
        if isinstance(value, str) and len(key) <= MAX_TAG_KEY and len(value) <= MAX_TAG_VALUE:
            tags[key] = value
    return tags
