"""Grammars that hold an answer to a form: before each draw, a mask of the tokens that keep it valid (llguidance).

A grammar is a Lark text in llguidance's dialect, which embeds JSON schemas (`start: %json {...}`), or a list of such
(`{"grammars": [...]}`), of which some may be in GBNF. Each mask is bounded in work by llguidance; compiling is bounded
by `grammar_compile.py`, and happens aside, so that running streams do not wait for it.
"""

import queue
import socket
import weakref
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from llguidance import LLMatcher, LLTokenizer

from headgate.core.errors import BadCall, HeadgateError, Overloaded
from headgate.engine.grammar_tokens import without_special_text
from headgate.engine.grammars.grammar_compile import TRIAL_S, Trials, compiled
from headgate.engine.grammars.turns import Turns

MAX_GRAMMAR_CHARS = 2**18
CACHED_GRAMMARS = 64
CACHED_BYTES = 512 * 2**20
COMPILED_AT_ONCE = 2
MAX_ASKED = 64
"""Grammars that may wait to be compiled; more are refused."""
MAX_ASKED_EACH = MAX_ASKED // 2
"""The same for one tenant."""
MAX_ERROR_CHARS = 500


class Matcher:
    """Where one sequence stands in its grammar. Implements `plan.Constraint`; never raises.

    Once it has failed, which also a mask that takes too much work does, it allows an end token only, and stays so.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def fits(self, tokens: tuple[int, ...]) -> int:
        return self._matcher.validate_tokens(list(tokens))

    def forced(self) -> tuple[int, ...]:
        return tuple(self._matcher.compute_ff_tokens())

    def masks(self, draft: tuple[int, ...] = ()) -> tuple[bytes, ...]:
        """One more than the draft has tokens; after a token that does not fit, which is then never kept, any will do.

        The interpreter's lock is given up for most of it.
        """
        matcher = self._matcher
        masks = [matcher.compute_bitmask()]
        taken = 0
        for token in draft:
            if matcher.is_stopped() or not matcher.try_consume_tokens([token]):
                masks += masks[-1:] * (len(draft) - taken)
                break
            taken += 1
            masks.append(matcher.compute_bitmask())
        if taken:
            matcher.rollback(taken)
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


class Ticket:
    """A grammar that was asked for. `matcher` may be called once it is `ready`, as often as there are sequences."""

    def __init__(self) -> None:
        self._done = Event()
        self._matcher: LLMatcher | None = None
        self._error: HeadgateError | None = None
        self.size = 0
        """Bytes of memory that it takes, about."""

    @property
    def ready(self) -> bool:
        return self._done.is_set()

    def wait(self) -> None:
        """Until it is ready: bounded, as compiling is."""
        self._done.wait()

    def matcher(self) -> Matcher:
        """A matcher at the beginning. Raises `BadCall` for a grammar that is wrong, unsupported or too complex, and
        `Overloaded` where the system has no room to try it.
        """
        if self._error is not None:
            raise self._error
        if self._matcher is None:
            raise RuntimeError("the grammar is still being compiled")
        return Matcher(self._matcher.deep_copy())

    @property
    def passing(self) -> bool:
        """It failed for reasons that may pass: asking again makes sense."""
        return isinstance(self._error, Overloaded)

    def finish(self, error: HeadgateError | None, matcher: LLMatcher | None, size: int) -> None:
        """Called by `Grammars`, once."""
        self._error, self._matcher, self.size = error, matcher, size
        self._done.set()


class Grammars:
    """Compiles grammars over one tokenizer, aside; the latest are kept. To be used from one thread.

    `fileno` is readable once a grammar that was asked for has become ready; `poll` tells which.
    """

    def __init__(self, tokenizer_json: str, *, vocabulary: int, eos_ids: tuple[int, ...]) -> None:
        """Raises `ValueError` for a tokenizer that llguidance cannot read."""
        text = without_special_text(tokenizer_json)
        self._tokenizer = LLTokenizer(text, n_vocab=vocabulary, eos_token=list(eos_ids))
        self._kept: OrderedDict[str, Ticket] = OrderedDict()
        self._asked: dict[str, Ticket] = {}
        self._finished: deque[str] = deque()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        trials = [Trials(self._tokenizer) for _ in range(COMPILED_AT_ONCE)]
        self._idle: queue.SimpleQueue[Trials] = queue.SimpleQueue()
        for one in trials:
            self._idle.put(one)
        self._turns: Turns[tuple[str, Ticket]] = Turns()
        self._threads = ThreadPoolExecutor(COMPILED_AT_ONCE, thread_name_prefix="grammar")
        self._end = weakref.finalize(self, _end, self._threads, trials, (self._wake, self._woken))

    @classmethod
    def read(cls, folder: Path, *, vocabulary: int, eos_ids: tuple[int, ...]) -> "Grammars | None":
        """None where the folder's tokenizer cannot be used for this: answers are then not held to grammars."""
        path = folder / "tokenizer.json"
        if not eos_ids or not path.is_file():
            return None
        try:
            return cls(path.read_text(encoding="utf-8"), vocabulary=vocabulary, eos_ids=eos_ids)
        except (ValueError, LookupError, TypeError):
            return None

    @property
    def pending(self) -> int:
        """How many are being compiled, or wait for that."""
        return len(self._asked)

    def fileno(self) -> int:
        return self._woken.fileno()

    def ask(self, grammar: str, tenant: str = "") -> Ticket:
        """Tenants take turns. Raises `BadCall` for one that is too large, and `Overloaded` where too many wait."""
        ticket = self._kept.get(grammar) or self._asked.get(grammar)
        if ticket is not None:
            if ticket.ready and grammar in self._kept:
                self._kept.move_to_end(grammar)
            return ticket
        if len(grammar) > MAX_GRAMMAR_CHARS:
            raise BadCall(f"The schema is too large: at most {MAX_GRAMMAR_CHARS} characters.")
        if len(self._asked) >= MAX_ASKED or self._turns.waiting(tenant) >= MAX_ASKED_EACH:
            raise Overloaded("The engine has too many schemas to check.", retry_after=1.0)
        ticket = self._asked[grammar] = Ticket()
        self._turns.put(tenant, (grammar, ticket))
        self._threads.submit(self._work)
        return ticket

    def poll(self) -> list[Ticket]:
        """Those that became ready since it was called last."""
        try:
            while self._woken.recv(2**10):
                pass
        except BlockingIOError:
            pass
        ready: list[Ticket] = []
        while self._finished and self._asked[self._finished[0]].ready:
            grammar = self._finished.popleft()
            ticket = self._asked.pop(grammar)
            ready.append(ticket)
            if not ticket.passing:
                self._keep(grammar, ticket)
        return ready

    def start(self, grammar: str) -> Matcher:
        """A matcher at the beginning; waits until the grammar is compiled. Raises as `ask` and `Ticket.matcher` do."""
        ticket = self.ask(grammar)
        ticket.wait()
        self.poll()
        return ticket.matcher()

    def close(self) -> None:
        """Ends its processes; idempotent."""
        self._end()

    def _keep(self, grammar: str, ticket: Ticket) -> None:
        self._kept[grammar] = ticket
        size = sum(one.size for one in self._kept.values())
        while len(self._kept) > CACHED_GRAMMARS or (size > CACHED_BYTES and len(self._kept) > 1):
            _, oldest = self._kept.popitem(last=False)
            size -= oldest.size

    def _work(self) -> None:
        """In a thread of its own."""
        grammar, ticket = self._turns.take()
        error: HeadgateError | None = BadCall("The schema cannot be enforced.")
        matcher, size = None, 0
        trials = self._idle.get()
        try:
            verdict = trials.tried(grammar)
            if verdict.ended:
                matcher, size = compiled(self._tokenizer, grammar), verdict.size
            else:
                error = BadCall(f"The schema is too complex: it does not compile within {TRIAL_S:g} s.")
        except Overloaded as overloaded:
            error = overloaded
        except ValueError as wrong:
            error = BadCall(f"The schema cannot be enforced: {str(wrong)[:MAX_ERROR_CHARS]}")
        finally:
            self._idle.put(trials)
            self._finished.append(grammar)
            ticket.finish(error if matcher is None else None, matcher, size)
            self._tell()

    def _tell(self) -> None:
        try:
            self._wake.send(b"!")
        except OSError:
            pass  # full: it is readable; or closed: nobody waits


def _end(threads: ThreadPoolExecutor, trials: list[Trials], sockets: tuple[socket.socket, ...]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for one in trials:
        one.close()
    for one_socket in sockets:
        one_socket.close()
