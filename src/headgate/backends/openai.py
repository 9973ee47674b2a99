"""Any server that speaks OpenAI's dialect over HTTP: providers, Azure-style, vLLM, SGLang, llama.cpp, Ollama."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw, Struct

from headgate.backends import estimate
from headgate.backends.http.address import Origin, Resolver, parse_base_url, resolve
from headgate.backends.http.client import HttpClient, check_header, request_head, tls_context
from headgate.backends.http.exchange import Exchange
from headgate.backends.http.pace import Pace
from headgate.backends.http.pool import PoolCounts, PoolSettings
from headgate.backends.openai_answer import Passing, Undecodable, error_in, read_body, usage_of_whole
from headgate.backends.openai_errors import error_for
from headgate.backends.openai_models import read_models
from headgate.backends.openai_stream import Expectation, FrameReader, Relay
from headgate.backends.prefill import Prefill, learned, prefilled
from headgate.core.call import Call, Operation
from headgate.core.clock import Clock
from headgate.core.deadline import Deadline, Timeouts
from headgate.core.errors import BadCall, HeadgateError, Upstream
from headgate.core.ports import Answer, Health, ModelInfo, Progress
from headgate.core.reply import Header
from headgate.core.request import CompletionRequest, EmbeddingRequest, PassthroughRequest
from headgate.core.rules import Patience
from headgate.core.target import Target
from headgate.core.usage import Usage

PATHS: Mapping[Operation, str] = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "embedding": "/embeddings",
    "rerank": "/rerank",
}
ERROR_BODY_BYTES = 256 * 1024
ERROR_BODY_SECONDS = 2.0
"""A server that says that it failed is not waited for long until it says why."""
MODELS_BODY_BYTES = 8 * 1024 * 1024
_PASSED_ON = {
    b"openai-processing-ms": b"x-upstream-processing-ms",
    b"openai-version": b"openai-version",
    b"x-request-id": b"x-upstream-request-id",
}
CONTENT_TYPE = b"x-upstream-content-type"
"""Under this name the answers of endpoints that are not known here carry their content type."""
DEADLINE_HEADER = "x-headgate-timeout-s"
_HEADS_MAX = 1_000
_PATIENCES_MAX = 1_000
_Members = dict[str, Raw]
_members = msgspec.json.Decoder(_Members)
_TRUE = Raw(b"true")
_ASK_USAGE = Raw(b'{"include_usage":true}')


class OpenAISettings(Struct, frozen=True, kw_only=True):
    """What an `OpenAIBackend` is built from; `api_key` is the key itself."""

    name: str
    base_url: str
    api_key: str | None = None
    auth: Literal["bearer", "api-key", "none"] = "bearer"
    """How the key is sent: `authorization: Bearer` or, as Azure wants it, `api-key`."""
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    output_cap_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How this server is told the most tokens a chat answer may have."""
    finish_reasons: bool = True
    """A stream is whole only where every choice gave its reason. Off for servers that give none."""
    usage_in_stream: bool = True
    """Ask for usage in streams. Off for servers that refuse `stream_options`."""
    prefill: Prefill | None = "none"
    """How the server is asked to go on with a chat answer that was cut. None: learned from its list of models."""
    probe_path: str = "/models"
    """Below `base_url`; with `//` in front it counts from the server's root."""
    deadline_header: str = DEADLINE_HEADER
    """Tells the server how many seconds the call has left, so that it stops in time. Empty: it is not told."""
    timeouts: Timeouts = Timeouts()
    pool: PoolSettings = PoolSettings()
    ca_file: str | None = None
    verify: bool = True
    answer_bytes_max: int = 64 * 1024 * 1024


