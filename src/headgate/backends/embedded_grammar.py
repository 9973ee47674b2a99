"""From a request to the grammar that its answer is held to: a JSON schema, or a call of one of the tools."""

import json
from typing import Any

import msgspec
from msgspec import Struct

from headgate.backends.embedded_prompt import call_head, forced_tools, response_schema
from headgate.backends.toolcalls import CLOSE, OPEN
from headgate.core.request import ChatRequest, Tool

_OPENS = {"additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref"}
"""Keywords by which a schema says itself what other properties there may be."""


class Held(Struct, frozen=True):
    """A grammar in the engine's dialect. `param` is the field to blame if it cannot be enforced."""

    grammar: str
    param: str
    strict: bool
    """The caller wants an error rather than an answer that is not held to it."""


class Markers(Struct, frozen=True):
    """The tokens that begin and end a tool call, where each is one token."""

    begin: int | None
    end: int | None


def held_to(request: ChatRequest, begun: str, markers: Markers) -> Held | None:
    """None where the answer is free. `begun` is what was written of it already."""
    forced = forced_tools(request)
    if forced:
        calls = " | ".join(_call(tool, begun) for tool in forced)
        return Held(f'start: ({calls}) "}}\\n" {_end(markers)}', "tools", any(map(_strict, forced)))
    schema = response_schema(request)
    wanted = request.response_format
    strict = wanted is not None and wanted.json_schema is not None and bool(wanted.json_schema.strict)
    answer = None if schema is None else _json(schema, strict)
    tools = [] if request.tool_choice == "none" else request.tools or []
    if tools and markers.begin is not None and markers.end is not None and not _goes_on(request):
        return Held(_free_to_call(request, tools, answer, markers), "tools", strict or any(map(_strict, tools)))
    if answer is None:
        return None
    return Held(f"start: {answer}", "response_format.json_schema.schema", strict)


def _free_to_call(request: ChatRequest, tools: list[Tool], answer: str | None, markers: Markers) -> str:
    """Text or JSON as it may be; but a call, once begun, is one of a tool on offer with arguments to its schema."""
    several = request.parallel_tool_calls is not False
    if answer is None:
        start = "TEXT (call TEXT)*" if several else "TEXT call?"
    else:
        start = f"{answer} | call" + (' ("\\n" call)*' if several else "")
    calls = " | ".join(_call(tool, OPEN) for tool in tools)
    call = f'<[{markers.begin}]> ({calls}) "}}\\n" {_end(markers)}'
    return f"start: {start}\ncall: {call}\nTEXT: /(.|\\n)*/"


def _goes_on(request: ChatRequest) -> bool:
    """A grammar ends where its text ends; these callers want more tokens than that."""
    return bool(request.ignore_eos or request.min_tokens)


def _end(markers: Markers) -> str:
    return json.dumps(CLOSE) if markers.end is None else f"<[{markers.end}]>"


def _call(tool: Tool, begun: str) -> str:
    function = tool.function
    name = "" if function is None else function.name
    parameters = None if function is None else function.parameters
    schema = parameters or {"type": "object"}
    rest = call_head(name)[len(begun) :]
    literal = json.dumps(rest, ensure_ascii=False) + " " if rest else ""
    return literal + _json({"type": "object", **schema}, _strict(tool))


def _json(schema: dict[str, Any], strict: bool) -> str:
    """The schema, with one way to space JSON, the most usual. Unless strict, what is unsupported is ignored."""
    options = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "coerce_one_of": not strict,
        "lenient": not strict,
    }
    if schema.get("properties") and not _OPENS & schema.keys():
        schema = {**schema, "additionalProperties": False}  # still valid, and small models invent no fields
    return "%json " + msgspec.json.encode({**schema, "x-guidance": options}).decode()


def _strict(tool: Tool) -> bool:
    return tool.function is not None and bool(tool.function.strict)
