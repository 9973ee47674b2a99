"""A runner, a draft model and a grammar for the scheduler's proofs, whose text is a function of the whole context.

The runner keeps real paged storage: for each place its token and a hash of all tokens before it. What it draws is a
hash of the context *read back through the block table*. A block given to two sequences, freed or written too early,
not copied, wrongly found in the cache or computed in the wrong place breaks the chain of hashes or changes the text.
"""

from collections.abc import Sequence
from itertools import pairwise

from headgate.engine.plan import Draft, Masks, SampleSpec, Score, StepPlan, StepResult, Wanted

END = 0
TOKENS = 50
ANY = b"any"


def next_token(context: Sequence[int]) -> int:
    return hash(tuple(context)) % TOKENS


def forced_token(last: int | None) -> int | None:
    """The fake grammar: what must follow a token, if anything."""
    if last is None or last % 7 not in (3, 4):
        return None
    return END if last == 24 else last + 1


def expected_text(prompt: Sequence[int], max_tokens: int, *, constrained: bool = False, stop: bool = True) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        forced = forced_token(tokens[-1]) if constrained and len(tokens) > len(prompt) else None
        tokens.append(next_token(tokens) if forced is None else forced)
        if stop and tokens[-1] == END:
            break
    return tokens[len(prompt) :]


class FakeGrammar:
    """Some tokens must be followed by certain others; it ends with END."""

    failed = False

    def __init__(self) -> None:
        self._last: int | None = None

    def fits(self, tokens: tuple[int, ...]) -> int:
        last = self._last
        for count, token in enumerate(tokens):
            if last == END or forced_token(last) not in (None, token):
                return count
            last = token
        return len(tokens)

    def forced(self) -> tuple[int, ...]:
        tokens: list[int] = []
        last = self._last
        while (token := forced_token(last)) is not None:
            tokens.append(token)
            last = token
        return tuple(tokens)

    def masks(self, draft: tuple[int, ...] = ()) -> tuple[bytes, ...]:
        assert self.fits(draft) == len(draft)
        forced = (forced_token(last) for last in (self._last, *draft))
        return tuple(ANY if token is None else bytes([token]) for token in forced)

    def consume(self, tokens: tuple[int, ...]) -> None:
        assert not self.ended
        assert self.fits(tokens) == len(tokens)
        self._last = tokens[-1]

    @property
    def ended(self) -> bool:
        return self._last == END


class HashRunner:
    """Keeps tokens and hashes where a real runner keeps keys and values. `steps` counts plans."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._cache: dict[tuple[int, int], tuple[int, int]] = {}
        self.steps = 0

    def forward(self, plan: StepPlan) -> list[list[list[int]]]:
        self.steps += 1
        self._copy(plan)
        written: set[tuple[int, int]] = set()
        for part in plan.slices:
            before = 0 if part.start == 0 else self._cache[self._place(part.table, part.start - 1)][1]
            for at, token in enumerate(part.tokens, part.start):
                place = self._place(part.table, at)
                assert place not in written
                written.add(place)
                before = hash((before, token))
                self._cache[place] = (token, before)
        return [self._rows(part.table, part.start + len(part.tokens), part.wants) for part in plan.slices if part.wants]

    def sample(self, logits: list[list[list[int]]], samples: tuple[SampleSpec, ...], masks: Masks) -> StepResult:
        tokens: list[tuple[int, ...]] = []
        scores: list[tuple[Score, ...] | None] = []
        for rows, spec, mask in zip(logits, samples, masks, strict=True):
            proposed = () if spec.draft is None else spec.draft.tokens
            assert len(rows) == len(proposed) + 1
            drawn: list[int] = []
            for index, context in enumerate(rows):
                forced = None if mask is None or mask[index] == ANY else mask[index][0]
                drawn.append(next_token(context) if forced is None else forced)
                if index == len(proposed) or drawn[-1] != proposed[index]:
                    break
            tokens.append(tuple(drawn))
            asked = spec.params.logprobs is not None
            scores.append(tuple(Score(-float(token)) for token in drawn) if asked else None)
        return StepResult(tuple(tokens), tuple(scores))

    def read(self, table: tuple[int, ...], end: int) -> list[int]:
        """The tokens of the first `end` positions, found computed one after another."""
        held = [self._cache[self._place(table, at)] for at in range(end)]
        if held:
            assert held[0][1] == hash((0, held[0][0]))
        for (_, before), (token, after) in pairwise(held):
            assert after == hash((before, token))
        return [token for token, _ in held]

    def block(self, block: int) -> tuple[tuple[int, int], ...]:
        """What a full block holds."""
        return tuple(self._cache[block, at] for at in range(self._size))

    def _rows(self, table: tuple[int, ...], end: int, wants: int) -> list[list[int]]:
        context = self.read(table, end)
        return [context[: end - wants + 1 + row] for row in range(wants)]

    def _place(self, table: tuple[int, ...], at: int) -> tuple[int, int]:
        assert table[at // self._size] != 0
        return table[at // self._size], at % self._size

    def _copy(self, plan: StepPlan) -> None:
        targets = [target for _, target in plan.copies]
        assert len(set(targets)) == len(targets)
        places = range(self._size)
        held = {(target, at): self._cache.get((source, at)) for source, target in plan.copies for at in places}
        for place, value in held.items():
            if value is None:
                self._cache.pop(place, None)
            else:
                self._cache[place] = value


class Guesser:
    """Proposes the right tokens up to one that is sometimes wrong. It reads every plan as a draft model would, and
    checks that it then has all of a sequence but the last token computed whenever it is asked.
    """

    def __init__(self, block_size: int) -> None:
        self._mirror = HashRunner(block_size)
        self._size = block_size

    def propose(self, wanted: Sequence[Wanted]) -> list[Draft | None]:
        drafts: list[Draft | None] = []
        for want in wanted:
            known = list(want.tokens)
            assert want.most >= 1
            assert len(want.table) * self._size >= len(known) + want.most
            assert self._mirror.read(want.table, len(known) - 1) == known[:-1]
            chance = hash((*known, 1)) % 6
            tokens = list(known)
            for index in range(min(want.most, chance)):
                tokens.append(next_token(tokens) if hash((*tokens, index)) % 4 else 1)
            drafts.append(Draft(tuple(tokens[len(known) :])) if chance else None)
        return drafts

    def follow(self, plan: StepPlan) -> None:
        self._mirror.forward(plan)

    def forget(self, key: int) -> None:
        pass


class AnyPace:
    """Lengths that differ from one time to the next."""

    def __init__(self) -> None:
        self._asked = 0
        self.proposed = self.accepted = 0

    def length(self, key: int) -> int:
        self._asked += 1
        return (key + self._asked) % 6

    def result(self, key: int, proposed: int, accepted: int) -> None:
        assert 0 <= accepted <= proposed
        self.proposed += proposed
        self.accepted += accepted

    def forget(self, key: int) -> None:
        pass

    def took(self, sequences: int, proposed: int, seconds: float) -> None:
        assert proposed >= 0
        assert seconds >= 0
