"""`GET /v1/organization/calls/{request_id}`: the story of one call, as the ledger has it."""

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.ledger.accounts.story import Story


async def _get(exchange: Exchange) -> None:
    exchange.principal("admin")
    await exchange.send_json(await exchange.services.accounts.story_of(exchange.path_id))


ROUTES = (
    Route(
        method="GET",
        path="/v1/organization/calls/{request_id}",
        endpoint=_get,
        scope="admin",
        summary="What became of one call: its attempts, why each was made, how long each took, and the sums.",
        gives=Story,
    ),
)
