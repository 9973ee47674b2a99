"""`POST /v1/embeddings`."""

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.inference import Shape, answer
from headgate.api.wire.answers import EmbeddingList
from headgate.api.wire.calls import embedding_call
from headgate.core.request import EmbeddingRequest

_SHAPE = Shape(embedding_call, "emb-")


async def _create(exchange: Exchange) -> None:
    await answer(exchange, _SHAPE)


ROUTES = (
    Route(
        method="POST",
        path="/v1/embeddings",
        endpoint=_create,
        scope="inference",
        summary="Vectors of texts.",
        takes=EmbeddingRequest,
        gives=EmbeddingList,
    ),
)
