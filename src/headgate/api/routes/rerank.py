"""`POST /v1/rerank`, under each of the paths that Cohere's, Jina's and vLLM's clients ask for."""

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.inference import Shape, answer
from headgate.api.wire.answers import Ranking
from headgate.api.wire.calls import rerank_call
from headgate.core.request import RerankRequest

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
_SHAPE = Shape(rerank_call, "rank-")


async def _create(exchange: Exchange) -> None:
    await answer(exchange, _SHAPE)


ROUTES = tuple(
    Route(
        method="POST",
        path=path,
        endpoint=_create,
        scope="inference",
        summary="Documents in the order of their relevance to a query.",
        takes=RerankRequest,
        gives=Ranking,
    )
    for path in PATHS
)
