"""From a request to the grammar that its answer is held to: a form, a call of one of the tools, or both.

The grammar begins where the model's reasoning ends: that is free. What cannot be enforced in a strict schema is refused
here, by name and path (`embedded_schema.py`); what only llguidance can tell, `blame` puts into the same words.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headgate.backends.dialect import CallForm, Dialect
from headgate.backends.embedded_forms import Wish, wish
from headgate.backends.embedded_prompt import Prompt, forced_tools
from headgate.backends.embedded_schema import blamed, effective, first_trouble
from headgate.core.errors import BadCall
from headgate.core.request import ChatRequest, CompletionRequest, Tool

_OPENS = {"additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref"}
"""Keywords by which a schema says itself what other properties there may be."""
_ANY = "/(?s:.*)/"
_TEXT = f"TEXT: {_ANY}"
_GAP = r"GAP: /\n{0,2}/"
_GBNF = re.compile(r"^[ \t]*[A-Za-z][\w-]*[ \t]*::=", re.MULTILINE)
"""No part of it may go on into the next line: in empty lines, that is quadratic."""
_PARTS = re.compile(r"\\.|[^\\]|\\$", re.DOTALL)
_ESCAPES = {"/": r"\/", "\n": r"\n", "\r": r"\r", "\\\n": r"\n", "\\\r": r"\r"}
_DIGITS = {False: "[0-9]", True: "0-9"}
_CANNOT = "The schema cannot be enforced: "
_OF_SCHEMA = "failed to compile JSON schema: "
"""What llguidance writes before its word on a schema."""
_QUOTED = re.compile(r"\n *\d+ \| ")
"""From here on it quotes the grammar, which is not the caller's text."""


class Held(Struct, frozen=True):
    """A grammar in the engine's dialect. `param` is the field to blame if it cannot be enforced."""

    grammar: str
    param: str
    strict: bool
    """The caller wants an error rather than an answer that is not held to it."""
    schemas: tuple[tuple[str, dict[str, Any]], ...] = ()
    """The schemas in it, with the fields that they came from."""


class _Answer(Struct, frozen=True):
    """A form as a rule: `body` is an expression, `lines` and `grammars` are what it refers to."""

    body: str
    lines: tuple[str, ...] = ()
    grammars: tuple[dict[str, str], ...] = ()


def held_to(request: ChatRequest, prompt: Prompt, dialect: Dialect) -> Held | None:
    """None where the answer is free. The prompt says what was written of it already, and whether reasoning comes first.

    Raises `BadCall` for a form that is asked for wrongly, and for what cannot be enforced though it is strict.
    """
    forced = forced_tools(request)
    if forced:
        call = _call(forced, prompt.begun, dialect)
        return _held("tools", call, _Answer(""), _strict_tools(request, forced))
    wanted = wish(request)
    if wanted is not None and request.continue_final_message:
        raise BadCall(
            f"continue_final_message cannot be had together with {wanted.param}.", param="continue_final_message"
        )
    answer = None if wanted is None else _answer(wanted)
    tools = [] if request.tool_choice == "none" else request.tools or []
    trigger = dialect.tokens.get(dialect.calls.trigger)
    thought = _thought(dialect, prompt)
    if tools and trigger is not None and not _goes_on(request):
        strict = _strict_tools(request, tools)
        both = _free_to_call(request, tools, answer, dialect)
        if wanted is not None and wanted.strict:
            return _held(wanted.param, both, thought, (*_strict_form(wanted), *strict), insists=True)
        return _held("tools", both, thought, strict)
    if wanted is None or answer is None:
        return None
    return _held(wanted.param, answer, thought, _strict_form(wanted), insists=wanted.strict)


def completion_held_to(request: CompletionRequest) -> Held | None:
    """None where the text is free. Raises `BadCall` as `held_to` does."""
    wanted = wish(request)
    if wanted is None:
        return None
    return _held(wanted.param, _answer(wanted), _Answer(""), _strict_form(wanted), insists=wanted.strict)


def blame(message: str, held: Held) -> BadCall:
    """The engine's word for why it cannot enforce the grammar, with the keyword that is probably to blame."""
    said = " ".join(_QUOTED.split(message.removeprefix(_CANNOT))[0].rpartition(_OF_SCHEMA)[2].split())
    for field, schema in held.schemas:
        troubles = blamed(schema, message)
        if troubles:
            where = "; or ".join(map(str, troubles))
            return BadCall(f"{field}: {where}. (The compiler says: {said})", param=held.param)
    cannot = _CANNOT if message.startswith(_CANNOT) else ""
    return BadCall(f"{held.param}: {cannot}{said}", param=held.param)


def _held(
    param: str,
    answer: _Answer,
    thought: _Answer,
    schemas: Sequence[tuple[str, dict[str, Any]]],
    *,
    insists: bool = False,
) -> Held:
    for field, schema in schemas:
        trouble = first_trouble(schema)
        if trouble is not None:
            raise BadCall(f"{field}: {trouble}.", param=param)
    body = f"{thought.body} ({answer.body})" if thought.body else answer.body
    lines = "\n".join(dict.fromkeys((f"start: {body}", *thought.lines, *answer.lines)))
    grammar = lines
    if answer.grammars:
        grammar = json.dumps({"grammars": [{"lark_grammar": lines}, *answer.grammars]}, ensure_ascii=False)
    return Held(grammar, param, insists or bool(schemas), tuple(schemas))


