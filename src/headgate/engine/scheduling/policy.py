"""Who of the waiting comes next: the most urgent class, in it the tenant that got least, of that tenant's the first.

- The class is the priority, less one for every `age_s` seconds of waiting, down to the most urgent class that waits.
- In a class, tenants take turns by a virtual token counter (VTC, arXiv 2401.00588): it counts what a tenant was given,
  input tokens once and output tokens twice. A tenant that comes back is lifted to the least of those who wait, so that
  nobody saves up turns by staying away.
- Of one tenant, either the first come, or short ones first: the highest response ratio (waited + length) / length.
- Whoever waited `OVERDUE` times `age_s` comes before all others, the first come first.

The wait is therefore bounded, whatever else arrives: a sequence that is overdue is passed only by those that came
before it, and those are at most as many as may wait.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from operator import attrgetter

from headgate.engine.scheduling.sequence import OUTPUT_WEIGHT, Account, Sequence

MAX_TENANTS = 1024
"""So many tenants are remembered after their last sequence ended."""
OVERDUE = 12.0
CHOSEN_FOR = 8
"""A choice is made anew after an eighth of `age_s`, or when the queue has changed."""

_by_key = attrgetter("key")


class Accounts:
    """What each tenant was given. Bounded: idle ones are forgotten, the longest unused first."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def open(self, tenant: str) -> Account:
        """For one more sequence of the tenant; whoever ends it takes it off `sequences` again."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account()
            self._tidy()
        self._accounts.move_to_end(tenant)
        account.sequences += 1
        return account

    def _tidy(self) -> None:
        """Busy ones are passed over, and looked at again when all others were."""
        for _ in range(len(self._accounts) - MAX_TENANTS):
            tenant, account = self._accounts.popitem(last=False)
            if account.sequences:
                self._accounts[tenant] = account

    def __len__(self) -> int:
        return len(self._accounts)


class Waiting:
    """The waiting sequences. `choose` is O(classes of tenants waiting), and O(waiting) with `short_first`; it is
    called when a place is free, and its answer is kept until the queue changes.
    """

    def __init__(self, *, age_s: float, short_first: bool) -> None:
        self._age_s = age_s
        self._short_first = short_first
        self._groups: dict[tuple[str, int], list[Sequence]] = {}  # by tenant and priority, each by arrival
        self._count = 0
        self._last_served = 0.0
        self._chosen: tuple[float, Sequence] | None = None

    def __len__(self) -> int:
        return self._count

    def push(self, sequence: Sequence) -> None:
        account = sequence.account
        if account.waiting == 0 and not sequence.admitted:
            waiting = [group[0].account.served for group in self._groups.values()]
            account.served = max(account.served, min(waiting, default=self._last_served))
        account.waiting += 1
        sequence.length = len(sequence.tokens) + OUTPUT_WEIGHT * (sequence.max_tokens - sequence.generated)
        insort(self._groups.setdefault(_group(sequence), []), sequence, key=_by_key)
        self._count += 1
        self._chosen = None

    def remove(self, sequence: Sequence) -> None:
        """Admitted, or ended."""
        group = self._groups[_group(sequence)]
        del group[bisect_left(group, sequence.key, key=_by_key)]
        if not group:
            del self._groups[_group(sequence)]
        self._count -= 1
        sequence.account.waiting -= 1
        self._last_served = sequence.account.served
        self._chosen = None

    def choose(self, now: float) -> Sequence | None:
        """Whose turn it is."""
        if not self._count:
            return None
        if self._chosen is None or now >= self._chosen[0]:
            self._chosen = (now + self._age_s / CHOSEN_FOR, self._choose(now))
        return self._chosen[1]

    def _choose(self, now: float) -> Sequence:
        top = min(priority for _, priority in self._groups)

        def turn(group: list[Sequence]) -> tuple[bool, int, float, int]:
            oldest = group[0]
            waited = (now - oldest.arrived) / self._age_s
            if waited >= OVERDUE:
                return False, 0, 0.0, oldest.key
            return True, max(oldest.share.priority - int(waited), top), oldest.account.served, oldest.key

        group = min(self._groups.values(), key=turn)
        if not self._short_first or now - group[0].arrived >= OVERDUE * self._age_s:
            return group[0]
        return min(group, key=lambda one: ((one.arrived - now) / one.length, one.length, one.key))


def _group(sequence: Sequence) -> tuple[str, int]:
    return sequence.share.tenant, sequence.share.priority
