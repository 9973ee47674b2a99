"""Who runs the call of a key, as the database would know it, in one process."""

from headgate.core.errors import HeadgateError
from headgate.ledger.idempotency.ask import Ask, Found, Kept, reused, too_large


class Turns:
    """What stands under each slot. `away` is raised as long as it is set."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Ask, Kept | None]] = {}
        self.away: HeadgateError | None = None

    def _reach(self) -> None:
        if self.away is not None:
            raise self.away

    async def take(self, ask: Ask) -> Found:
        found = await self.look(ask)
        if found == "gone":
            self.kept[ask.slot] = (ask, None)
            return "mine"
        return found

    async def look(self, ask: Ask) -> Found:
        self._reach()
        theirs, kept = self.kept.get(ask.slot, (ask, None))
        if theirs.fingerprint != ask.fingerprint:
            raise reused()
        if kept is not None and kept.content is None:
            raise too_large()
        return kept or ("elsewhere" if ask.slot in self.kept else "gone")

    async def finish(self, ask: Ask, kept: Kept) -> None:
        self._reach()
        self.kept[ask.slot] = (ask, kept)

    async def release(self, ask: Ask) -> None:
        self._reach()
        del self.kept[ask.slot]