def _answer(wanted: Wish) -> _Answer:
    match wanted.kind:
        case "json":
            return _Answer(_json(wanted.value, wanted.strict))
        case "regex":
            return _Answer("MATCH", (f"MATCH: /{_slashed(wanted.value) or '(?:)'}/",))
        case "choice":  # a terminal: of rules, llguidance takes two thousand at most
            return _Answer("CHOICE", (f"CHOICE: {' | '.join(map(_literal, wanted.value))}",))
        case "grammar":
            kind = "gbnf" if _GBNF.search(wanted.value) else "lark_grammar"
            return _Answer("@form", (), ({"name": "form", kind: wanted.value},))


def _thought(dialect: Dialect, prompt: Prompt) -> _Answer:
    """Reasoning, which is free text, up to the token that ends it."""
    if dialect.thinking is None or prompt.thinking == "none":
        return _Answer("")
    end = dialect.tokens.get(dialect.thinking.end)
    if end is None:
        lines: tuple[str, ...] = (f"thought[suffix={json.dumps(dialect.thinking.end)}]: {_ANY}",)
        body = "thought"
    else:
        lines, body = (_TEXT,), f"TEXT <[{end}]>"
    if prompt.thinking == "may":
        body = f"({_lark(dialect.pieces(dialect.thinking.begin))} {body} GAP)?"
    else:
        body = f"{body} GAP"
    return _Answer(body, (*lines, _GAP))


def _free_to_call(request: ChatRequest, tools: list[Tool], answer: _Answer | None, dialect: Dialect) -> _Answer:
    """Text or a form as it may be; but a call, once begun, is one of a tool on offer with arguments to its schema."""
    form = dialect.calls
    several = request.parallel_tool_calls is not False
    opening = form.opening if form.opening.startswith(form.trigger) else form.trigger + form.opening
    one = f"({_one_of(tools, form, dialect)})"
    more = f" ({_lark(dialect.pieces(form.between))} {one})*" if several else ""
    rule = f"call: {_lark(dialect.pieces(opening))} {one}{more} {_lark(dialect.pieces(form.closing))}".rstrip()
    if answer is None:
        body = "TEXT (call TEXT)*" if several and form.closing else "TEXT call?"
        return _Answer(body, (rule, _TEXT))
    return _Answer(f"{answer.body} | call", (rule, *answer.lines), answer.grammars)


def _call(tools: list[Tool], begun: str, dialect: Dialect) -> _Answer:
    """One call, and nothing else, where `begun` of it is written already."""
    form = dialect.calls
    calls: list[str] = []
    for tool in tools:
        head = form.opening + form.head(_name(tool))
        calls.append(f"{_lark(dialect.pieces(head[len(begun) :]))} {_arguments(tool)}")
    return _Answer(f"({' | '.join(calls)}) {_lark(dialect.pieces(form.end + form.closing))}".rstrip())


def _one_of(tools: list[Tool], form: CallForm, dialect: Dialect) -> str:
    end = _lark(dialect.pieces(form.end))
    return " | ".join(f"{_lark(dialect.pieces(form.head(_name(tool))))} {_arguments(tool)} {end}" for tool in tools)


def _lark(pieces: Sequence[str | int]) -> str:
    return " ".join(f"<[{piece}]>" if isinstance(piece, int) else _literal(piece) for piece in pieces)


def _literal(text: str) -> str:
    """As Lark has it, which is JSON without the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _goes_on(request: ChatRequest) -> bool:
    """A grammar ends where its text ends; these callers want more tokens than that."""
    return bool(request.ignore_eos or request.min_tokens)


def _name(tool: Tool) -> str:
    return "" if tool.function is None else tool.function.name


def _arguments(tool: Tool) -> str:
    return _json({"type": "object", **_parameters(tool)}, _strict(tool))


def _parameters(tool: Tool) -> dict[str, Any]:
    return (None if tool.function is None else tool.function.parameters) or {"type": "object"}


def _strict(tool: Tool) -> bool:
    return tool.function is not None and bool(tool.function.strict)


def _strict_tools(request: ChatRequest, tools: list[Tool]) -> list[tuple[str, dict[str, Any]]]:
    """Their schemas, each with the place that it has in the request."""
    offered = request.tools or []
    return [(f"tools.{offered.index(tool)}.function.parameters", _parameters(tool)) for tool in tools if _strict(tool)]


def _strict_form(wanted: Wish) -> list[tuple[str, dict[str, Any]]]:
    return [(wanted.param, wanted.value)] if wanted.kind == "json" and wanted.strict else []


def _json(schema: dict[str, Any], strict: bool) -> str:
    """The schema, with one way to space JSON, the most usual. Unless strict, what is unsupported is ignored."""
    options = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "coerce_one_of": not strict,
        "lenient": not strict,
    }
    schema = effective(schema)
    if schema.get("properties") and not _OPENS & schema.keys():
        schema = {**schema, "additionalProperties": False}  # still valid, and small models invent no fields
    try:
        return "%json " + msgspec.json.encode({**schema, "x-guidance": options}).decode()
    except RecursionError as error:
        raise BadCall("The schema is nested too deeply: use $ref.") from error


def _slashed(pattern: str) -> str:
    """As it stands between slashes in Lark. `\\d` is a digit of ASCII's: of others, not all readers know."""
    out: list[str] = []
    inside = False
    for part in _PARTS.findall(pattern):
        inside = (inside or part == "[") and part != "]"
        out.append(_DIGITS[inside] if part == r"\d" else _ESCAPES.get(part, part))
    return "".join(out)
