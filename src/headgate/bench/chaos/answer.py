"""The honest answer to a request: its words, tool calls and counts, before they are written in a dialect."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from headgate.bench.chaos.asked import Asked
from headgate.bench.chaos.words import MOST, Voice

_TOOL_WORDS = 4
_CALLS = 16
_TURN_TOKENS = 3
"""What a turn counts besides its words."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call; its arguments come in these pieces."""

    id: str
    name: str
    pieces: tuple[str, ...]

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of `n`: each word as a JSON string, one word per event."""

    words: tuple[bytes, ...]
    finish: str
    calls: tuple[ToolCall, ...] = ()

    @property
    def text(self) -> str:
        return "".join(msgspec.json.decode(word, type=str) for word in self.words)


@dataclass(frozen=True, slots=True)
class Answer:
    """All that an honest server says; the same request always has the same."""

    name: str
    model: str
    choices: tuple[Choice, ...]
    prompt_tokens: int
    completion_tokens: int


def _choice(voice: Voice, asked: Asked, options: Mapping[str, str], finish: str | None) -> Choice:
    said: list[bytes] = []
    start = 0
    if asked.prefix:
        found = voice.after(asked.prefix)
        if found is None:  # not our words: whatever comes next is as good
            voice = Voice((*asked.turns, ("assistant", asked.prefix)), "prefix")
            start = 1
        else:
            rest, start = found
            if rest:
                said.append(msgspec.json.encode(rest))
    most = MOST if asked.most is None else min(asked.most, MOST)
    natural = int(options["tokens"]) if "tokens" in options else voice.length()
    left = most if asked.endless and asked.most else min(most, max(natural - start, 0) + len(said))
    ends = "length" if asked.most is not None and natural - start + len(said) > most else "stop"
    said += map(voice.json, range(start, start + left - len(said)))
    return Choice(tuple(said[:left]), finish or ends)


def _calls(voice: Voice, tool: str, count: int) -> tuple[ToolCall, ...]:
    found = []
    for number in range(min(count, _CALLS)):
        words = [voice.word(place + number * _TOOL_WORDS) for place in range(1, 1 + _TOOL_WORDS)]
        inner = [msgspec.json.encode(word).decode()[1:-1] for word in words]
        pieces = ('{"query":"', *inner, f'","number":{number}' + "}")
        found.append(ToolCall(f"call_{voice.name}{number}", tool, pieces))
    return tuple(found)


def answer(asked: Asked, options: Mapping[str, str]) -> Answer:
    """Options: `tokens`, `tools` (calls in place of text), `salt` (another answer), `finish`."""
    salt = options.get("salt", "")
    voices = [Voice(asked.turns, f"{salt}{index or ''}", asked.marker) for index in range(asked.n)]
    tools = int(options.get("tools", "0"))
    finish = options.get("finish")
    if tools:
        choices = tuple(Choice((), finish or "tool_calls", _calls(voice, asked.tool, tools)) for voice in voices)
    else:
        choices = tuple(_choice(voice, asked, options, finish) for voice in voices)
    prompt = sum(len(said.split()) + _TURN_TOKENS for _, said in asked.turns) + len((asked.prefix or "").split())
    made = sum(len(choice.words) + sum(len(call.pieces) for call in choice.calls) for choice in choices)
    return Answer(voices[0].name, asked.model, choices, prompt, made)
