"""`/v1/organization/audit_logs`: who changed what, and when."""

import math
from typing import Any

from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, listing, read_page
from headgate.core.errors import BadCall
from headgate.tenancy.records import Entry
from headgate.tenancy.store import Condition, Op
from headgate.tenancy.tenancy import AuditFilter

BASE = "/v1/organization/audit_logs"
_TIMES: dict[str, Op] = {
    "effective_at[gt]": ">", "effective_at[gte]": ">=", "effective_at[lt]": "<", "effective_at[lte]": "<=",
}  # fmt: skip
_FILTERS = {
    "event_types": "types", "project_ids": "projects", "resource_ids": "targets",
    "actor_ids": "actors", "actor_emails": "emails",
}  # fmt: skip
FIELDS = (*PAGING, "before", *_FILTERS, *_TIMES)


class AuditLog(Struct, frozen=True, kw_only=True):
    """One change. What it was stands under the name of its type, here `details`."""

    id: str
    object: str = "organization.audit_log"
    type: str
    effective_at: int
    actor: dict[str, Any]
    project: dict[str, str] | None
    details: dict[str, Any]


def _shown(entry: Entry) -> dict[str, Any]:
    """OpenAI puts the details under the event's own type: `"project.created": {"id": …}`."""
    details: dict[str, Any] = {"id": entry.target}
    if entry.before is not None and entry.after is not None:
        details |= {"changes_requested": entry.after, "before": entry.before}
    elif entry.after is not None:
        details["data"] = entry.after
    elif entry.before is not None:
        details["before"] = entry.before
    return {
        "id": entry.id,
        "object": "organization.audit_log",
        "type": entry.type,
        "effective_at": int(entry.at),
        "actor": _actor(entry),
        "project": None if entry.project is None else {"id": entry.project},
        entry.type: details,
    }


def _actor(entry: Entry) -> dict[str, Any]:
    """The command line and the server itself have no key: they are sessions of that name."""
    user = {"id": entry.actor_user} if entry.actor_user is not None else None
    if entry.actor in {"cli", "system"}:
        return {"type": "session", "session": {"ip_address": entry.address, "user": user or {"id": entry.actor}}}
    key = {"id": entry.actor, "type": "user", "user": user}
    return {"type": "api_key", "api_key": key, "ip_address": entry.address}


def _bounds(fields: dict[str, list[str]]) -> tuple[Condition, ...]:
    bounds: list[Condition] = []
    for name, op in _TIMES.items():
        if name not in fields:
            continue
        try:
            at = float(fields[name][-1])
        except ValueError:
            at = math.nan
        if not 0 <= at < 1e11:
            raise BadCall(f"'{name}' is a number of Unix seconds.", param="effective_at", code="invalid_value")
        bounds.append(("at", op, at))
    return tuple(bounds)


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    fields = exchange.query(FIELDS)
    page = read_page(exchange, fields)
    named = {meant: tuple(fields.get(name, ())) for name, meant in _FILTERS.items()}
    found = await exchange.services.tenancy.audit.page(page, AuditFilter(**named, times=_bounds(fields)))
    await exchange.send_json(listing([_shown(entry) for entry in found], [entry.id for entry in found], page.limit))


ROUTES = (
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="Every change, newest first.",
        gives=Listing[AuditLog], query=FIELDS,
    ),
)  # fmt: skip
