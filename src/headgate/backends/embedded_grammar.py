"""From a request to the grammar that its answer is held to: a JSON schema, or a call of one of the tools."""

import json
from typing import Any

import msgspec
from msgspec import Struct

from headgate.backends.embedded_prompt import call_head, forced_tools, response_schema
from headgate.backends.toolcalls import CLOSE
from headgate.core.request import ChatRequest, Tool


class Held(Struct, frozen=True):
    """A grammar in the engine's dialect. `param` is the field to blame if it cannot be enforced."""

    grammar: str
    param: str
    strict: bool
    """The caller wants an error rather than an answer that is not held to it."""


def held_to(request: ChatRequest, begun: str, close_token: int | None) -> Held | None:
    """None where the answer is free. `begun` is what was written of it already; `close_token` ends a tool call."""
    forced = forced_tools(request)
    if forced:
        calls = " | ".join(_call(tool, begun) for tool in forced)
        close = json.dumps(CLOSE) if close_token is None else f"<[{close_token}]>"
        return Held(f'start: ({calls}) "}}\\n" {close}', "tools", any(_strict(tool) for tool in forced))
    schema = response_schema(request)
    if schema is None:
        return None
    wanted = request.response_format
    strict = wanted is not None and wanted.json_schema is not None and bool(wanted.json_schema.strict)
    return Held(f"start: {_json(schema, strict)}", "response_format.json_schema.schema", strict)


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
    return "%json " + msgspec.json.encode({**schema, "x-guidance": options}).decode()


def _strict(tool: Tool) -> bool:
    return tool.function is not None and bool(tool.function.strict)
