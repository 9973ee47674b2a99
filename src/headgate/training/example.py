"""What the generator makes: a conversation, the answer we want, and what is needed to judge another answer."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

import msgspec

Json = Any  # parsed JSON: the standard library offers no closed type for it


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool: its name and its arguments as parsed JSON."""

    name: str
    arguments: dict[str, Json]


class Turn(msgspec.Struct, frozen=True):
    """One turn of a conversation. `calls` is only for the assistant."""

    role: str
    content: str = ""
    calls: tuple[ToolCall, ...] = ()

    def wire(self) -> dict[str, Json]:
        """The turn in the shape of the chat completions API."""
        if not self.calls:
            return {"role": self.role, "content": self.content}
        calls = [
            {
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in self.calls
        ]
        return {"role": self.role, "content": self.content or None, "tool_calls": calls}


class Example(msgspec.Struct, frozen=True):
    """A conversation that ends with a user or tool turn, and the assistant turn expected next.

    `key` names the problem posed: examples are split into training and held-out by a hash of it. An empty key
    means a closed set (small talk), which appears on both sides. `facts` is what `check` of the skill needs.
    """

    skill: str
    turns: tuple[Turn, ...]
    answer: Turn
    tools: tuple[dict[str, Json], ...] = ()
    schema: dict[str, Json] | None = None
    key: str = ""
    facts: dict[str, Json] = {}

    def answer_text(self) -> str:
        """The expected answer as the model writes it, tool calls included."""
        return self.answer.content + "".join(call_text(call) for call in self.answer.calls)


Sampler = Callable[[random.Random], Example]
Checker = Callable[[Example, str], bool]


def call_text(call: ToolCall) -> str:
    """A tool call in the markup the chat template uses."""
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def calls_in(text: str) -> list[Json]:
    """The tool calls written in `text`; a call that is not JSON becomes None."""
    found: list[Json] = []
    for body in _CALL.findall(text):
        try:
            found.append(json.loads(body))
        except ValueError:
            found.append(None)
    return found


def without_calls(text: str) -> str:
    """What is left of `text` beside its tool calls."""
    return _CALL.sub("", text).strip()


def same_text(example: Example, text: str) -> bool:
    """True when `text` is the expected answer, white space at the ends aside."""
    return text.strip() == example.answer_text().strip()
