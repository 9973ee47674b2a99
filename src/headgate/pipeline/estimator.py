"""How many tokens a call will take, before it has: guessed from its bytes, and corrected by what it turns out to be."""

from headgate.backends import estimate
from headgate.core.call import Call
from headgate.core.request import ChatRequest, CompletionRequest, EmbeddingRequest, PassthroughRequest, prompts

MODELS_MAX = 1_000
LEARNING = 0.05
"""The weight of one call in what is known of its model, once there have been a few."""
SURE_AFTER = 20
"""Observations of a model before its own spread is believed."""
UNSURE = 0.5
"""The spread assumed before that: parts of the guess."""
SPREADS = 4.0
"""A careful guess is this many mean deviations above the likely one."""
OUTPUT_MAX = 32_768
"""A limit nobody reaches is no reservation: a caller may write max_tokens=1000000 for "no limit"."""


class _Model:
    """What is known of one model: actual tokens per guessed token, and how far that strays."""

    __slots__ = ("error", "ratio", "seen", "spread")

    def __init__(self) -> None:
        self.seen = 0
        self.ratio = 1.0
        self.spread = UNSURE
        self.error = 0.0
        """The mean of |guess - actual| / actual, smoothed."""

    def learn(self, guess: int, actual: int) -> None:
        self.seen += 1
        weight = max(LEARNING, 1 / self.seen)
        observed = actual / guess
        self.error += weight * (abs(guess * self.ratio - actual) / actual - self.error)
        if self.seen > 1:
            self.spread += weight * (abs(observed - self.ratio) - self.spread)
        self.ratio += weight * (observed - self.ratio)


class Estimator:
    """Knows a bounded number of models. Everything is synchronous and takes about a microsecond."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self._last: tuple[Call, int] | None = None
        """A call is asked about several times in a row, and a long prompt takes long to look through."""

    def likely(self, call: Call) -> int:
        """The prompt's tokens, as likely too many as too few."""
        known = self._models.get(call.model)
        guess = self._guess(call)
        return guess if known is None else max(1, round(guess * known.ratio))

    def careful(self, call: Call) -> int:
        """The prompt's tokens, rarely too few: what a budget should hold."""
        known = self._models.get(call.model)
        ratio, spread = (1.0, UNSURE) if known is None else (known.ratio, known.spread)
        if known is not None and known.seen < SURE_AFTER:
            spread = max(spread, UNSURE / known.seen)
        return max(1, round(self._guess(call) * (ratio + SPREADS * spread))) + estimate.MESSAGE_TOKENS

    def learn(self, call: Call, actual: int) -> None:
        """Told what the model server counted, where it did. Bodies that are not known teach nothing about others."""
        if isinstance(call.body, PassthroughRequest):
            return
        guess = self._guess(call)
        if guess <= 0 or actual <= 0:
            return
        known = self._models.get(call.model)
        if known is None:
            if len(self._models) >= MODELS_MAX:
                self._models.clear()
            known = self._models[call.model] = _Model()
        known.learn(guess, actual)

    def _guess(self, call: Call) -> int:
        if self._last is None or self._last[0] is not call:
            self._last = call, input_tokens(call)
        return self._last[1]

    def errors(self) -> dict[str, float]:
        """By model, how far the likely guess strays from the truth, as a part of it."""
        return {name: model.error for name, model in self._models.items()}


def input_tokens(call: Call) -> int:
    """The guess before anything is known of the model."""
    body = call.body
    return body.input_tokens if isinstance(body, PassthroughRequest) else estimate.input_tokens(call)


def answers(call: Call) -> int:
    """How many answers the call asks for."""
    body = call.body
    if isinstance(body, PassthroughRequest):
        return body.answers
    if isinstance(body, ChatRequest):
        return body.n or 1
    if isinstance(body, CompletionRequest):
        return max(body.n or 1, body.best_of or 1) * len(prompts(body.prompt))
    return 0


def output_asked(call: Call) -> int | None:
    """The most tokens of one answer, where the caller says; 0 where there is none to speak of."""
    body = call.body
    if isinstance(body, PassthroughRequest):
        return body.max_output
    if isinstance(body, EmbeddingRequest):
        return 0
    if isinstance(body, ChatRequest) and body.max_completion_tokens is not None:
        return body.max_completion_tokens
    return body.max_tokens
