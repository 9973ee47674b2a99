"""`POST /v1/chat/completions`."""

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.inference import Shape, answer
from headgate.api.wire.answers import ChatCompletion
from headgate.api.wire.calls import chat_call
from headgate.api.wire.openai_chat import ChatEncoder, ChatFold
from headgate.core.request import ChatRequest

_SHAPE = Shape(chat_call, "chatcmpl-", ChatEncoder, ChatFold)


async def _create(exchange: Exchange) -> None:
    await answer(exchange, _SHAPE)


ROUTES = (
    Route(
        method="POST",
        path="/v1/chat/completions",
        endpoint=_create,
        scope="inference",
        summary="Answer a conversation; with stream: true, piece by piece.",
        takes=ChatRequest,
        gives=ChatCompletion,
        streams=True,
    ),
)
