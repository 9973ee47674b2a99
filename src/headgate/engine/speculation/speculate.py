"""Guesses at what comes next, and how much guessing pays. Whether one is right is found out by `sampling/verify.py`."""

from array import array
from collections.abc import Sequence

from msgspec import Struct

from headgate.engine.plan import Draft, StepPlan, Wanted

SHORTEST, LONGEST = 2, 4
"""Tokens at the end of a text that are looked for earlier on."""
TRIED = 16
"""Earlier places looked at for a longer match than the last one's."""
WINDOW = 2**14
"""Tokens of a sequence that are remembered at least, the latest; twice as many at most, in about 4 MB."""
READ_AT_ONCE = 2**11
"""Tokens of a long prompt indexed per step, about a millisecond's work; there are no drafts until all are."""


class NGram:
    """Proposes what followed the same few tokens earlier in prompt and answer (prompt lookup).

    The longest match of up to `LONGEST` tokens counts, and of equals the latest. O(1) per token: places with the same
    two tokens before them form a chain, the latest first, as in LZ77 compressors (RFC 1951, section 4).
    """

    def __init__(self) -> None:
        self._texts: dict[int, _Text] = {}

    def propose(self, wanted: Sequence[Wanted]) -> list[Draft | None]:
        return [self._one(want) for want in wanted]

    def follow(self, plan: StepPlan) -> None:
        """Known tokens are all it reads."""

    def forget(self, key: int) -> None:
        self._texts.pop(key, None)

    def _one(self, want: Wanted) -> Draft | None:
        text = self._texts.get(want.key)
        known = len(want.tokens)
        if text is None or not text.begin <= text.read <= known <= text.begin + 2 * WINDOW:
            text = self._texts[want.key] = _Text(max(0, known - WINDOW))
        found = text.find(want.tokens)
        if found is None or want.most < 1:
            return None
        tokens = want.tokens[found : found + want.most]
        period = known - found
        # Where the match reaches the end, the text repeats itself, and so does the draft.
        return Draft(tuple(tokens[at % period] for at in range(want.most)))


class _Text:
    """Where each pair of tokens was last followed by something."""

    def __init__(self, begin: int) -> None:
        self.read = begin
        self.begin = begin
        self._latest: dict[int, int] = {}
        self._earlier = array("i")
        """For each place from `begin` on, the place before it with the same pair, or -1."""

    def find(self, tokens: Sequence[int]) -> int | None:
        """The place where the text stood as it stands at its end now."""
        self._read(tokens)
        end = len(tokens)
        if self.read < end or end - self.begin < SHORTEST:
            return None
        best, length = None, SHORTEST - 1
        place = self._earlier[-1]
        for _ in range(TRIED):
            if place < 0:
                break
            same = SHORTEST
            while same < LONGEST and same < place - self.begin and tokens[place - 1 - same] == tokens[end - 1 - same]:
                same += 1
            if same > length:
                best, length = place, same
            if length == LONGEST:
                break
            place = self._earlier[place - 1 - self.begin]
        return best

    def _read(self, tokens: Sequence[int]) -> None:
        """Place n stands for what follows the first n tokens; `_earlier` begins with that after `begin` + 1 of them."""
        end = min(len(tokens), self.read + READ_AT_ONCE)
        latest, earlier = self._latest, self._earlier
        for at in range(self.read, end):
            if at == self.begin:
                earlier.append(-1)
                continue
            pair = tokens[at - 1] << 32 | tokens[at]
            earlier.append(latest.get(pair, -1))
            latest[pair] = at + 1
        self.read = end


class _Record(Struct):
    """How one sequence's drafts did. Sums of which the older parts count less and less."""

    right: float
    tried: float
    resting: int = 0
    rest: int = 0

    def add(self, right: int, tried: int) -> None:
        self.right += _FORGETTING * (right - self.right)
        self.tried += _FORGETTING * (tried - self.tried)

    @property
    def rate(self) -> float:
        return self.right / self.tried


_FORGETTING = 0.15
_HOPE = 0.7
"""The rate of right tokens taken for granted where none was verified."""
_REST, _LONGEST_REST = 8, 256
"""Steps between trials of a sequence whose drafts do not pay; each in vain doubles the pause."""
_PLAIN_EVERY = 32
"""Steps with drafts before one without, which shows what a step costs by itself."""


class _Cost(Struct):
    """What steps with about so many sequences took, in seconds."""

    plain_s: float = 0.0
    token_s: float = 0.0
    """More for each token verified."""
    since_plain: int = 0


class Pace:
    """How long each sequence's drafts are to be: as long as promises most tokens per second, so perhaps none.

    With the rate r of right tokens, a draft of k gives 1 + r + ... + r^k tokens; with the cost c of a token verified,
    relative to a step, that takes 1 + c k (arXiv 2211.17192, section 3.3). r is learnt for each sequence, c from the
    steps' times where these are told. What does not pay is tried again, less and less often.
    """

    def __init__(self, most: int, *, cost: float = 0.1) -> None:
        """`cost` is c until steps show it."""
        self._most = most
        self._cost = cost
        self._records: dict[int, _Record] = {}
        self._all = _Record(_HOPE, 1.0)
        self._costs: dict[int, _Cost] = {}
        self._plain_next = False

    def length(self, key: int) -> int:
        """How many tokens to propose in this step."""
        if self._plain_next:
            return 0
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = _Record(self._all.rate, 1.0)
        best = self._best(record.rate)
        if best:
            return best
        record.resting += 1
        if record.resting <= record.rest:
            return 0
        record.resting = 0
        record.rest = min(max(_REST, 2 * record.rest), _LONGEST_REST)
        return min(2, self._most)

    def result(self, key: int, proposed: int, accepted: int) -> None:
        """Of a draft of `proposed` tokens, the first `accepted` were right."""
        record = self._records.get(key)
        if record is None or proposed < 1:
            return
        tried = accepted + (accepted < proposed)  # what came after the first wrong one says nothing
        record.add(accepted, tried)
        self._all.add(accepted, tried)
        if self._best(record.rate):
            record.resting = record.rest = 0

    def forget(self, key: int) -> None:
        self._records.pop(key, None)

    def took(self, sequences: int, proposed: int, seconds: float) -> None:
        """A step that decoded so many sequences, with so many tokens of drafts together, and read no prompts.

        `seconds` includes making the drafts.
        """
        cost = self._costs.setdefault(sequences.bit_length(), _Cost())
        if proposed == 0:
            self._plain_next = False
            cost.since_plain = 0
            cost.plain_s += (0.2 if cost.plain_s else 1.0) * (min(seconds, 4 * cost.plain_s or seconds) - cost.plain_s)
            return
        cost.since_plain += 1
        if not cost.plain_s or cost.since_plain >= _PLAIN_EVERY:
            self._plain_next = True
        if cost.plain_s:
            more = (min(seconds, 4 * cost.plain_s) - cost.plain_s) / proposed
            cost.token_s += (0.1 if cost.token_s else 1.0) * (more - cost.token_s)
            self._cost = max(0.01, cost.token_s * sequences / cost.plain_s)

    def _best(self, rate: float) -> int:
        """The gain rises up to one length and falls from there."""
        best, gain, tokens, chance = 0, 1.0, 1.0, 1.0
        for length in range(1, self._most + 1):
            chance *= rate
            tokens += chance
            if tokens <= gain * (1.0 + self._cost * length):
                break
            best, gain = length, tokens / (1.0 + self._cost * length)
        return best
