"""`GET /v1/streams/{id}`: the rest of a stream whose connection was lost, or all that is kept of it."""

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.resumed import resume
from headgate.api.wire import heads
from headgate.core.errors import BadCall, NotFound


async def _get(exchange: Exchange) -> None:
    """Without `Last-Event-ID`: from its beginning."""
    exchange.principal("inference")
    name = exchange.path_id
    if not heads.STREAM_ID.fullmatch(name):
        raise NotFound(
            f"There is no stream '{name[:100]}'. The header x-headgate-stream of a resumable stream names it.",
            code="stream_not_found",
        )
    event = heads.last_event_id(exchange.request) or heads.EventId(name, 0)
    if event.stream != name:
        raise BadCall(
            f"Last-Event-ID names the stream {event.stream}, and the URL another. Ask for the one you mean.",
            code="invalid_last_event_id",
        )
    await resume(exchange, None, event)


ROUTES = (
    Route(
        method="GET",
        path="/v1/streams/{id}",
        endpoint=_get,
        scope="inference",
        summary="What comes after Last-Event-ID of a resumable stream.",
        streams=True,
    ),
)
