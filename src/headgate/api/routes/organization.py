"""What the endpoints of the organization share: who asks, pages of lists, bodies, times.

They follow OpenAI's administration API, so that its SDKs work here: https://platform.openai.com/docs/api-reference/administration
"""

import re
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from headgate.api.exchange import Exchange
from headgate.api.wire.decode import decode
from headgate.core.errors import BadCall
from headgate.core.policy import TIME_MAX
from headgate.tenancy.records import Actor
from headgate.tenancy.store import Page

T = TypeVar("T")
LIMIT_MAX = 100
PAGING = ("limit", "after")
_UNKNOWN = re.compile(r"unknown field '(.+?)'")


class Listing(Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list. `after` with `last_id` gives the next one where `has_more`."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def admin(exchange: Exchange) -> Actor:
    """Who asks, for the audit log. Raises `Unauthorized` or `Forbidden`."""
    principal = exchange.principal("admin")
    return Actor(principal.key_id, principal.user_id, exchange.request.client or None)


async def read_body(exchange: Exchange, decoder: msgspec.json.Decoder[T]) -> T:
    """Raises `BadCall` naming the field that is wrong, missing or not known."""
    raw = await exchange.body(int(exchange.settings.max_admin_body_kb * 1024))
    try:
        return decode(decoder, raw or b"{}")
    except BadCall as error:
        unknown = _UNKNOWN.search(error.message)
        if unknown is None:
            raise
        field = unknown[1] if error.param is None else f"{error.param}.{unknown[1]}"
        raise BadCall(
            f"Unknown field '{field[:200]}'. Leave it out.", param=field[:200], code="unknown_parameter"
        ) from None


def read_page(exchange: Exchange, fields: dict[str, list[str]], default: int = 20, order: str = "desc") -> Page:
    """`limit`, `after`, `before` and `order` of a query. Raises `BadCall`."""
    text = fields.get("limit", [str(default)])[-1]
    if not text.isascii() or not text.isdigit() or len(text) > 4 or not 1 <= int(text) <= LIMIT_MAX:
        raise BadCall(f"'limit' must lie between 1 and {LIMIT_MAX}.", param="limit", code="invalid_value")
    order = fields.get("order", [order])[-1]
    if order not in {"asc", "desc"}:
        raise BadCall("'order' is asc or desc.", param="order", code="invalid_value")
    after, before = fields.get("after", [None])[-1], fields.get("before", [None])[-1]
    if after and before:
        raise BadCall("Give 'after' or 'before', not both.", param="before", code="invalid_value")
    return Page(limit=int(text), after=after or None, before=before or None, newest_first=order == "desc")


def read_flag(fields: dict[str, list[str]], name: str) -> bool:
    text = fields.get(name, ["false"])[-1].lower()
    if text not in {"true", "false"}:
        raise BadCall(f"'{name}' is true or false.", param=name, code="invalid_value")
    return text == "true"


def listing(found: Sequence[T], ids: Sequence[str], limit: int) -> Listing[T]:
    """From one more than a page holds, if there is more."""
    shown = list(found[:limit])
    return Listing(
        data=shown,
        first_id=ids[0] if shown else None,
        last_id=ids[len(shown) - 1] if shown else None,
        has_more=len(found) > limit,
    )


def expiry(exchange: Exchange, seconds: int | None) -> float | None:
    """Unix seconds. Raises `BadCall`."""
    if seconds is None:
        return None
    now = exchange.services.clock.now()
    if not 1 <= seconds <= TIME_MAX - now:
        raise BadCall(
            "'expires_in_seconds' is 1 or more, and ends before the year 10000; leave it out for never.",
            param="expires_in_seconds",
            code="invalid_value",
        )
    return now + seconds


def whole(seconds: float | None) -> int | None:
    """OpenAI's times are whole seconds."""
    return None if seconds is None else int(seconds)