class OpenAIBackend:
    """Implements `core.ports.Backend`. Raises `ValueError` or `OSError` when built from settings that cannot work."""

    kind = "openai"

    def __init__(self, settings: OpenAISettings, clock: Clock, resolver: Resolver = resolve) -> None:
        self.name = settings.name
        self._settings = settings
        self._prefill: Prefill = settings.prefill or "none"
        self._clock = clock
        template = settings.base_url.replace("{model}", "%7Bmodel%7D")
        self._origin: Origin = parse_base_url(template)
        self._query = "?" + urlencode(settings.query) if settings.query else ""
        self._headers = _headers(settings)
        tls = tls_context(settings.ca_file, settings.verify) if self._origin.secure else None
        self._http = HttpClient(self._origin, clock, settings=settings.pool, tls=tls, resolver=resolver)
        self._heads: dict[tuple[str, str], bytes] = {}
        self._timeouts: dict[Patience, Timeouts] = {}
        self._deadline_header = settings.deadline_header.lower().encode("ascii", "replace")
        if settings.deadline_header:
            check_header(settings.deadline_header, "")
        self._head("GET", settings.probe_path)  # a header that cannot be sent stops the start, not a call

    @property
    def counts(self) -> PoolCounts:
        """Its connections: in use, idle, waited for."""
        return self._http.counts

    async def open(self, call: Call, target: Target) -> Answer:
        if call.dialect != "openai":
            raise BadCall(f"backend {self.name!r} speaks OpenAI's dialect only")
        body = self._body(call, target)
        unknown = call.body if isinstance(call.body, PassthroughRequest) else None
        if unknown is None:
            head = self._head("POST", PATHS[call.operation], target.model)
        else:  # not remembered: callers choose these paths
            head = self._make_head("POST", "/" + unknown.path, target.model)
        timeouts = self._settings.timeouts if target.patience is None else self._under(target.patience)
        extra = _trace(call)
        if self._deadline_header:
            left = max(0.001, min(call.deadline.remaining(self._clock), timeouts.total_s))  # zero is no time to ask for
            extra.append((self._deadline_header, b"%.3f" % left))
        exchange = await self._http.send(head, body, timeouts=timeouts, deadline=call.deadline, extra=extra)
        try:
            if unknown is None:
                return await self._answer(exchange, call, timeouts.min_tokens_per_s)
            return await self._pass(exchange, call, unknown)
        except BaseException:
            exchange.abort()
            raise

    def continued(self, call: Call, target: Target, text: str) -> Call | None:
        """Implements `core.ports.Continues`."""
        return prefilled(call, text, self._prefill)

    async def metrics(self) -> str:
        """What the server says of itself in Prometheus' format, at its root beside `/v1`. Raises as `open` does."""
        root = self._origin.path.rstrip("/").removesuffix("/v1")
        return (await self._get(f"//{root.lstrip('/')}/metrics".replace("///", "//"))).decode(errors="replace")

    async def models(self) -> Sequence[ModelInfo]:
        models = read_models(await self._get("/models"))
        if self._settings.prefill is None:
            self._prefill = learned(models)
        return models

    async def probe(self) -> Health:
        started = self._clock.monotonic()
        try:
            await self._get(self._settings.probe_path)
        except HeadgateError as error:
            return Health(ok=False, detail=f"{error.code}: {error.message}")
        return Health(ok=True, detail="answered", latency_ms=(self._clock.monotonic() - started) * 1000)

    async def aclose(self) -> None:
        self._http.close()

    def _under(self, patience: Patience) -> Timeouts:
        """The route's own timeouts over ours; routes are few, and each is reckoned once."""
        timeouts = self._timeouts.get(patience)
        if timeouts is None:
            timeouts = self._settings.timeouts.under(patience)
            if len(self._timeouts) < _PATIENCES_MAX:
                self._timeouts[patience] = timeouts
        return timeouts

    async def _answer(self, exchange: Exchange, call: Call, floor: float) -> Answer:
        if not 200 <= exchange.status < 300:
            raise await self._refusal(exchange)
        progress = Progress(input_tokens=estimate.input_tokens(call))
        headers = _passed_on(exchange)
        if call.stream:
            await self._check_stream(exchange)
            expected = Expectation(
                _choices(call), call.include_usage, self._settings.api_key or "", self._settings.finish_reasons
            )
            pace = Pace(floor) if floor > 0 else None
            relay = Relay(exchange, FrameReader(expected, progress, pace))
            return Answer(stream=relay, progress=progress, headers=headers, close=relay.aclose)
        if (exchange.header(b"content-type") or b"").lower().startswith(b"text/event-stream"):
            raise Upstream("the model server streams although it was not asked to", code="upstream_bad_answer")
        body = await exchange.read_all(self._settings.answer_bytes_max)
        usage = read_body(body, call.operation, progress.input_tokens, self._settings.api_key or "")
        progress.output_tokens = usage.output
        return Answer(body=body, usage=usage, progress=progress, headers=headers)

    async def _pass(self, exchange: Exchange, call: Call, body: PassthroughRequest) -> Answer:
        """An answer of a kind that is not known here: its bytes as they come, its usage where it tells."""
        if not 200 <= exchange.status < 300:
            raise await self._refusal(exchange)
        progress = Progress(input_tokens=body.input_tokens)
        headers = _passed_on(exchange)
        limit = self._settings.answer_bytes_max
        if call.stream:
            await self._check_stream(exchange)
            passing = Passing(exchange, progress, limit, self._settings.api_key or "")
            return Answer(stream=passing, progress=progress, headers=headers, close=passing.aclose)
        data = await exchange.read_all(limit)
        kind = exchange.header(b"content-type") or b""
        usage = usage_of_whole(data, kind, body.input_tokens)
        if usage is None:
            usage = Usage(input=body.input_tokens, estimated=True)
        progress.output_tokens = usage.output
        return Answer(body=data, usage=usage, progress=progress, headers=[*headers, (CONTENT_TYPE, _kind(kind))])

    async def _check_stream(self, exchange: Exchange) -> None:
        kind = (exchange.header(b"content-type") or b"").lower()
        if kind.startswith(b"text/event-stream"):
            return
        if kind.startswith(b"application/json"):
            try:
                error = _members.decode(await _complaint(exchange)).get("error")
            except Undecodable:
                error = None
            if error is not None:
                raise error_in(error, self._settings.api_key or "")
        raise Upstream("the model server did not answer with a stream", code="upstream_bad_answer")

    async def _refusal(self, exchange: Exchange) -> HeadgateError:
        body = await _complaint(exchange)
        return error_for(exchange.status, exchange.header, body, self._clock.now(), self._settings.api_key or "")

    async def _get(self, path: str) -> bytes:
        timeouts = self._settings.timeouts
        deadline = Deadline.after(self._clock, min(timeouts.total_s, timeouts.first_token_s))
        exchange = await self._http.send(self._head("GET", path), timeouts=timeouts, deadline=deadline)
        try:
            if not 200 <= exchange.status < 300:
                raise await self._refusal(exchange)
            return await exchange.read_all(MODELS_BODY_BYTES)
        finally:
            exchange.abort()

    def _head(self, method: str, path: str, model: str = "") -> bytes:
        key = (path, model if "%7Bmodel%7D" in self._origin.path else "")
        head = self._heads.get(key)
        if head is None:
            head = self._make_head(method, path, model)
            if len(self._heads) < _HEADS_MAX:
                self._heads[key] = head
        return head

    def _make_head(self, method: str, path: str, model: str) -> bytes:
        base = "" if path.startswith("//") else self._origin.path.replace("%7Bmodel%7D", _segment(model))
        where = base + path.removeprefix("/") if path.startswith("//") else base + path
        headers = dict(self._headers)
        if method == "POST":
            headers["content-type"] = "application/json"
        return request_head(self._origin, method, where + self._query, headers)

    def _body(self, call: Call, target: Target) -> bytes:
        """The caller's bytes; only where the model's name differs, usage must be asked for or a budget bounds the
        answer are members replaced.

        A body that may name two models is written anew, each member once: we checked the last, and a server that
        goes by the first would answer with a model that the caller may not use.
        """
        if isinstance(call.body, PassthroughRequest):
            return _as_it_came(call.raw)
        ask = self._settings.usage_in_stream and call.stream and not call.include_usage
        if target.model == call.model and not ask and call.output_cap is None and _names_one_model(call.raw):
            return call.raw
        try:
            members = _members.decode(call.raw)
            members["model"] = Raw(msgspec.json.encode(target.model))
            if ask:
                members["stream_options"] = _asking(members.get("stream_options"))
            if call.output_cap is not None:
                field = self._settings.output_cap_field if call.operation == "chat" else "max_tokens"
                members[field] = Raw(b"%d" % call.output_cap)
        except Undecodable as error:
            raise BadCall("the request body is not a JSON object") from error
        return msgspec.json.encode(members)


