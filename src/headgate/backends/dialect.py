"""How a model spells what is not plain text: calls of tools, and its reasoning. Found from the model's folder.

Families differ in the letters only, so they are values, which a parser, a prompt or a grammar can read:

- `hermes`: `<tool_call>{"name": "f", "arguments": {...}}</tool_call>`; Hermes, Qwen, the bundled model.
- `llama`: `{"name": "f", "parameters": {...}}` as the whole answer or after `<|python_tag|>`; Llama 3.1 and later.
- `mistral`: `[TOOL_CALLS][{"name": "f", "arguments": {...}}]`, or `[TOOL_CALLS]f[ARGS]{...}` in newer ones.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from msgspec import Struct

Family = Literal["hermes", "llama", "mistral"]
ThinkingState = Literal["none", "may", "open"]
"""`open`: the answer begins inside of reasoning. `may`: it can begin with reasoning. `none`: it has none."""


class CallForm(Struct, frozen=True):
    """The letters around calls: `opening call (between call)* closing`, where a call is `head(name) arguments end`."""

    trigger: str
    """The text that, wherever it stands in an answer, begins a call: not more than one token in most models."""
    opening: str
    """Before the first call. Empty: the answer begins with a call, or has none (or `trigger` stands before it)."""
    before_name: str
    quoted: bool
    """The name is a JSON string; else its letters as they are."""
    after_name: str
    end: str
    between: str
    closing: str

    def head(self, name: str) -> str:
        """A call up to its arguments, which are a JSON object."""
        return self.before_name + (json.dumps(name, ensure_ascii=False) if self.quoted else name) + self.after_name


class Thinking(Struct, frozen=True):
    """What stands before and after the model's reasoning, which comes before its answer."""

    begin: str
    end: str


class Dialect(Struct, frozen=True):
    """One model's spelling."""

    family: Family
    calls: CallForm
    thinking: Thinking | None = None
    """None: this model does not reason apart from its answer."""
    tokens: Mapping[str, int] = {}
    """Which of the markers are single tokens of the model's vocabulary."""

    def pieces(self, text: str) -> list[str | int]:
        """`text` cut at the markers that are single tokens; these are given as token ids. No piece is empty."""
        if not self.tokens:
            return [text] if text else []
        cut = re.split("(" + "|".join(map(re.escape, self.tokens)) + ")", text)
        return [self.tokens.get(piece, piece) for piece in cut if piece]


HERMES = CallForm(
    trigger="<tool_call>",
    opening="<tool_call>\n",
    before_name='{"name": ',
    quoted=True,
    after_name=', "arguments": ',
    end="}",
    between="\n</tool_call>\n<tool_call>\n",
    closing="\n</tool_call>",
)
LLAMA = CallForm(
    trigger="<|python_tag|>",
    opening="",
    before_name='{"name": ',
    quoted=True,
    after_name=', "parameters": ',
    end="}",
    between="; ",
    closing="",
)
MISTRAL = CallForm(
    trigger="[TOOL_CALLS]",
    opening="[TOOL_CALLS][",
    before_name='{"name": ',
    quoted=True,
    after_name=', "arguments": ',
    end="}",
    between=", ",
    closing="]",
)
MISTRAL_NAMED = CallForm(
    trigger="[TOOL_CALLS]",
    opening="[TOOL_CALLS]",
    before_name="",
    quoted=False,
    after_name="[ARGS]",
    end="",
    between="[TOOL_CALLS]",
    closing="",
)
THINKING = (Thinking("<think>", "</think>"), Thinking("[THINK]", "[/THINK]"))
CALL_MARKERS = ("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
MARKERS = (*CALL_MARKERS, *(marker for one in THINKING for marker in (one.begin, one.end)))
FAMILIES: tuple[str, ...] = get_args(Family)


def find(template: str | None, token_id: Callable[[str], int | None], *, tool_parser: str | None = None) -> Dialect:
    """The spelling of the model whose chat template this is and whose tokenizer knows these tokens.

    `tool_parser` names the family where the folder does not show it. Raises `ValueError` for an unknown name.
    """
    tokens = {marker: token for marker in MARKERS if (token := token_id(marker)) is not None}
    source = template or ""

    def shown(marker: str) -> bool:
        """The template is what the model was trained on; a tokenizer also has tokens that its model never uses."""
        return marker in source if source else marker in tokens

    family = tool_parser or _family(shown, tokens)
    thinking = next((one for one in THINKING if shown(one.end)), None)
    match family:
        case "hermes":
            return Dialect("hermes", HERMES, thinking, tokens)
        case "llama":
            return Dialect("llama", LLAMA, thinking, tokens)
        case "mistral":
            return Dialect("mistral", MISTRAL_NAMED if shown("[ARGS]") else MISTRAL, thinking, tokens)
        case _:
            raise ValueError(f"tool_parser is {family!r}: it can be one of {', '.join(FAMILIES)}")


def _family(shown: Callable[[str], bool], tokens: Mapping[str, int]) -> Family:
    """Hermes where nothing speaks for another: its form is the most usual, and needs no token of its own."""
    if shown("<tool_call>"):
        return "hermes"
    if shown("[TOOL_CALLS]"):
        return "mistral"
    if shown("<|python_tag|>") or "<|python_tag|>" in tokens:
        return "llama"
    if "[TOOL_CALLS]" in tokens:
        return "mistral"
    return "hermes"
