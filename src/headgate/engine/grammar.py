"""Grammars that hold an answer to a form: before each draw, a mask of the tokens that keep it valid (llguidance).

Grammars are Lark texts in llguidance's dialect, which embeds JSON schemas (`start: %json {...}`). Each mask is bounded
in work by llguidance. Compiling is not: twenty patterns in an `allOf` take it a minute, and each more twice as long. So
a new grammar is compiled on trial first, in a copy of the process that the system ends after `TRIAL_S`.
"""

import os
import signal
import warnings
from collections import OrderedDict
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from headgate.core.errors import BadCall, Overloaded

MAX_GRAMMAR_CHARS = 2**18
CACHED_GRAMMARS = 64
TRIAL_S = 0.5
"""How long a grammar may take to compile; usual ones take a few milliseconds."""

_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # about 20 ms
    step_lexer_fuel=200_000,  # about 15 ms
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


class Matcher:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def fits(self, tokens: tuple[int, ...]) -> int:
        return self._matcher.validate_tokens(list(tokens))

    def forced(self) -> tuple[int, ...]:
        return tuple(self._matcher.compute_ff_tokens())

    def masks(self, draft: tuple[int, ...] = ()) -> tuple[bytes, ...]:
        masks = [self._matcher.compute_bitmask()]
        for token in draft:
            self._matcher.consume_token(token)
            masks.append(self._matcher.compute_bitmask())
        self._matcher.rollback(len(draft))
        return tuple(masks)

    def consume(self, tokens: tuple[int, ...]) -> None:
        self._matcher.consume_tokens(list(tokens))

    @property
    def ended(self) -> bool:
        """The text is complete: nothing but an end token could follow."""
        return self._matcher.is_stopped() and not self.failed

    @property
    def failed(self) -> bool:
        """The work limit was passed, or a token did not fit."""
        return self._matcher.is_error()


class Grammars:
    """Compiles grammars over one tokenizer; the latest are kept."""

    def __init__(self, tokenizer_json: str, *, vocabulary: int, eos_ids: tuple[int, ...]) -> None:
        """Raises `ValueError` for a tokenizer that llguidance cannot read."""
        self._tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=list(eos_ids))
        self._compiled: OrderedDict[str, LLMatcher | None] = OrderedDict()
        """None: it takes too long."""

    @classmethod
    def read(cls, folder: Path, *, vocabulary: int, eos_ids: tuple[int, ...]) -> "Grammars | None":
        """None where the folder's tokenizer cannot be used for this: answers are then not held to grammars."""
        path = folder / "tokenizer.json"
        if not eos_ids or not path.is_file():
            return None
        try:
            return cls(path.read_text(encoding="utf-8"), vocabulary=vocabulary, eos_ids=eos_ids)
        except ValueError:
            return None

    def start(self, grammar: str) -> Matcher:
        """A matcher at the beginning. Raises `BadCall` for a grammar that is wrong, unsupported or too complex, and
        `Overloaded` where the system has no room to try it.
        """
        if grammar not in self._compiled:
            if len(grammar) > MAX_GRAMMAR_CHARS:
                raise BadCall(f"The schema is too large: at most {MAX_GRAMMAR_CHARS} characters.")
            compiled = self._compile(grammar) if self._compiles_in_time(grammar) else None
            if compiled is not None and compiled.is_error():
                raise BadCall(f"The schema cannot be enforced: {compiled.get_error()[:500]}")
            self._compiled[grammar] = compiled
            while len(self._compiled) > CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        compiled = self._compiled[grammar]
        if compiled is None:
            raise BadCall(f"The schema is too complex: it does not compile within {TRIAL_S:g} s.")
        return Matcher(compiled.deep_copy())

    def _compile(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=_LIMITS)

    def _compiles_in_time(self, grammar: str) -> bool:
        """Also true where the grammar turns out wrong: what counts is that compiling it ends."""
        try:
            with warnings.catch_warnings():
                # The child compiles and ends; it waits for nothing that another thread could hold.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
        except OSError as error:
            raise Overloaded("The engine has no room to check the schema.", retry_after=1.0) from error
        if child == 0:
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, TRIAL_S)
                self._compile(grammar)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        return not os.WIFSIGNALED(status)
