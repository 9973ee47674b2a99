"""From a request's head and body to the `Call` that the pipeline takes."""

import re
from typing import Any

import msgspec
from msgspec import Struct, structs

from headgate.api.http import Request
from headgate.api.settings import ServerSettings
from headgate.api.wire import heads, rules
from headgate.api.wire.decode import decode
from headgate.backends.estimate import PART_TOKENS, tokens_of
from headgate.core.call import Body, Call, Operation
from headgate.core.clock import Clock
from headgate.core.deadline import Deadline
from headgate.core.policy import Priority
from headgate.core.request import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Name,
    PassthroughRequest,
    RerankRequest,
)

MAX_TAGS = 16
MAX_TAG_KEY = 64
MAX_TAG_VALUE = 512
MAX_USER = 256
MAX_ANSWERS = 128
MAX_OUTPUT = 2**31 - 1

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_embedding = msgspec.json.Decoder(EmbeddingRequest)
_rerank = msgspec.json.Decoder(RerankRequest)


class _Unknown(Struct, frozen=True, kw_only=True):
    """What may stand in any body; all but the first two are the upstream's to check."""

    model: Name | None = None
    stream: bool | None = None
    n: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    user: Any = None
    metadata: Any = None


_unknown = msgspec.json.Decoder(_Unknown)
_MEDIA = re.compile(rb'"(?:data:[\w./+-]{1,100};base64,[A-Za-z0-9+/_-]*|[A-Za-z0-9+/_-]{4000,})={0,2}"')
"""A picture or a sound as a JSON string. Each attempt ends at the next quote, so the search takes linear time."""


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


def rerank_call(head: Head, raw: bytes) -> Call:
    body = decode(_rerank, raw)
    rules.check_rerank(body)
    return _call(head, "rerank", body, raw, False, False)


def passthrough_call(backend: str, path: str, head: Head, raw: bytes) -> Call:
    """`path` has been checked. Its last part stands for the model where the body names none."""
    found = decode(_unknown, raw)
    maxima = [_count(value) for value in (found.max_tokens, found.max_completion_tokens, found.max_output_tokens)]
    asked = [value for value in maxima if value is not None]
    media = [len(match[0]) for match in _MEDIA.finditer(raw)]
    body = PassthroughRequest(
        model=found.model or path.rpartition("/")[2],
        path=path,
        input_tokens=tokens_of(len(raw) - sum(media)) + PART_TOKENS * len(media),
        max_output=min(max(asked), MAX_OUTPUT) if asked else None,
        answers=min(_count(found.n) or 1, MAX_ANSWERS),
        user=found.user if isinstance(found.user, str) else None,
        metadata=found.metadata if isinstance(found.metadata, dict) else None,
    )
    call = structs.replace(_call(head, "passthrough", body, raw, bool(found.stream), False), backend=backend)
    if head.idempotency_key is None:
        return call
    # A key stands for one request to one endpoint, and here the path says which that is.
    return structs.replace(call, idempotency_key=f"{backend}/{path}\0{head.idempotency_key}")


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _call(head: Head, operation: Operation, body: Body, raw: bytes, stream: bool, include_usage: bool) -> Call:
    if isinstance(body, EmbeddingRequest):
        metadata = body.metadata if isinstance(body, PassthroughRequest) else None
    else:
        metadata = body.metadata
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
