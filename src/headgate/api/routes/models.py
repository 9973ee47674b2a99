"""`GET /v1/models` and `GET /v1/models/{id}`: what the caller's key may use."""

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.wire.answers import Model, ModelList
from headgate.core.errors import NotFound
from headgate.core.ports import ModelInfo


def _model(info: ModelInfo) -> Model:
    return Model(id=info.id, created=info.created, owned_by=info.owned_by)


async def _list(exchange: Exchange) -> None:
    models = exchange.services.visible_models(exchange.principal("inference"))
    await exchange.send_json(ModelList(data=[_model(info) for info in models]))


async def _get(exchange: Exchange) -> None:
    for info in exchange.services.visible_models(exchange.principal("inference")):
        if info.id == exchange.path_id:
            await exchange.send_json(_model(info))
            return
    raise NotFound(
        f"The model '{exchange.path_id[:200]}' does not exist, or your key may not use it. GET /v1/models lists all.",
        code="model_not_found",
        param="model",
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/models",
        endpoint=_list,
        scope="inference",
        summary="The models that your key may use.",
        gives=ModelList,
    ),
    Route(
        method="GET",
        path="/v1/models/{id}",
        endpoint=_get,
        scope="inference",
        summary="One model.",
        gives=Model,
    ),
)
