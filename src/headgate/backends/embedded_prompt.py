"""From a request to the token ids that the engine is given: conversation, template, tokenizer.

A caller's text cannot forge a turn: special tokens written out in it (such as `<|im_start|>`) are tokenised as plain
text. They are fenced with two characters that Unicode reserves for internal use before the template is rendered.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from tokenizers import Tokenizer

from headgate.backends.chat_template import ChatTemplate, Message
from headgate.backends.detokenize import Detokenizer, Vocabulary
from headgate.backends.dialect import CallForm, ThinkingState, find
from headgate.backends.embedded_messages import content, each_text, message, tool, variables
from headgate.core.clock import Clock
from headgate.core.errors import BadCall
from headgate.core.request import ChatRequest, CompletionRequest, NamedTool, Tool

_FENCE_OPEN, _FENCE_CLOSE = "\ufdd0", "\ufdd1"
LONG_CHARS = 4096
"""From here on texts are tokenised beside everything else; a character takes about a microsecond."""
_FIELDS = {
    "messages": "messages",
    "tools": "tools",
    "response_schema": "response_format",
    "variables": "chat_template_kwargs",
}
"""From what the template is given to the field of the request that it comes from."""


class GenerationDefaults(Struct, frozen=True):
    """What the model's maker recommends, from `generation_config.json`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    do_sample: bool = True


class Prompt(Struct, frozen=True):
    """What the model is given. `begun`: the start of its answer that was written for it."""

    ids: tuple[int, ...]
    begun: str = ""
    thinking: ThinkingState = "none"
    """Where the answer stands to the model's reasoning when its first token is drawn."""


