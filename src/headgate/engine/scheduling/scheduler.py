"""The scheduler: each step hands out a budget of tokens to sequences that know more tokens than are computed.

One rule, no phases. Running sequences come first, single decodes before chunks of prompts; what is left of the budget
admits waiting ones (`policy.py`), and what is left then goes into drafts. Beside running streams, prompts get as many
tokens as fit into a time (`budget.py`); alone they get all. Blocks are taken for what is computed next only.

When blocks run out, the least urgent running sequence gives its own back and computes again later (preemption by
recompute, as in vLLM; much of it is then found in the prefix cache). Progress is certain: the order in which running
sequences give way never changes, so the first in it always gets on, and what could not fit alone is refused at submit.

Everything here is a synchronous function of the state and of the times handed in; `plan` and `apply` alternate.
"""

from bisect import insort
from operator import attrgetter

from headgate.core.errors import Overloaded
from headgate.engine.limits import Limits
from headgate.engine.plan import Constraint, Draft, Proposer, SampleSpec, Score, Slice, StepPlan, StepResult
from headgate.engine.scheduling.blocks import BlockPool
from headgate.engine.scheduling.budget import StepTimes
from headgate.engine.scheduling.drafting import Drafting, Pace
from headgate.engine.scheduling.outcome import Counters, Output
from headgate.engine.scheduling.policy import Accounts, Waiting
from headgate.engine.scheduling.sequence import OUTPUT_WEIGHT, Sequence, State
from headgate.engine.scheduling.tables import Tables

SPARE_SHARE = 100
"""One block in so many stays free when a sequence is admitted beside others."""
SPARE_MOST = 16.0
"""So many blocks for each running sequence stay free at most: twice as many after each preemption, ..."""
SPARE_FADE = 0.9
"""... and fewer again with each admission."""

_order = attrgetter("order")


