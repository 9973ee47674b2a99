"""`/livez`, `/readyz`, `/metrics`: for whoever runs the server. No key is asked for."""

from headgate.api.application import Route
from headgate.api.exchange import Exchange


async def _live(exchange: Exchange) -> None:
    await exchange.send_json({"status": "live"})


async def _ready(exchange: Exchange) -> None:
    ok, detail = exchange.services.ready()
    await exchange.send_json({"status": "ready" if ok else "not ready", "detail": detail}, 200 if ok else 503)


async def _metrics(exchange: Exchange) -> None:
    body, kind = exchange.services.metrics()
    await exchange.send(body, 200, ((b"content-type", kind),))


ROUTES = (
    Route(method="GET", path="/livez", endpoint=_live, scope=None, summary="The process answers."),
    Route(
        method="GET",
        path="/readyz",
        endpoint=_ready,
        scope=None,
        summary="200 when calls are welcome, else 503; both say why.",
    ),
    Route(method="GET", path="/metrics", endpoint=_metrics, scope=None, summary="Metrics in Prometheus' text format."),
)
