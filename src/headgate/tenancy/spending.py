"""Stops of spending, and whom a monthly budget's alert is for."""

from headgate.core.errors import BadCall, Conflict, NotFound
from headgate.core.policy import TIME_MAX, Policy
from headgate.tenancy import edits
from headgate.tenancy.desk import Change, Desk, need
from headgate.tenancy.policies import Owner, edit_policy, load
from headgate.tenancy.records import SYSTEM, Actor, Alert, Project, Stop
from headgate.tenancy.store import Books

REASON_MAX = 500


class Stops:
    """Projects whose calls are refused for now: by an administrator, or by the watch on spend velocity."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def stop(self, project: str, reason: str, until: float, by: Actor = SYSTEM) -> None:
        """Refuses the project's calls until `until` (Unix seconds); a later stop replaces an earlier one.

        Raises `BadCall` and `NotFound`.
        """
        if not 0 < len(reason) <= REASON_MAX or not reason.isprintable():
            raise BadCall(f"A reason has 1 to {REASON_MAX} printable characters.", param="reason")
        if not self._desk.clock.now() < until <= TIME_MAX:
            raise BadCall("'until' lies between now and the year 10000, in Unix seconds.", param="until")

        def work(change: Change) -> None:
            need(change.books, Project, project, "project")
            before = next(iter(change.books.find(Stop, ("project", "=", project))), None)
            stop = Stop(project, reason, change.now, until)
            change.books.put(stop)
            change.note("spend_stop.created", project, project, before, stop)

        await self._desk.change(by, work)

    async def release(self, project: str, by: Actor = SYSTEM) -> Stop:
        """Lets the project's calls go on. Raises `NotFound` where nothing is stopped."""

        def work(change: Change) -> Stop:
            found = change.books.find(Stop, ("project", "=", project), ("until", ">", change.now))
            if not found:
                raise NotFound(f"The project '{project[:100]}' is not stopped.", code="not_stopped")
            change.books.remove(Stop, ("project", "=", project))
            change.note("spend_stop.released", project, project, found[0], None)
            return found[0]

        return await self._desk.change(by, work)

    async def all(self) -> list[Stop]:
        """Those in force."""
        now = self._desk.clock.now()
        return await self._desk.store.look(lambda books: books.find(Stop, ("until", ">", now)))


class SpendAlert(Alert, frozen=True):
    """An alert with its threshold, which the policy has."""

    cents: int


class Alerts:
    """The alert of the organization's and each project's monthly budget: one each, at the budget's soft threshold."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, owner: Owner) -> SpendAlert | None:
        """Raises `NotFound` for an owner who is not there."""
        return await self._desk.store.look(lambda books: _alert(books, owner))

    async def put(
        self, owner: Owner, cents: int, recipients: tuple[str, ...], prefix: str | None, by: Actor, new: bool
    ) -> SpendAlert:
        """Sets it. Raises `Conflict` where a `new` one is asked for and one is there, `NotFound` where none is."""
        _check_recipients(recipients, prefix)

        def work(change: Change) -> SpendAlert:
            before = _alert(change.books, owner)
            if new and before is not None:
                raise Conflict(
                    f"There is an alert at {before.cents} cents already; a monthly budget has one. "
                    "Update or delete that one.",
                    code="spend_alert_exists",
                )
            if not new and before is None:
                raise no_alert()
            edit_policy(change, owner, None, lambda policy: edits.with_spend_alert(policy, cents))
            since = change.now if before is None else before.created_at
            alert = Alert(f"{owner.level}:{owner.id}", recipients, prefix, since)
            change.books.put(alert)
            after = SpendAlert(alert.owner, recipients, prefix, alert.created_at, cents)
            kind = "spend_alert.created" if new else "spend_alert.updated"
            change.note(kind, owner.id, owner.within, before, after)
            return after

        return await self._desk.change(by, work)

    async def remove(self, owner: Owner, by: Actor) -> None:
        """Raises `NotFound` where there is none."""

        def work(change: Change) -> None:
            before = _alert(change.books, owner)
            if before is None:
                raise no_alert()
            edit_policy(change, owner, None, edits.without_spend_alert)
            change.books.remove(Alert, ("owner", "=", before.owner))
            change.note("spend_alert.deleted", owner.id, owner.within, before, None)

        await self._desk.change(by, work)


def no_alert() -> NotFound:
    return NotFound("There is no such spend alert. List them to see their ids.", code="spend_alert_not_found")


def _alert(books: Books, owner: Owner) -> SpendAlert | None:
    cents = edits.spend_alert(load(books, owner).policy or Policy())
    if cents is None:
        return None
    place = f"{owner.level}:{owner.id}"
    alert = next(iter(books.find(Alert, ("owner", "=", place))), Alert(place, (), None, 0.0))
    return SpendAlert(alert.owner, alert.recipients, alert.subject_prefix, alert.created_at, cents)


def _check_recipients(recipients: tuple[str, ...], prefix: str | None) -> None:
    if len(recipients) > 100 or any(not 0 < len(one) <= 254 or not one.isprintable() for one in recipients):
        raise BadCall(
            "An alert has at most 100 recipients, each a printable e-mail address.",
            param="notification_channel.recipients",
        )
    if prefix is not None and (len(prefix) > 200 or not prefix.isprintable()):
        raise BadCall(
            "A subject's prefix has at most 200 printable characters.", param="notification_channel.subject_prefix"
        )
