"""What can be asked of the ledger, and what comes back."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Literal, Protocol, get_args

import msgspec
from msgspec import Meta, Struct

from headgate.core.policy import NANOS
from headgate.core.usage import Receipt
from headgate.ledger.accounts.story import Story, tell

GroupBy = Literal[
    "tenant", "user", "key", "model", "backend", "session", "operation", "outcome", "minute", "hour", "day"
]
GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
WIDTHS: dict[str, int] = {"minute": 60, "hour": 3_600, "day": 86_400}
"""Seconds of the groups that are spans of time."""
TAG = "tag:"
"""A group `tag:NAME` is the value of the tag of that name."""
GROUPS_MAX = 10_000
"""Rows one usage query may return."""
_Whole = Annotated[int, Meta(ge=0, lt=2**53)]
PAGE = 1_000
"""Entries that an export holds in memory."""


class Filter(Struct, frozen=True):
    """Only entries whose field is one of `values`; the value of an absent user, session or tag is the empty text."""

    field: str
    """A `GroupBy` that is no span of time, or `tag:NAME`."""
    values: tuple[str, ...]


class UsageQuery(Struct, frozen=True):
    """Entries started in [`start`, `end`) (Unix seconds), summed by the named fields."""

    start: float
    end: float
    group_by: tuple[str, ...] = ()
    """`GroupBy`s and `tag:NAME`s."""
    filters: tuple[Filter, ...] = ()
    limit: int = GROUPS_MAX
    """Rows at most; those left over are asked for with `after`."""
    after: tuple[str | int, ...] = ()
    """The `place` of the last row of the page before."""


class UsageRow(Struct, frozen=True, kw_only=True):
    """One group's sums. `cost_nanos` covers the priced entries only; `unpriced` says how many attempts were not."""

    group: dict[str, str]
    """A `day` is written `2026-11-21`, an `hour` `2026-11-21T05`, in UTC; an absent user, session or tag is empty."""
    requests: int = 0
    """Attempts; corrections are not counted, but what they add or take is in the sums."""
    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    cost_nanos: int | None = None
    unpriced: int = 0
    estimated: int = 0
    """Attempts whose tokens we counted ourselves."""
    corrections: int = 0
    place: tuple[str | int, ...] = ()
    """Where the row stands in the order, for `after`."""

    @property
    def cost_usd(self) -> float | None:
        return None if self.cost_nanos is None else self.cost_nanos / NANOS


class SpendQuestion(Struct, frozen=True):
    """What was spent in [`start`, `end`) (Unix seconds) by whom and on which models.

    None stands for all; the empty text for the entries that have no user, or no session.
    """

    start: float
    end: float
    tenant: str | None = None
    user: str | None = None
    key: str | None = None
    session: str | None = None
    model: str = "*"
    ended_by: float | None = None
    """Only entries that had ended by then (Unix seconds)."""
    """A pattern, as policies have it (`fnmatchcase`), of the model that was asked for."""


class Reader(Protocol):
    """What `accounts.store.Store` answers."""

    async def usage(self, query: UsageQuery) -> list[UsageRow]: ...

    async def entries(self, query: UsageQuery, after: tuple[float, str] | None, limit: int) -> list[Receipt]: ...

    async def spent(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]: ...

    async def call(self, call_id: str) -> tuple[list[Receipt], list[Receipt]]: ...


class Spending:
    """What was spent, up to this process's last receipt: what its journal still holds is shipped first.

    For budget accounts that are not known yet. It reads SQL: never on the way of a call whose accounts are known.
    """

    def __init__(self, reader: Reader, flush: Callable[[], Awaitable[None]]) -> None:
        self._reader = reader
        self._flush = flush

    async def spent(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
        """Nanodollars and tokens (input and output) per question, all of one snapshot.

        Raises `Overloaded` where the database cannot be reached: then nobody knows what was spent.
        """
        await self._flush()
        return await self._reader.spent(questions)


class Answers(Protocol):
    """The ledger, up to the last call. `Accounts` gives them."""

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """At most `query.limit` rows, ordered by their groups."""
        ...

    def entries(self, query: UsageQuery) -> AsyncIterator[list[Receipt]]:
        """All entries that the query's times and filters leave, oldest first, a page in memory at a time."""
        ...

    async def story_of(self, call_id: str) -> Story:
        """What became of one call. Raises `NotFound` where the ledger has no attempt of it."""
        ...


class Accounts:
    """The ledger as administrators read it, up to this process's last receipt: see `Answers`."""

    def __init__(self, reader: Reader, flush: Callable[[], Awaitable[None]]) -> None:
        self._reader = reader
        self._flush = flush

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        await self._flush()
        return await self._reader.usage(query)

    async def spent(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
        """Nanodollars and tokens of each question."""
        await self._flush()
        return await self._reader.spent(questions)

    async def entries(self, query: UsageQuery) -> AsyncIterator[list[Receipt]]:
        await self._flush()
        after: tuple[float, str] | None = None
        while page := await self._reader.entries(query, after, PAGE):
            yield page
            after = page[-1].started_at, page[-1].id

    async def story_of(self, call_id: str) -> Story:
        await self._flush()
        return tell(call_id, *await self._reader.call(call_id))


def check_field(field: str, *, times: bool) -> str:
    """The field, if it can be grouped by (`times`: spans of time too). Raises `ValueError` naming what can."""
    if field in GROUPS and (times or field not in WIDTHS):
        return field
    name = field.removeprefix(TAG)
    if field.startswith(TAG) and name:
        if '"' in name or "\\" in name or len(name) > 256:
            raise ValueError("the name of a tag may not hold quotes or backslashes, nor more than 256 characters")
        return field
    known = [name for name in GROUPS if times or name not in WIDTHS]
    raise ValueError(f"'{field[:50]}' is none of {', '.join(known)}, tag:NAME")


def cursor(place: tuple[str | int, ...]) -> str:
    """A place as opaque text, for clients."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def read_cursor(text: str, kinds: Sequence[type[str] | type[int]]) -> tuple[str | int, ...]:
    """Raises `ValueError` for anything but a cursor of a question with fields of these kinds."""
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        place = msgspec.json.decode(raw, type=tuple[str | _Whole, ...])
    except (ValueError, msgspec.MsgspecError):
        place = ()
    if not place or [type(value) for value in place] != list(kinds):
        raise ValueError("'page' is no cursor of this question; take next_page of the page before")
    return place