class PromptMaker:
    """The text side of one model folder. Raises `ValueError` or `OSError` where the folder cannot be used."""

    def __init__(self, folder: Path, clock: Clock, *, tool_parser: str | None = None) -> None:
        """`tool_parser` names the family of `dialect.FAMILIES` whose calls it writes, where its folder misleads."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{path} is missing: the engine needs the tokenizer in this form")
        self._tokenizer = _tokenizer(path)
        self._plain = _tokenizer(path)
        self._plain.encode_special_tokens = True
        self.vocabulary = Vocabulary(self._tokenizer)
        self.template = ChatTemplate.read(folder, clock)
        source = None if self.template is None else self.template.source
        self.dialect = find(source, self._tokenizer.token_to_id, tool_parser=tool_parser)
        defaults = folder / "generation_config.json"
        self.defaults = GenerationDefaults()
        if defaults.is_file():
            try:
                self.defaults = msgspec.json.decode(defaults.read_bytes(), type=GenerationDefaults)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ValueError(f"{defaults}: {error}") from error
        special = "|".join(re.escape(text) for text in self.vocabulary.special.values())
        self._special = re.compile(f"{special}|[{_FENCE_OPEN}{_FENCE_CLOSE}]") if special else None

    def chat(self, request: ChatRequest, longest: int) -> Prompt:
        """Raises `BadCall` for what the template cannot express, and for what cannot fit into `longest` tokens."""
        if self.template is None:
            raise BadCall("This model has no chat template: use /v1/completions.", param="messages")
        begun = _begun(request)
        given = request.messages if begun is None else request.messages[:-1]
        short = self.dialect.family == "mistral"
        values = {
            "messages": [message(one, short_ids=short) for one in given],
            "tools": [] if request.tool_choice == "none" else [tool(one) for one in request.tools or []],
            "response_schema": response_schema(request),
            "variables": variables(request, self.template.variables),
        }
        text = self.template.render(**self._fenced(values))
        thinking = self._thinking(text)
        if begun is not None:
            thought = request.messages[-1].reasoning_content or ""
            opening, thinking = self._opening(thinking, self._fence(thought), self._fence(begun))
            text += opening
        self._refuse_long(text, longest, "messages")
        if thinking != "none":
            return Prompt(tuple(self._encode(text)), thinking=thinking)
        return self._with_beginning(text, *_call_beginning(request, self.dialect.calls))

    def completion(self, request: CompletionRequest, longest: int) -> list[Prompt]:
        """One prompt for each text or list of ids."""
        return [self._completion(prompt, longest) for prompt in _prompts(request.prompt)]

    def text(self, ids: Sequence[int]) -> str:
        """A prompt's ids as text."""
        detokenizer = Detokenizer(self.vocabulary, at_start=True)
        return "".join(map(detokenizer.feed, ids)) + detokenizer.flush()

    def _thinking(self, text: str) -> ThinkingState:
        """Where the template leaves the model: some begin the reasoning for it, some end it to have none."""
        if self.dialect.thinking is None:
            return "none"
        text = text.rstrip()
        if text.endswith(self.dialect.thinking.begin):
            return "open"
        return "none" if text.endswith(self.dialect.thinking.end) else "may"

    def _opening(self, thinking: ThinkingState, thought: str, begun: str) -> tuple[str, ThinkingState]:
        """What follows the template's text where the caller gave the answer's beginning, and the state after it."""
        marks = self.dialect.thinking
        if marks is None or (thinking != "open" and not thought):
            return begun, "none" if begun else thinking
        opening = thought if thinking == "open" else f"{marks.begin}\n{thought}"
        return (f"{opening}\n{marks.end}\n\n{begun}", "none") if begun else (opening, "open")

    def _completion(self, prompt: str | list[int], longest: int) -> Prompt:
        if isinstance(prompt, list):
            return Prompt(tuple(prompt))
        self._refuse_long(prompt, longest, "prompt")
        ids = self._ids(self._tokenizer, prompt, whole=True)
        if len(ids) > 1 and ids[0] == ids[1] and prompt.startswith(self.vocabulary.special.get(ids[0], "\0")):
            ids = ids[1:]  # the text begins with the token that the tokenizer puts there anyway
        return Prompt(tuple(ids))

    def _with_beginning(self, text: str, beginning: str, next_text: str) -> Prompt:
        """Encodes `text` and the answer's `beginning`.

        The last token must not be one that the model would have joined with what follows (`":` and ` {` may be one).
        So the beginning is encoded with the likely `next_text`; only tokens that end within the beginning are given.
        """
        ids = self._encode(text)
        if not beginning:
            return Prompt(tuple(ids))
        encoding = self._tokenizer.encode(beginning + next_text, add_special_tokens=False)
        given = [
            (token, end)
            for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if end <= len(beginning)
        ]
        end = given[-1][1] if given else 0
        return Prompt((*ids, *(token for token, _ in given)), beginning[:end])

    def _encode(self, text: str) -> list[int]:
        if _FENCE_OPEN not in text:
            return self._ids(self._tokenizer, text)
        first, *parts = text.split(_FENCE_OPEN)
        out = self._ids(self._tokenizer, first)
        for part in parts:
            fenced, _, after = part.partition(_FENCE_CLOSE)
            out += self._ids_within(self._plain, fenced) + self._ids_within(self._tokenizer, after)
        return out

    def _ids_within(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Of text that goes on: without the space that some tokenizers put before whatever they are given."""
        if not self.vocabulary.strips_first_space or not text:
            return self._ids(tokenizer, text)
        ids = self._ids(tokenizer, "\n" + text)
        head = b""
        for count, token in enumerate(ids, 1):
            head += self.vocabulary.raw(token)
            if head.lstrip(b" ") == b"\n":
                return ids[count:]
        return self._ids(tokenizer, text)

    @staticmethod
    def _ids(tokenizer: Tokenizer, text: str, *, whole: bool = False) -> list[int]:
        """`whole`: with the tokens that the tokenizer puts around a text."""
        try:
            if len(text) < LONG_CHARS:
                one = tokenizer.encode(text, add_special_tokens=whole)
            else:  # alone among the library's ways, it gives up the interpreter's lock
                (one,) = tokenizer.encode_batch_fast([text], add_special_tokens=whole)
            ids: list[int] = one.ids
        except TypeError as error:  # what the library says of lone surrogates
            raise BadCall("The prompt holds half of a surrogate pair, which is no character.") from error
        return ids

    def _fenced(self, values: dict[str, Any]) -> dict[str, Any]:
        """Each value with all its texts fenced."""
        out: dict[str, Any] = {}
        for name, value in values.items():
            try:
                out[name] = each_text(value, self._fence)
            except RecursionError as error:
                field = _FIELDS[name]
                raise BadCall(f"{field}: this is nested too deeply.", param=field) from error
        return out

    def _fence(self, text: str) -> str:
        if self._special is None:
            return text
        return self._special.sub(_fenced, text)

    def _refuse_long(self, text: str, longest: int, param: str) -> None:
        """Spares tokenising what cannot fit: a token has a longest text."""
        least = len(text.encode("utf-8", "replace")) // self.vocabulary.longest
        if least >= longest:
            raise BadCall(
                f"This model's maximum context length is {longest} tokens, but the prompt alone has at least {least}.",
                code="context_length_exceeded",
                param=param,
            )


def _prompts(prompt: str | Sequence[str | int | list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    ids = [one for one in prompt if isinstance(one, int)]
    return [ids] if ids else [one for one in prompt if not isinstance(one, int)]


def _begun(request: ChatRequest) -> str | None:
    """The beginning of the answer that the caller gave as the last message, where it asks to go on with that."""
    if not request.continue_final_message:
        return None
    last = request.messages[-1]
    if last.role != "assistant" or last.tool_calls or len(request.messages) == 1:
        raise BadCall(
            "continue_final_message goes on with text of the assistant's in the last of several messages.",
            param="continue_final_message",
        )
    if response_schema(request) is not None or forced_tools(request):
        raise BadCall(
            "continue_final_message cannot be had together with a response format or a forced tool.",
            param="continue_final_message",
        )
    return content(last.content)


def response_schema(request: ChatRequest) -> Message | None:
    """The JSON schema that the answer shall follow, or None for text."""
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None:
        raise BadCall("response_format.json_schema is missing.", param="response_format.json_schema")
    return wanted.json_schema.schema_ or {"type": "object"}


def forced_tools(request: ChatRequest) -> list[Tool]:
    """The tools of which the answer must call one; none where it is free. Raises `BadCall` for an unknown name."""
    choice, tools = request.tool_choice, request.tools or []
    if isinstance(choice, NamedTool):
        if choice.type != "function":
            raise BadCall(
                f"tool_choice of type {choice.type!r} is not supported: it can be a function, required, auto or none.",
                param="tool_choice",
            )
        name = None if choice.function is None else choice.function.name
        tools = [tool for tool in tools if tool.function is not None and tool.function.name == name]
        if not tools:
            raise BadCall(f"tool_choice names {name!r}, which is not among the tools.", param="tool_choice")
        return tools
    if choice == "required":
        if not tools:
            raise BadCall("tool_choice is 'required', but there are no tools.", param="tool_choice")
        return tools
    return []


def _call_beginning(request: ChatRequest, form: CallForm) -> tuple[str, str]:
    """What is written of the answer beforehand where a tool must be called, and how it probably goes on."""
    forced = forced_tools(request)
    if not forced:
        return "", ""
    if len(forced) > 1:
        quote = '"' if form.quoted else ""
        return form.opening + form.before_name + quote, "a"
    function = forced[0].function
    return form.opening + form.head("" if function is None else function.name), '{"'


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"{path}: {error}") from error


def _fenced(match: re.Match[str]) -> str:
    text = match[0]
    return "" if text in {_FENCE_OPEN, _FENCE_CLOSE} else _FENCE_OPEN + text + _FENCE_CLOSE
