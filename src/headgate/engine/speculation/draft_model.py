"""A smaller model that guesses what a larger one will say: a second runner that follows the plans of the first.

Its blocks have the same ids and sizes as the target's, so a sequence has one table for both, and what is shared or
cached there is here too. What it has not computed, or no longer, is known for each block and computed when a draft is
wanted, a bounded part at a time. So nothing has to be right here but the positions it claims: a wrong guess costs time.
"""

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from headgate.engine.plan import Draft, Runner, SampleSpec, Slice, StepPlan, Wanted
from headgate.engine.sampling.adjust import at_row

CATCH_UP = 128
"""Tokens computed per step of sequences that lag behind; for these there are no drafts until they have caught up."""

Draw = Callable[[Any, Sequence[SampleSpec]], list[tuple[int, Any]]]
"""A token for each row of logits, and the distribution that it was drawn from, or None (`sampling.draft`)."""


class _Place(Struct):
    """How far one sequence is."""

    done: int
    """Positions whose keys and values are those of known tokens."""
    known: int = 0
    guessed: tuple[int, ...] = ()
    """The last draft, which followed the first `known` tokens. All but its last token are computed too."""


class _Want(Struct):
    want: Wanted
    begin: int
    tokens: list[int]
    weights: list[Any]

    @property
    def open(self) -> bool:
        """More is to be drawn: nothing follows an end."""
        params = self.want.sample.params
        ended = not params.ignore_eos and bool(self.tokens) and self.tokens[-1] in params.stop_ids
        return len(self.tokens) < self.want.most and not ended

    def part(self) -> Slice:
        known = self.want.tokens
        if not self.tokens:
            return Slice(self.want.key, tuple(known[self.begin :]), self.begin, self.want.table, 1)
        return Slice(self.want.key, (self.tokens[-1],), len(known) + len(self.tokens) - 1, self.want.table, 1)

    def sample(self) -> SampleSpec:
        drafted = replace(self.want.sample, draft=Draft(tuple(self.tokens)))
        return at_row(drafted, len(self.tokens)) if self.tokens else self.want.sample

    def draft(self) -> Draft:
        drawn = all(row is not None for row in self.weights)
        return Draft(tuple(self.tokens), tuple(self.weights) if drawn else None)


class DraftModel:
    """Proposes what the runner draws, with `draw`, under the sequences' own parameters."""

    def __init__(self, runner: Runner, draw: Draw, *, blocks: int, block_size: int, busy: int) -> None:
        """The runner has as many blocks, of the same size, as the target's. With more than `busy` sequences in a step
        prompts are not read along; they are caught up on later.
        """
        self._runner = runner
        self._draw = draw
        self._size = block_size
        self._busy = busy
        self._places: dict[int, _Place] = {}
        self._filled = [0] * (blocks + 1)
        """Of each block, how many of its first places are computed."""

    def propose(self, wanted: Sequence[Wanted]) -> list[Draft | None]:
        asked: list[_Want] = []
        late: list[Slice] = []
        room = CATCH_UP
        for want in wanted:
            place = self._settled(want)
            lag = len(want.tokens) - place.done
            if lag <= max(2, room):
                asked.append(_Want(want, place.done, [], []))
                room -= lag if lag > 2 else 0
            elif room > 0:
                end = place.done + room
                late.append(Slice(want.key, tuple(want.tokens[place.done : end]), place.done, want.table, 0))
                room = 0
        drafts = self._drafts(asked, late)
        return [drafts.get(want.key) for want in wanted]

    def follow(self, plan: StepPlan) -> None:
        """Reads prompts along, and notes which blocks now hold something else."""
        copied = {to for _, to in plan.copies}
        parts: list[Slice] = []
        for part in plan.slices:
            place = self._places.get(part.key)
            if place is None:
                place = self._places[part.key] = _Place(self._walk(part.table, part.start))
            known = len(part.tokens) - max(0, part.wants - 1)
            self._overwritten(part, place, copied)
            if known > 1 and place.done == part.start and len(plan.slices) <= self._busy:
                parts.append(Slice(part.key, part.tokens[:known], part.start, part.table, 0))
        self._run(parts, ())

    def forget(self, key: int) -> None:
        self._places.pop(key, None)

    def _drafts(self, asked: list[_Want], late: list[Slice]) -> dict[int, Draft]:
        active = [one for one in asked if one.open]
        first = True
        while active or (first and late):
            active.sort(key=lambda one: len(one.want.tokens) - one.begin)
            parts = [one.part() for one in active] + (late if first else [])
            samples = tuple(one.sample() for one in active)
            logits = self._run(parts, samples, keep=first)
            first = False
            drawn = self._draw(logits, samples) if active else []
            for one, (token, weights) in zip(active, drawn, strict=True):
                one.tokens.append(token)
                one.weights.append(weights)
            active = [one for one in active if one.open]
        for one in asked:
            place = self._places[one.want.key]
            place.known, place.guessed = len(one.want.tokens), tuple(one.tokens)
        return {one.want.key: one.draft() for one in asked if one.tokens}

    def _run(self, parts: Sequence[Slice], samples: tuple[SampleSpec, ...], *, keep: bool = True) -> Any:
        """Computes the parts; with `keep`, their tokens are known ones, and count as done."""
        if not parts:
            return None
        logits = self._runner.forward(StepPlan(0, tuple(parts), samples))
        if keep:
            for part in parts:
                place = self._places[part.key]
                self._fill(part.table, place.done, part.start + len(part.tokens))
                place.done = part.start + len(part.tokens)
        return logits

    def _settled(self, want: Wanted) -> _Place:
        """How far the sequence is, the right part of its last draft included; the last token always remains."""
        place = self._places.get(want.key)
        if place is None:
            place = self._places[want.key] = _Place(self._walk(want.table, len(want.tokens) - 1))
        if place.guessed and place.done == place.known:
            right = place.known
            for token in place.guessed[:-1]:
                if right >= len(want.tokens) or want.tokens[right] != token:
                    break
                right += 1
            self._fill(want.table, place.done, right)
            place.done = right
        place.guessed = ()
        place.done = min(place.done, len(want.tokens) - 1)
        return place

    def _overwritten(self, part: Slice, place: _Place, copied: set[int]) -> None:
        for block in copied.intersection(part.table) if copied else ():
            # What the target copied is computed again here: it is less than a block.
            self._filled[block] = 0
            place.done = min(place.done, part.table.index(block) * self._size)
            place.guessed = ()
        begin = -(-max(part.start, place.done) // self._size)
        end = -(-(part.start + len(part.tokens)) // self._size)
        for block in part.table[begin:end]:
            self._filled[block] = 0

    def _fill(self, table: Sequence[int], start: int, end: int) -> None:
        for index in range(start // self._size, -(-end // self._size)):
            self._filled[table[index]] = min(end - index * self._size, self._size)

    def _walk(self, table: Sequence[int], most: int) -> int:
        """How many positions in a row are computed."""
        done = 0
        for block in table:
            done += self._filled[block]
            if self._filled[block] < self._size or done >= most:
                break
        return min(done, most)