async def _complaint(exchange: Exchange) -> bytes:
    """What a server says of its failure; nothing where that does not come, or not soon: the status says enough."""
    try:
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            return await exchange.read_all(ERROR_BODY_BYTES)
    except (HeadgateError, TimeoutError):
        return b""


def _as_it_came(raw: bytes) -> bytes:
    """The caller's bytes; written anew, each member once, where they could name a model twice."""
    if raw.count(b'"model"') <= 1 and b"\\u006" not in raw:
        return raw
    try:
        return msgspec.json.encode(_members.decode(raw))
    except Undecodable as error:
        raise BadCall("the request body is not a JSON object") from error


def _kind(value: bytes) -> bytes:
    """A content type that can stand in a header of ours."""
    good = 0 < len(value) <= 200 and all(32 <= byte < 127 for byte in value)
    return value if good else b"application/octet-stream"


def _headers(settings: OpenAISettings) -> dict[str, str]:
    headers = {"accept": "application/json, text/event-stream", "user-agent": "headgate"}
    if settings.api_key and settings.auth == "bearer":
        headers["authorization"] = f"Bearer {settings.api_key}"
    elif settings.api_key and settings.auth == "api-key":
        headers["api-key"] = settings.api_key
    fixed = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "content-type"}
    fixed.add(settings.deadline_header.lower())
    for name, value in settings.headers.items():
        if name.lower() in fixed:
            raise ValueError(f"header {name!r} is set by Headgate itself")
        headers[name.lower()] = value
    return headers


