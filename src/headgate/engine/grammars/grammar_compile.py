"""Compiles grammars that may be hostile: first on trial in a process that may die of it, then for real.

Nothing inside llguidance bounds compiling: twenty patterns in an `allOf` take a minute, each more twice as long; deep
nesting ends in a stack overflow, and neither can be stopped from outside. So every new grammar is compiled on trial in
a copy of a small process, under limits of processor time, time and memory that the system enforces. The process is
forked when this is built, which is best done before threads and weights are there: it keeps what was there then.
"""

import json
import os
import resource
import signal
import socket
import struct
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from msgspec import Struct

from headgate.core.errors import Overloaded

TRIAL_S = 0.5
"""How much of a processor a grammar may take to compile, in seconds; usual ones take a few milliseconds."""
TRIAL_WALL_S = 5.0
"""The same by the clock, where processors are busy."""
TRIAL_BYTES = 256 * 2**20
"""How much memory compiling may take."""

_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # about 20 ms
    step_lexer_fuel=200_000,  # about 15 ms
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
_PAGE = resource.getpagesize()
_HEAD = struct.Struct("!BI")
"""Of both directions: a verdict, and a length; in requests the length of the text, in answers the bytes it takes."""
_GOOD, _BAD, _ENDED, _NO_ROOM = range(4)


class Verdict(Struct, frozen=True):
    """What a trial found. `size`: bytes of memory that the compiled grammar takes, about."""

    ended: bool
    """Compiling came to an end within its limits, be it with an error."""
    size: int = 0


def compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """May take for ever, and may kill the process. Raises `ValueError` for what is no grammar or cannot be enforced."""
    try:
        text = _translated(grammar)
    except (GbnfToLarkError, RecursionError) as error:
        raise ValueError(f"the grammar is not valid GBNF: {error}") from error
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=_LIMITS)
    first = matcher.deep_copy()
    if not any(first.compute_bitmask()) and not matcher.is_error():
        raise ValueError("no text satisfies it")
    for one in (matcher, first):  # the first mask shows what has no end, or costs too much from the beginning
        if one.is_error():
            raise ValueError(one.get_error())
    return matcher


def _translated(grammar: str) -> str:
    """A list of grammars, in JSON, may have some in GBNF, llama.cpp's dialect; these are translated to Lark."""
    if not grammar.startswith("{"):
        return LLMatcher.grammar_from_lark(grammar)
    listed: dict[str, list[dict[str, Any]]] = json.loads(grammar)
    for one in listed["grammars"]:
        if "gbnf" in one:
            one["lark_grammar"] = gbnf_to_lark(one.pop("gbnf"))
    return json.dumps(listed)


class Trials:
    """One process that tries one grammar at a time. `tried` blocks: call it from a thread. Not for two at once."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = Lock()
        """Between a thread that tries and the one that closes."""
        self._closed = False
        self._socket: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None
        self._begin()

    def tried(self, grammar: str) -> Verdict:
        """Raises `Overloaded` where the system has no room to try it."""
        try:
            with self._lock:
                if self._socket is None and not self._closed:
                    self._begin()
                channel = self._socket
            return _asked(channel, grammar.encode())
        except OSError as error:  # its process was killed, or could not be started
            with self._lock:
                self._drop()
            raise Overloaded("The engine has no room to check the schema.", retry_after=1.0) from error

    def close(self) -> None:
        """Ends the process, also while it tries something; idempotent."""
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        self._socket = None
        self._end()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            pid = _fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            _serve(theirs, self._tokenizer)
        theirs.close()
        ours.settimeout(2 * TRIAL_WALL_S)
        self._socket = ours
        self._end = weakref.finalize(self, _reap, ours, pid)


def _asked(channel: socket.socket | None, text: bytes) -> Verdict:
    if channel is None:
        raise OSError("the process is closed")
    channel.sendall(_HEAD.pack(0, len(text)) + text)
    verdict, size = _HEAD.unpack(_exactly(channel, _HEAD.size))
    if verdict == _NO_ROOM:
        raise OSError("no room for a process")
    return Verdict(verdict != _ENDED, size)


def _reap(channel: socket.socket, pid: int) -> None:
    with suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for its answer
    channel.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _fork() -> int:
    with warnings.catch_warnings():
        # The child compiles and ends; it waits for nothing that another thread could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _serve(channel: socket.socket, tokenizer: LLTokenizer) -> None:
    """In the child. Ends with the parent, and never returns: nothing of the parent's is cleaned up here."""
    try:
        # Of the parent's files this one keeps none: who waits for their end must not wait for this process.
        os.closerange(3, channel.fileno())
        os.closerange(channel.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        while True:
            _, length = _HEAD.unpack(_exactly(channel, _HEAD.size))
            text = _exactly(channel, length).decode()
            try:
                child = _fork()
            except OSError:
                channel.sendall(_HEAD.pack(_NO_ROOM, 0))
                continue
            if child == 0:
                _try(channel, tokenizer, text)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
                channel.sendall(_HEAD.pack(_ENDED, 0))
    finally:
        os._exit(0)


def _try(channel: socket.socket, tokenizer: LLTokenizer, text: str) -> None:
    """In the child's child, under limits that end it."""
    status, verdict = 1, _GOOD
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        mapped, before = _memory()
        if mapped:
            resource.setrlimit(resource.RLIMIT_AS, (mapped + TRIAL_BYTES, mapped + TRIAL_BYTES))
        signal.setitimer(signal.ITIMER_REAL, TRIAL_WALL_S)
        signal.setitimer(signal.ITIMER_PROF, TRIAL_S)
        try:
            compiled(tokenizer, text)
        except ValueError:
            verdict = _BAD
        size = min(max(0, _memory()[1] - before), 2**32 - 1)
        channel.sendall(_HEAD.pack(verdict, size))
        status = 0
    finally:
        os._exit(status)


def _memory() -> tuple[int, int]:
    """Bytes that are mapped and that are resident; zeros where the system does not tell (only Linux does)."""
    try:
        mapped, resident, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0, 0
    return int(mapped) * _PAGE, int(resident) * _PAGE


def _exactly(channel: socket.socket, length: int) -> bytes:
    """Raises `ConnectionError` at the end of the stream."""
    data = bytearray()
    while len(data) < length:
        more = channel.recv(min(length - len(data), 2**16))
        if not more:
            raise ConnectionError("the other side has ended")
        data += more
    return bytes(data)
