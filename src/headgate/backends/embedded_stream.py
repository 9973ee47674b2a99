"""From the engine's tokens to the events of an answer: reasoning, text, stops, tool calls, log-probabilities, usage.

Stop texts end the answer only; in the reasoning before it they are text like any other.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec import Struct

from headgate.backends.detokenize import Detokenizer, StopText, Vocabulary
from headgate.backends.dialect import CALL_MARKERS, HERMES, Dialect, ThinkingState
from headgate.backends.reasoning import Thoughts
from headgate.backends.tools.families import reader
from headgate.backends.tools.reader import CallArguments, CallStart, Piece
from headgate.core.events import Event, Finish, FinishReason, Reasoning, Text, TokenLogprob, ToolDelta
from headgate.core.ports import Progress
from headgate.core.usage import Usage
from headgate.engine.front.generation import Generation
from headgate.engine.plan import Score
from headgate.engine.wire import Delta


class Form(Struct, frozen=True):
    """How answers are to be written out."""

    stops: Sequence[str] = ()
    keep_stop: bool = False
    """What stopped an answer stays at its end."""
    show_special: bool = False
    """Special tokens are shown as text."""
    tools: frozenset[str] | None = None
    """Names of the tools on offer; None: tool calls are not looked for."""
    parallel_tools: bool = True
    choices: int = 1
    """Answers to each prompt."""
    begun: str = ""
    """The beginning of a tool call that was written for the model."""
    forced: bool = False
    """The answer is a call, and nothing else."""
    echo: Sequence[str] = ()
    """Text put before each choice."""
    ends: frozenset[int] = frozenset()
    """Tokens that end an answer and are no part of it."""
    dialect: Dialect = Dialect("hermes", HERMES)
    """How this model spells calls and reasoning."""
    thinking: ThinkingState = "none"
    """Whether reasoning comes before the answer; `open`: the prompt ends inside of it."""
    show_reasoning: bool = True

    @property
    def shown(self) -> frozenset[int]:
        """Special tokens that are read as text: markers that are looked for."""
        thoughts = self.dialect.thinking if self.thinking != "none" else None
        ends = set() if thoughts is None else {thoughts.begin, thoughts.end}
        calls = CALL_MARKERS if self.tools is not None else ()
        return frozenset(token for text, token in self.dialect.tokens.items() if text in ends or text in calls)


class ChoiceWriter:
    """One choice: tokens go in, events come out. `done` once nothing more of it is wanted."""

    def __init__(self, index: int, form: Form, vocabulary: Vocabulary, new_id: Callable[[str], str]) -> None:
        self._index = index
        self._form = form
        self._vocabulary = vocabulary
        self._new_id = new_id
        shown = vocabulary.special.keys() if form.show_special else form.shown
        self._detokenizer = Detokenizer(vocabulary, shown=shown)
        self._stop = StopText(form.stops, kept=form.keep_stop)
        self._calls = None
        if form.tools is not None:
            self._calls = reader(form.dialect.family, form.tools, parallel=form.parallel_tools)
        self._thoughts = None
        if form.dialect.thinking is not None and form.thinking != "none":
            self._thoughts = Thoughts(form.dialect.thinking, opened=form.thinking == "open")
        self._begun = form.begun
        self._logprobs: deque[tuple[int, int, TokenLogprob]] = deque()
        self._decoded = self._shown = 0
        self._position = -1
        self._undecided: list[tuple[int, Score | None]] = []
        """The first tokens, where they may be reasoning."""
        self._thought_tokens = 0
        self.tokens = 0
        self.reasoning = 0
        """How many of the tokens are reasoning, with its markers."""
        self.done = False

    def write(self, delta: Delta) -> list[Event]:
        """Events of new tokens. Tokens after a stop text are not counted: they would not have been drawn."""
        thoughts: list[str] = []
        pieces: list[str] = []
        for place, token in enumerate(delta.tokens):
            self.tokens += 1
            last = delta.finish is not None and place == len(delta.tokens) - 1
            if last and delta.finish == "stop" and token in self._form.ends and not self._form.keep_stop:
                break
            text = self._detokenizer.feed(token)
            score = None if delta.scores is None else delta.scores[place]
            if self._thoughts is not None:
                opening = self._thoughts
                text = self._think(opening.feed(text), thoughts)
                if not opening.done:
                    self._thought_tokens += 1
                    if opening.begun:
                        self.reasoning = self._thought_tokens
                    else:
                        self._undecided.append((token, score))
                    continue
                if not opening.begun:
                    self._note_undecided()
            self._note(token, score, len(text))
            self._decoded += len(text)
            pieces.append(self._stop.feed(text))
            if self._stop.stopped:
                break
        finish: FinishReason | None = "stop" if self._stop.stopped else _reason(delta.finish)
        if finish is not None and not self._stop.stopped:
            pieces += (self._stop.feed(self._rest(thoughts)), self._stop.flush())
            finish = "stop" if self._stop.stopped else finish
        events: list[Event] = []
        if thoughts and self._form.show_reasoning:
            events.append(Reasoning("".join(thoughts), self._index))
        events += self._events("".join(pieces), finish)
        if self._calls is not None and self._calls.done:
            finish = "stop"
        if finish is not None:
            self.done = True
            # A call whose arguments a stop text cut is none that could be made.
            called = self._calls is not None and self._calls.calls > 0 and not self._calls.cut
            events.append(Finish("tool_calls" if called and finish == "stop" else finish, self._index))
        return events

    def _rest(self, thoughts: list[str]) -> str:
        """What was held back of the answer, where the tokens end."""
        rest = self._detokenizer.flush()
        opening = self._thoughts
        if opening is not None:
            rest = self._think(opening.feed(rest), thoughts)
        if self._thoughts is not None:
            rest = self._think(self._thoughts.flush(), thoughts)
        if opening is not None and not opening.begun:
            self._note_undecided()
        return rest

    def _think(self, parts: tuple[str, str], thoughts: list[str]) -> str:
        """Notes the reasoning, and gives the answer."""
        thought, answer = parts
        if thought:
            thoughts.append(thought)
        if self._thoughts is not None and self._thoughts.done:
            self._thoughts = None
        return answer

    def _note_undecided(self) -> None:
        """It is clear now that the tokens so far are no reasoning: the answer begins with them."""
        undecided, self._undecided = self._undecided, []
        for token, score in undecided:
            self._note(token, score, 0)

    def _note(self, token: int, score: Score | None, characters: int) -> None:
        if score is None:
            return
        noted = self._vocabulary.logprob(token, score.logprob, score.top)
        self._logprobs.append((self._decoded, self._decoded + characters, noted))

    def _events(self, text: str, finish: FinishReason | None) -> list[Event]:
        self._shown += len(text)
        ended = finish is not None
        if self._calls is None:
            pieces: list[Piece] = [text] if text else []
        else:
            begun, self._begun = self._begun, ""
            pieces = self._calls.feed(begun + text)
            # Cut before its name, a call that the model had to make is nothing that it said.
            forced = self._form.begun or self._form.forced
            unsaid = forced and not self._calls.calls and (finish == "length" or self._stop.stopped)
            if ended and not unsaid:
                pieces += self._calls.flush()
        events: list[Event] = []
        for piece in pieces:
            match piece:
                case str():
                    events.append(Text(piece, self._index, self._take_logprobs(ended)))
                case CallStart():
                    self._position += 1
                    events.append(ToolDelta("", self._position, self._new_id("call"), piece.name, self._index))
                case CallArguments():
                    events.append(ToolDelta(piece.text, self._position, index=self._index))
        if ended and self._calls is None and (rest := self._take_logprobs(ended)):
            events.append(Text("", self._index, rest))
        return events

    def _take_logprobs(self, ended: bool) -> tuple[TokenLogprob, ...] | None:
        """Those of the tokens whose text has been shown; at the end, of one cut by a stop text, or else of all."""
        taken: list[TokenLogprob] = []
        everything = ended and not self._stop.stopped
        while self._logprobs:
            begin, end, noted = self._logprobs[0]
            if not (everything or end <= self._shown or (ended and begin < self._shown)):
                break
            taken.append(noted)
            self._logprobs.popleft()
        return tuple(taken) or None


def _reason(finish: str | None) -> FinishReason | None:
    if finish is None:
        return None
    return "length" if finish == "length" else "stop"


async def answer_events(
    generation: Generation, writers: Sequence[ChoiceWriter], form: Form, progress: Progress
) -> AsyncIterator[Event | bytes]:
    """The stream of an answer: choices interleaved, a `Finish` for each, `Usage` last. Closing it stops the engine."""
    cached = 0
    try:
        for index, text in enumerate(form.echo):
            if text:
                yield Text(text, index)
        async for delta in generation:
            writer = writers[delta.choice]
            before = writer.tokens
            events = writer.write(delta)
            if delta.cached_tokens and delta.choice % form.choices == 0:  # the others share its prompt
                cached += delta.cached_tokens
            progress.output_tokens += writer.tokens - before
            if writer.done:
                generation.cancel(delta.choice)
            for event in events:
                yield event
        reasoning = sum(writer.reasoning for writer in writers)
        yield Usage(input=progress.input_tokens, cached=cached, output=progress.output_tokens, reasoning=reasoning)
    finally:
        generation.close()