def _segment(model: str) -> str:
    """A model's name as one piece of a path, which it can never leave."""
    return quote(model, safe="") if model.strip(".") else "%2E" * len(model)


def _names_one_model(raw: bytes) -> bool:
    """False, too, where an escape such as `mod\\u0065l` could hide a second name, or where it stands in a value."""
    return raw.count(b'"model"') == 1 and b"\\u006" not in raw


def _asking(options: Raw | None) -> Raw:
    if options is None or bytes(options) == b"null":
        return _ASK_USAGE
    members = _members.decode(options)
    members["include_usage"] = _TRUE
    return Raw(msgspec.json.encode(members))


def _choices(call: Call) -> int:
    body = call.body
    if isinstance(body, EmbeddingRequest):
        return 1
    count = body.n or 1
    if isinstance(body, CompletionRequest) and isinstance(body.prompt, list):
        several = bool(body.prompt) and not isinstance(body.prompt[0], int)
        count *= len(body.prompt) if several else 1
    return count


def _trace(call: Call) -> list[Header]:
    """Our id goes along, so that both logs can be joined."""
    known = call.id.isascii() and call.id.isprintable() and len(call.id) <= 200
    return [(b"x-client-request-id", call.id.encode())] if known else []


def _passed_on(exchange: Exchange) -> list[Header]:
    found = []
    for name, value in exchange.headers:
        ours = _PASSED_ON.get(name)
        if ours is not None and len(value) <= 200 and all(32 <= byte < 127 for byte in value):
            found.append((ours, value))
    return found
