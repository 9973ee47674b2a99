"""Scripts for the scripted backend: what to answer, how fast, and how to fail."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from headgate.core.call import Call
from headgate.core.errors import BadCall
from headgate.core.events import FinishReason
from headgate.core.request import ChatRequest, EmbeddingRequest

PREFIX = "script:"
"""A system message that starts with this holds a script as JSON."""


class ScriptedUsage(Struct, frozen=True, forbid_unknown_fields=True):
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class Script(Struct, frozen=True, forbid_unknown_fields=True):
    """All optional: without any, a named or required tool is called, a schema is filled, else the user is echoed."""

    text: str | None = None
    """Answer with this text."""
    echo: bool = False
    """Answer with the last user message, even if tools or a schema are given."""
    tokens: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Answer with this many words."""
    rate: Annotated[float, Meta(gt=0)] | None = None
    """Words a second; None: as fast as they are taken."""
    first_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds before the first word."""
    reasoning: str | None = None
    tool: str | None = None
    """Call this tool with `arguments`, or with the smallest instance of its schema."""
    arguments: dict[str, Any] | None = None
    finish: FinishReason | None = None
    usage: ScriptedUsage | None = None
    fail_status: Annotated[int, Meta(ge=400, le=599)] | None = None
    """Fail as an upstream with this status would: before the answer, or after `fail_at` words."""
    fail_at: Annotated[int, Meta(ge=0)] | None = None
    """Without `fail_status`: the answer is cut after so many words."""
    never_finish: bool = False
    """After the last word nothing more comes, until the caller leaves."""


_json = msgspec.json.Decoder(Script)


def script_for(call: Call, model: str, default: Script) -> Script:
    """The call's own script: from `metadata.script`, a `script:` system message, or the model's name.

    In a name: `scripted:tokens=9,rate=5`. Raises `BadCall` where it cannot be read.
    """
    found = _in_body(call)
    try:
        if found is not None:
            return _json.decode(found)
        _, colon, words = model.partition(":")
        return msgspec.convert(_pairs(words), Script) if colon else default
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadCall(f"the script cannot be read: {error}", param="metadata.script") from error


def _in_body(call: Call) -> str | None:
    body = call.body
    if isinstance(body, EmbeddingRequest):
        return None
    given = (body.metadata or {}).get("script")
    if isinstance(given, str):
        return given
    if isinstance(body, ChatRequest):
        for message in body.messages:
            content = message.content
            if message.role == "system" and isinstance(content, str) and content.startswith(PREFIX):
                return content.removeprefix(PREFIX)
    return None


def _pairs(words: str) -> Mapping[str, Any]:
    pairs: dict[str, Any] = {}
    for pair in words.split(","):
        name, equals, value = pair.partition("=")
        try:
            pairs[name] = msgspec.json.decode(value) if equals else True
        except msgspec.DecodeError:
            pairs[name] = value
    return pairs
