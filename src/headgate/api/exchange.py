"""One request and its answer, as an endpoint sees them."""

from collections.abc import Sequence
from urllib.parse import parse_qsl

import msgspec

from headgate.api.front import check_body_head
from headgate.api.http import Request, Sink
from headgate.api.services import Services
from headgate.api.settings import ServerSettings
from headgate.api.wire import heads
from headgate.core.errors import BadCall
from headgate.core.principal import Principal, Scope
from headgate.core.reply import Header

JSON: Header = (b"content-type", b"application/json")
STREAM: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
MAX_QUERY_FIELDS = 50


class Exchange:
    """Holds what an endpoint needs, and writes whole answers for it."""

    def __init__(self, request: Request, sink: Sink, services: Services, settings: ServerSettings) -> None:
        self.request = request
        self.sink = sink
        self.services = services
        self.settings = settings
        self.received = services.clock.monotonic()
        self.request_id = services.ids.new("req")
        self.path_ids: tuple[str, ...] = ()
        """What the path names where its route has braces, such as a model."""
        self.route = "-"
        """The path of the route found, `{id}` and all."""
        self.called = False
        """The request has become a call: from now on the pipeline tells the log what becomes of it."""
        self.streaming = False
        """The answer is a stream of events: an error after its first byte is one more of them."""
        self._standing: tuple[Header, ...] = (
            (b"x-request-id", self.request_id.encode()),
            (b"x-headgate-version", services.version.encode()),
        )

    @property
    def path_id(self) -> str:
        """The first of `path_ids`."""
        return self.path_ids[0]

    def headers(self, *more: Header) -> list[Header]:
        """The headers that every answer has, then `more`."""
        spent = (self.services.clock.monotonic() - self.received) * 1000
        headers = [*self._standing, (b"openai-processing-ms", b"%d" % spent), *more]
        origin = self.request.header(b"origin")
        if origin is not None and self.settings.cors_origins:
            headers += cors_headers(origin, self.settings.cors_origins)
        return headers

    async def send(self, body: bytes, status: int = 200, headers: Sequence[Header] = (JSON,)) -> None:
        """A whole answer."""
        self.sink.start(status, self.headers(*headers, (b"content-length", b"%d" % len(body))))
        await self.sink.end(body)

    async def send_json(self, value: object, status: int = 200) -> None:
        await self.send(msgspec.json.encode(value), status)

    def principal(self, scope: Scope) -> Principal:
        """Who asks. Raises `Unauthorized` or `Forbidden`."""
        return self.services.auth.check(heads.credential(self.request), scope)

    async def body(self, limit: int) -> bytes:
        """Raises `TooLarge`, and `BadCall` for bodies in a form not read here."""
        check_body_head(self.request, limit)
        return await self.request.body(limit)

    def query(self, known: Sequence[str]) -> dict[str, list[str]]:
        """The query's fields. Raises `BadCall` naming a field that is not `known`."""
        fields: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(self.request.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError:
            raise BadCall(f"The query has more than {MAX_QUERY_FIELDS} fields.") from None
        for key, value in pairs:
            name = key.removesuffix("[]")
            if name not in known:
                raise BadCall(
                    f"Unknown query parameter '{name[:100]}'. Known are: {', '.join(known) or 'none'}.",
                    param=name[:100],
                    code="unknown_parameter",
                )
            fields.setdefault(name, []).append(value)
        return fields


def cors_headers(origin: bytes, allowed: Sequence[str]) -> list[Header]:
    """Lets pages of the allowed origins read the answer. Cookies are never involved."""
    if "*" not in allowed and origin.decode("latin-1") not in allowed:
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"x-request-id, retry-after, retry-after-ms"),
        (b"vary", b"origin"),
    ]