class Scheduler:
    """Decides what runs. Owns all sequences and the block pool."""

    def __init__(self, limits: Limits, proposer: Proposer | None = None, pace: Pace | None = None) -> None:
        self.limits = limits
        self.pool = BlockPool(limits.blocks, limits.block_size)
        self.counters = Counters()
        self.times = StepTimes(limits.step_s)
        self._tables = Tables(self.pool, prefix_cache=limits.prefix_cache)
        self._drafting: Drafting | None = None
        if proposer is not None and pace is not None and limits.draft_tokens:
            self._drafting = Drafting(limits, self._tables, proposer, pace)
        self._accounts = Accounts()
        self._sequences: dict[int, Sequence] = {}
        self._waiting = Waiting(age_s=limits.age_s, short_first=limits.short_first)
        self._children: dict[int, dict[int, Sequence]] = {}  # by parent, while its prompt is not computed
        self._parked = 0
        self._running: list[Sequence] = []  # in `order`
        self._planned: frozenset[int] = frozenset()
        self._dropped: list[Sequence] = []
        self._prompt_tokens = 0  # of the plan in flight
        self._spare = 1.0
        """Blocks for each running sequence that stay free at admissions: more after preemptions."""

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + self._parked

    @property
    def busy(self) -> bool:
        return bool(self._sequences)

    @property
    def held_tokens(self) -> int:
        """Positions whose keys and values the running sequences hold; what several share counts for each."""
        return sum(sequence.computed for sequence in self._running)

    def tables(self) -> list[tuple[int, ...]]:
        """All block tables: of the running, and of what was cancelled while a step that writes to them is under way."""
        return [sequence.table for sequence in (*self._running, *self._dropped)]

    def submit(self, sequence: Sequence, now: float, *, parent: int | None = None) -> None:
        """`parent`: an earlier sequence of the same prompt and salt, whose blocks it can share; it need not be there
        any more. Raises `BadCall` for what never fits, `Overloaded` when the queue is full.
        """
        self.limits.refuse(sequence.prompt_length, sequence.max_tokens)
        if len(self._sequences) >= self.limits.max_sequences + self.limits.max_waiting:
            raise Overloaded("The engine's queue is full.", retry_after=1.0)
        elder = None if parent is None else self._sequences.get(parent)
        if elder is not None and not elder.same_prompt(sequence):
            raise ValueError(f"sequence {sequence.key} does not have the prompt and salt of its parent {elder.key}")
        sequence.arrived, sequence.parent = now, parent
        sequence.order = (sequence.share.priority + now / self.limits.age_s, sequence.key)
        sequence.account = self._accounts.open(sequence.share.tenant)
        self._sequences[sequence.key] = sequence
        if elder is None or elder.generated:
            self._waiting.push(sequence)
        else:
            self._children.setdefault(elder.key, {})[sequence.key] = sequence
            self._parked += 1

    def cancel(self, key: int) -> bool:
        """Ends a sequence; its blocks come back at once, or after the step in flight that writes to them."""
        sequence = self._sequences.get(key)
        if sequence is None:
            return False
        if sequence.state is State.RUNNING:
            self._running.remove(sequence)
        elif sequence.parent is not None and self._children.get(sequence.parent, {}).pop(key, None) is not None:
            self._parked -= 1
        else:
            self._waiting.remove(sequence)
        self._end(sequence)
        if key in self._planned:
            self._dropped.append(sequence)
        else:
            self._tables.drop(sequence)
        return True

    def plan(self, now: float) -> StepPlan | None:
        """The next step, or None where nothing is to be done. `now` is monotonic, in seconds."""
        if self._planned:
            raise RuntimeError("a plan is still in flight")
        self._tables.copies.clear()
        preemptions = self.counters.preemptions
        chosen: dict[int, int] = {}
        chunks = self._decode(chosen)
        streams = [self._sequences[key] for key in chosen]
        room = self.limits.max_batch_tokens - len(chosen)
        prompts = self.times.chunk(room) if chosen else room
        left = self._continue(chosen, chunks, prompts)
        if preemptions == self.counters.preemptions:
            left = self._admit(chosen, left, now)
        if not chosen:
            return None
        self._prompt_tokens = prompts - left
        drafts: dict[int, Draft] = {}
        if self._drafting is not None and len(self._running) <= self.limits.draft_busy:
            streams = [one for one in streams if one.state is State.RUNNING]
            drafts = self._drafting.draft(streams, room - self._prompt_tokens)
        self.counters.steps += 1
        plan = self._plan_of(chosen, drafts)
        if self._drafting is not None:
            self._drafting.follow(plan)
        return plan

    def held(self, plan: StepPlan) -> list[tuple[Constraint, tuple[int, ...]] | None]:
        """What each sample of the plan is held to, with the tokens of its draft; None where it is free."""
        held: list[tuple[Constraint, tuple[int, ...]] | None] = []
        samples = iter(plan.samples)
        for part in plan.slices:
            if part.wants:
                draft = next(samples).draft
                sequence = self._sequences.get(part.key)  # None: cancelled since
                constraint = None if sequence is None else sequence.constraint
                tokens = () if draft is None else draft.tokens
                held.append(None if constraint is None else (constraint, tokens))
        return held

    def apply(self, plan: StepPlan, result: StepResult, seconds: float) -> list[Output]:
        """Takes in what the runner computed in `seconds`; the new tokens, in the plan's order."""
        self.times.learn(self._prompt_tokens, seconds)
        if self._drafting is not None and not self._prompt_tokens:
            self._drafting.took(plan, seconds)
        self._planned = frozenset()
        for sequence in self._dropped:
            self._tables.drop(sequence)
        self._dropped.clear()
        outputs: list[Output] = []
        drawn = iter(zip(result.tokens, result.scores, strict=True))
        size = self.limits.block_size
        for part in plan.slices:
            tokens, scores = next(drawn) if part.wants else ((), None)
            if part.key not in self._sequences:
                continue  # cancelled while the step ran
            sequence = self._sequences[part.key]
            self.counters.computed_tokens += len(part.tokens)
            sequence.computed += len(part.tokens) - max(part.wants - 1, 0)
            if part.wants > 1:
                self._verified(sequence, part.wants - 1, len(tokens) - 1)
            if tokens:
                outputs.append(self._extend(sequence, tokens, scores))
            elif sequence.computed // size > sequence.indexed:
                self._tables.keep(sequence)
        return outputs

    def _extend(self, sequence: Sequence, tokens: tuple[int, ...], scores: tuple[Score, ...] | None) -> Output:
        """What was drawn becomes known, up to the token that ends the sequence; then what is forced after it."""
        first, drawn, finish = not sequence.generated, 0, None
        for token in tokens:
            finish = sequence.append(token)
            drawn += 1
            if finish is not None:
                break
        if len(tokens) > 1:
            sequence.computed += min(len(tokens) - 1, drawn)
            tokens, scores = tokens[:drawn], None if scores is None else scores[:drawn]
        if finish is None and sequence.constraint is not None and sequence.params.logprobs is None:
            for token in sequence.constraint.forced():
                finish = sequence.append(token)
                tokens = (*tokens, token)
                if finish is not None:
                    break
        self.counters.generated_tokens += len(tokens)
        sequence.account.served += OUTPUT_WEIGHT * len(tokens)
        if sequence.computed // self.limits.block_size > sequence.indexed:
            self._tables.keep(sequence)
        if finish is not None:
            self._running.remove(sequence)
            self._end(sequence)
            self._tables.drop(sequence)
        elif first and self._children:
            self._release_children(sequence)
        return Output(sequence.key, tokens, scores, finish, sequence.cached_tokens if first else None)

    def _verified(self, sequence: Sequence, proposed: int, accepted: int) -> None:
        self.counters.drafts += 1
        self.counters.draft_tokens += proposed
        self.counters.accepted_tokens += accepted
        if self._drafting is not None:
            self._drafting.result(sequence.key, proposed, accepted)

    def _end(self, sequence: Sequence) -> None:
        sequence.move(State.FINISHED)
        del self._sequences[sequence.key]
        sequence.account.sequences -= 1
        self._release_children(sequence)
        if self._drafting is not None:
            self._drafting.end(sequence.key)

    def _release_children(self, parent: Sequence) -> None:
        """They wait for their parent no longer: its prompt is computed, or it is gone."""
        for child in self._children.pop(parent.key, {}).values():
            self._parked -= 1
            self._waiting.push(child)

    def _decode(self, chosen: dict[int, int]) -> list[Sequence]:
        """Gives its token to every running sequence that has just one; the others."""
        chunks: list[Sequence] = []
        size, most = self.limits.block_size, self.limits.max_batch_tokens
        for sequence in tuple(self._running):
            known = len(sequence.tokens)
            if known - sequence.computed > 1:
                chunks.append(sequence)
                continue
            if sequence.state is not State.RUNNING or len(chosen) == most:
                continue
            if known <= len(sequence.table) * size or self._make_room(sequence, known, chosen):
                chosen[sequence.key] = 1
        return chunks

    def _continue(self, chosen: dict[int, int], chunks: list[Sequence], room: int) -> int:
        """Gives the others of the running sequences their next chunks; the room left."""
        for sequence in chunks:
            if room and sequence.state is State.RUNNING:
                count = min(sequence.pending, room)
                if self._make_room(sequence, sequence.computed + count, chosen):
                    chosen[sequence.key] = count
                    room -= count
        return room

    def _make_room(self, sequence: Sequence, end: int, chosen: dict[int, int]) -> bool:
        """Blocks for a running sequence's tokens up to `end`, others' if need be; False where it had to go itself."""
        while not self._tables.extend(sequence, end):
            if len(self._running) == 1:
                raise RuntimeError(f"sequence {sequence.key} has the KV cache to itself and lacks room")
            victim = self._running.pop()
            chosen.pop(victim.key, None)
            victim.move(State.WAITING)
            self._tables.drop(victim)
            self._waiting.push(victim)
            self.counters.preemptions += 1
            self._spare = min(self._spare * 2, SPARE_MOST)
            if self._drafting is not None:
                self._drafting.forget(victim.key)
            if victim is sequence:
                return False
        return True

    def _admit(self, chosen: dict[int, int], room: int, now: float) -> int:
        """Admits waiting sequences, whose turn it is, while room, places and blocks last; the room left.

        Beside others, one must find blocks for all its known tokens once those have theirs, and some must stay free
        for what will be drawn: else it would soon be preempted, or preempt. Nothing is reserved by that.
        """
        owed = spare = 0
        while room and len(self._running) < self.limits.max_sequences:
            sequence = self._waiting.choose(now)
            if sequence is None:
                break
            if self._running:
                owed = sum(map(self._tables.missing, self._running))
                spare = int(self._spare * len(self._running)) + self.pool.total // SPARE_SHARE
                if owed + spare >= self.pool.available:
                    break
            forked = self._find_computed(sequence)
            if self._running and self._tables.missing(sequence) + owed + spare > self.pool.available:
                self._tables.drop(sequence)
                break
            self._waiting.remove(sequence)
            sequence.move(State.RUNNING)
            insort(self._running, sequence, key=_order)
            if not sequence.admitted:
                self._first_admission(sequence, forked=forked)
            count = min(sequence.pending, room)
            if self._make_room(sequence, sequence.computed + count, chosen):
                chosen[sequence.key] = count
                room -= count
            self._spare = max(self._spare * SPARE_FADE, 1.0)
        return room

    def _find_computed(self, sequence: Sequence) -> bool:
        """Gives it the blocks that others computed; True where they are its parent's."""
        parent = None if sequence.parent is None else self._sequences.get(sequence.parent)
        if (
            parent is not None
            and parent.state is State.RUNNING
            and parent.computed >= sequence.prompt_length
            and parent.key not in self._tables.copies  # what is only to be copied cannot be copied from yet
            and not sequence.generated
        ):
            self._tables.fork(sequence, parent)
            return True
        self._tables.reuse(sequence)
        return False

    def _first_admission(self, sequence: Sequence, *, forked: bool) -> None:
        sequence.admitted, sequence.cached_tokens = True, sequence.computed
        sequence.account.served += sequence.prompt_length - sequence.cached_tokens
        self.counters.prompt_tokens += sequence.prompt_length
        self.counters.cached_tokens += sequence.cached_tokens
        if self.limits.prefix_cache and not forked:
            self.counters.prefix_queries += sequence.prompt_length
            self.counters.prefix_hits += sequence.cached_tokens

    def _plan_of(self, chosen: dict[int, int], drafts: dict[int, Draft]) -> StepPlan:
        slices: list[Slice] = []
        samples: list[SampleSpec] = []
        for key, count in chosen.items():
            sequence = self._sequences[key]
            start = sequence.computed
            tokens = tuple(sequence.tokens[start : start + count])
            wants = int(start + count == len(sequence.tokens))
            draft = drafts.get(key)
            if draft is not None:
                tokens += draft.tokens
                wants += len(draft.tokens)
            slices.append(Slice(key, tokens, start, sequence.table, wants))
            if wants:
                samples.append(sequence.sample_spec(draft))
        self._planned = frozenset(chosen)
        return StepPlan(self.counters.steps, tuple(slices), tuple(samples), tuple(self._tables.copies.values()))
