"""When drafts are asked for, how long they may be, and what becomes of them.

Drafts get what of a step's tokens and blocks nobody else wants: no sequence waits or is preempted for one.
"""

from collections.abc import Iterable
from typing import Protocol

from headgate.engine.limits import Limits
from headgate.engine.plan import Draft, Proposer, StepPlan, Wanted
from headgate.engine.scheduling.sequence import Sequence
from headgate.engine.scheduling.tables import Tables


class Pace(Protocol):
    """How long a sequence's drafts should be, by how well its last ones did."""

    def length(self, key: int) -> int: ...

    def result(self, key: int, proposed: int, accepted: int) -> None: ...

    def forget(self, key: int) -> None: ...

    def took(self, sequences: int, proposed: int, seconds: float) -> None: ...


class Drafting:
    """Asks a proposer for drafts, and keeps it and the pace told of what happens."""

    def __init__(self, limits: Limits, tables: Tables, proposer: Proposer, pace: Pace) -> None:
        self._limits = limits
        self._tables = tables
        self._proposer = proposer
        self._pace = pace

    def draft(self, sequences: Iterable[Sequence], room: int) -> dict[int, Draft]:
        """Drafts by sequence, of `room` tokens together at most. The sequences have one token each to compute."""
        wanted: list[Wanted] = []
        for sequence in sequences:
            left = sequence.max_tokens - sequence.generated - 1
            most = self._room(sequence, min(self._pace.length(sequence.key), self._limits.draft_tokens, left, room))
            if most > 0:
                room -= most
                wanted.append(Wanted(sequence.key, sequence.tokens, sequence.table, most, sequence.sample_spec()))
        if not wanted:
            return {}
        drafts: dict[int, Draft] = {}
        by_key = {sequence.key: sequence for sequence in sequences}
        for want, draft in zip(wanted, self._proposer.propose(wanted), strict=True):
            sequence = by_key[want.key]
            draft = None if draft is None else _fitting(sequence, draft, want.most)
            if draft is None:
                self._tables.trim(sequence)
            else:
                drafts[want.key] = draft
        return drafts

    def _room(self, sequence: Sequence, most: int) -> int:
        """Makes room in the table for `most` tokens more than known, or for fewer; how many."""
        known = len(sequence.tokens)
        if most < 1 or self._tables.extend(sequence, known + most):
            return most
        return min(most, len(sequence.table) * self._tables.pool.block_size - known)

    def follow(self, plan: StepPlan) -> None:
        self._proposer.follow(plan)

    def result(self, key: int, proposed: int, accepted: int) -> None:
        self._pace.result(key, proposed, accepted)

    def took(self, plan: StepPlan, seconds: float) -> None:
        """A step without prompts, its drafts' making included."""
        self._pace.took(len(plan.slices), sum(part.wants - 1 for part in plan.slices), seconds)

    def forget(self, key: int) -> None:
        self._proposer.forget(key)

    def end(self, key: int) -> None:
        self._proposer.forget(key)
        self._pace.forget(key)


def _fitting(sequence: Sequence, draft: Draft, most: int) -> Draft | None:
    """As much of the draft as may be verified, if any."""
    fit = min(len(draft.tokens), most)
    if sequence.constraint is not None:
        fit = min(sequence.constraint.fits(draft.tokens[:fit]), fit)
    if fit == len(draft.tokens):
        return draft if fit else None
    return Draft(draft.tokens[:fit], None if draft.weights is None else draft.weights[:fit]) if fit else None
