"""`spend_alerts` of the organization and of projects: the soft threshold of the monthly budget.

A monthly budget has one alert, `alert_month`. No mail is sent: an alert is a log line and an event for brokers; the
recipients are kept for whatever reads those.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from headgate.api.application import Endpoint, Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, listing, read_body, read_page
from headgate.api.routes.spend_limits import ORGANIZATION, PROJECT, owner_of
from headgate.core.policy import MONEY_MAX
from headgate.tenancy import spending
from headgate.tenancy.policies import Owner
from headgate.tenancy.spending import no_alert

MONTH = "alert_month"
FIELDS = (*PAGING, "before", "order")


class NotificationChannel(Struct, frozen=True, forbid_unknown_fields=True):
    recipients: tuple[str, ...]
    type: Literal["email"] = "email"
    subject_prefix: str | None = None


class SpendAlert(Struct, frozen=True, kw_only=True):
    """From so many cents a month on there is an alert."""

    id: str = MONTH
    object: Literal["organization.spend_alert", "project.spend_alert"]
    currency: Literal["USD"] = "USD"
    interval: Literal["month"] = "month"
    threshold_amount: int
    notification_channel: NotificationChannel


class SpendAlertChange(Struct, frozen=True, forbid_unknown_fields=True):
    threshold_amount: Annotated[int, Meta(ge=1, le=MONEY_MAX * 100)]
    notification_channel: NotificationChannel
    currency: Literal["USD"] = "USD"
    interval: Literal["month"] = "month"


class DeletedSpendAlert(Struct, frozen=True, kw_only=True):
    id: str = MONTH
    object: Literal["organization.spend_alert.deleted", "project.spend_alert.deleted"]
    deleted: bool = True


_change = msgspec.json.Decoder(SpendAlertChange)


def _shown(owner: Owner, alert: spending.SpendAlert) -> SpendAlert:
    return SpendAlert(
        object="project.spend_alert" if owner.level == "project" else "organization.spend_alert",
        threshold_amount=alert.cents,
        notification_channel=NotificationChannel(alert.recipients, subject_prefix=alert.subject_prefix),
    )


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    page = read_page(exchange, exchange.query(FIELDS))
    owner = owner_of(exchange)
    alert = await exchange.services.tenancy.alerts.get(owner)
    shown = [] if alert is None or page.after or page.before else [_shown(owner, alert)]
    await exchange.send_json(listing(shown, [one.id for one in shown], page.limit))


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    _check_id(exchange)
    owner = owner_of(exchange)
    alert = await exchange.services.tenancy.alerts.get(owner)
    if alert is None:
        raise no_alert()
    await exchange.send_json(_shown(owner, alert))


async def _create(exchange: Exchange) -> None:
    await _put(exchange, new=True)


async def _update(exchange: Exchange) -> None:
    admin(exchange)
    _check_id(exchange)
    await _put(exchange, new=False)


async def _put(exchange: Exchange, new: bool) -> None:
    by = admin(exchange)
    owner = owner_of(exchange)
    asked = await read_body(exchange, _change)
    channel = asked.notification_channel
    alert = await exchange.services.tenancy.alerts.put(
        owner, asked.threshold_amount, channel.recipients, channel.subject_prefix, by, new
    )
    await exchange.send_json(_shown(owner, alert))


async def _delete(exchange: Exchange) -> None:
    by = admin(exchange)
    _check_id(exchange)
    owner = owner_of(exchange)
    await exchange.services.tenancy.alerts.remove(owner, by)
    kind = "project.spend_alert.deleted" if owner.level == "project" else "organization.spend_alert.deleted"
    await exchange.send_json(msgspec.convert({"object": kind}, DeletedSpendAlert))


def _check_id(exchange: Exchange) -> None:
    if exchange.path_ids[-1] != MONTH:
        raise no_alert()


_ACTIONS: tuple[tuple[str, str, Endpoint, str, type | None, type], ...] = (
    ("GET", "", _list, "The alert of the monthly budget, if there is one.", None, Listing[SpendAlert]),
    ("POST", "", _create, "Set an alert for the monthly budget.", SpendAlertChange, SpendAlert),
    ("GET", "/{alert_id}", _get, "One alert.", None, SpendAlert),
    ("POST", "/{alert_id}", _update, "Change an alert.", SpendAlertChange, SpendAlert),
    ("DELETE", "/{alert_id}", _delete, "Delete an alert.", None, DeletedSpendAlert),
)

ROUTES = tuple(
    Route(
        method=method, path=f"{base}/spend_alerts{below}", endpoint=endpoint, scope="admin", summary=summary,
        takes=takes, gives=gives, query=FIELDS if endpoint is _list else (),
    )
    for base in (ORGANIZATION, PROJECT)
    for method, below, endpoint, summary, takes, gives in _ACTIONS
)  # fmt: skip
