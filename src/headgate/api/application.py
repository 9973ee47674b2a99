"""The way of every request: head checked, endpoint found, run, and whatever goes wrong rendered once, here.

This is one of the few places with a broad `except`: what escapes an endpoint is a fault of ours, and the caller gets
a request id instead of its text.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from headgate.api.errors import error_headers, openai_body, openai_frame, whole_response
from headgate.api.exchange import JSON, Exchange
from headgate.api.front import check_head
from headgate.api.http import ClientGone, Request, Sink
from headgate.api.services import RefusedRequest, Services
from headgate.api.settings import ServerSettings
from headgate.api.wire import heads
from headgate.core.errors import BadCall, Bug, HeadgateError, NotFound, Overloaded
from headgate.core.principal import Scope
from headgate.core.reply import Header

Endpoint = Callable[[Exchange], Awaitable[None]]


class Route(Struct, frozen=True, kw_only=True):
    """One method on one path. A part in braces, such as `{id}`, takes what stands there, slashes too."""

    method: str
    path: str
    endpoint: Endpoint
    scope: Scope | None
    """What a key must allow; None: no key is asked for."""
    summary: str
    takes: type | None = None
    gives: type | None = None
    streams: bool = False
    """The answer may be a stream of events."""
    query: tuple[str, ...] = ()


_BRACES = re.compile(r"\{[a-z_]+\}")


def ids_in(path: str, parts: Sequence[str]) -> tuple[str, ...] | None:
    """What stands between `parts`, the first taking the most; None where the path is of another form.

    In linear time, which a regular expression is not here: the path is a stranger's, who has shown no key yet.
    """
    first, *middles, last = parts
    start, end = len(first), len(path) - len(last)
    if start >= end or not (path.startswith(first) and path.endswith(last)):
        return None
    ids: list[str] = []
    for middle in reversed(middles):
        at = path.rfind(middle, start + 1, end - 1)
        if at < 0:
            return None
        ids.append(path[at + len(middle) : end])
        end = at
    ids.append(path[start:end])
    return tuple(reversed(ids))


class Application:
    """A `Handler` over the given routes."""

    def __init__(self, routes: Sequence[Route], services: Services, settings: ServerSettings) -> None:
        self.services = services
        self.settings = settings
        self._exact: dict[str, dict[str, Route]] = {}
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            found = patterns if "{" in route.path else self._exact
            found.setdefault(route.path, {})[route.method] = route
        self._patterns = [
            (_BRACES.split(path), methods)
            for path, methods in sorted(patterns.items(), key=lambda item: -len(_BRACES.sub("", item[0])))
        ]
        """Those that say most of the path come first."""

    async def handle(self, request: Request, sink: Sink) -> None:
        """Answers exactly once. Raises only cancellation, and only where the client has left."""
        exchange = Exchange(request, sink, self.services, self.settings)
        try:
            check_head(request, self.settings)
            endpoint = self._find(exchange)
            await endpoint(exchange)
        except HeadgateError as error:
            if isinstance(error, Bug):
                self.services.on_bug(exchange.request_id, error)
            await self._fail(exchange, error)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if sink.gone:
                raise
            task = asyncio.current_task()  # the server is stopping: its grace time is over
            if task is not None:
                task.uncancel()
            await self._fail(exchange, Overloaded("The server is stopping; try again.", retry_after=1.0))
        except Exception as error:  # noqa: BLE001 whatever it is, the caller gets an answer and the log the rest
            self.services.on_bug(exchange.request_id, error)
            await self._fail(
                exchange,
                Bug(f"An internal error happened. Give this id when you report it: {exchange.request_id}."),
            )

    def refusal(self, error: HeadgateError) -> bytes:
        """A whole response, for requests that never reach an endpoint."""
        request_id = self.services.ids.new("req")
        self.services.on_refused(
            RefusedRequest(request_id=request_id, method="-", route="-", status=error.status, code=error.code or "-")
        )
        return whole_response(
            error,
            [
                (b"x-request-id", request_id.encode()),
                (b"x-headgate-version", self.services.version.encode()),
                *error_headers(error),
            ],
        )

    def _find(self, exchange: Exchange) -> Endpoint:
        request = exchange.request
        methods = self._exact.get(request.path)
        if methods is None:
            for parts, below in self._patterns:
                if (ids := ids_in(request.path, parts)) is not None:
                    methods, exchange.path_ids = below, ids
                    break
            else:
                raise NotFound(
                    f"Unknown request URL: {request.method} {request.path[:200]}. {self._hint(request.path)}",
                    code="unknown_url",
                )
        exchange.route = next(iter(methods.values())).path
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is not None:
            return route.endpoint
        if request.method == "OPTIONS":
            return _options(methods)
        error = BadCall(
            f"{request.method[:20]} is not allowed here; use {' or '.join(methods)}.",
            code="method_not_allowed",
            status=405,
        )
        error.headers = [allow(methods)]
        raise error

    def _hint(self, path: str) -> str:
        """Most wrong URLs come of a base URL that lacks the /v1 at its end, or says it twice."""
        path = path.rstrip("/")
        for meant in (path, "/v1" + path, path.removeprefix("/v1")):
            if meant in self._exact:
                return f"Did you mean {meant}?"
        return "See /openapi.json for all."

    async def _fail(self, exchange: Exchange, error: HeadgateError) -> None:
        """Before the first byte a plain error; in a stream one last frame, without the mark of completeness."""
        sink = exchange.sink
        if sink.ended or sink.gone:
            return
        if not exchange.called and not isinstance(error, Bug):
            self.services.on_refused(_refused(exchange, error))
        if sink.begun:
            await sink.end(openai_frame(error) if exchange.streaming else b"")
            return
        await exchange.send(openai_body(error), error.status, (JSON, *error_headers(error)))


def _refused(exchange: Exchange, error: HeadgateError) -> RefusedRequest:
    return RefusedRequest(
        request_id=exchange.request_id,
        method=exchange.request.method,
        route=exchange.route,
        status=error.status,
        code=error.code or "-",
        client_request_id=heads.client_request_id(exchange.request),
    )


def allow(methods: dict[str, Route]) -> Header:
    names = [*methods, "OPTIONS"] + (["HEAD"] if "GET" in methods else [])
    return (b"allow", ", ".join(names).encode())


def _options(methods: dict[str, Route]) -> Endpoint:
    async def answer(exchange: Exchange) -> None:
        headers: list[Header] = [allow(methods)]
        if exchange.settings.cors_origins:
            headers += [
                (b"access-control-allow-methods", ", ".join(methods).encode()),
                (b"access-control-allow-headers", b"authorization, *"),  # SDKs send headers of their own
                (b"access-control-max-age", b"600"),
            ]
        exchange.sink.start(204, exchange.headers(*headers))
        await exchange.sink.end()

    return answer
