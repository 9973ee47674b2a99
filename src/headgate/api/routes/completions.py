"""`POST /v1/completions`."""

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.inference import Shape, answer
from headgate.api.wire.answers import TextCompletion
from headgate.api.wire.calls import completion_call
from headgate.api.wire.openai_completion import CompletionEncoder, CompletionFold
from headgate.core.request import CompletionRequest

_SHAPE = Shape(completion_call, "cmpl-", CompletionEncoder, CompletionFold)


async def _create(exchange: Exchange) -> None:
    await answer(exchange, _SHAPE)


ROUTES = (
    Route(
        method="POST",
        path="/v1/completions",
        endpoint=_create,
        scope="inference",
        summary="Continue a text; with stream: true, piece by piece.",
        takes=CompletionRequest,
        gives=TextCompletion,
        streams=True,
    ),
)
