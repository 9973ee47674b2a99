"""What a client asked for, in either dialect, as far as the answer depends on it."""

import re
from dataclasses import dataclass
from typing import Any

from headgate.bench.chaos.words import Turn

DIALECTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "anthropic",
}
PREFILL = ("continue", "refuse", "ignore")
_MARKER = re.compile(r"\bmarker-[0-9A-Za-z_.-]{1,64}")
_CHOICES = 16
_NO_PREFILL = "This model does not support assistant message prefill. The conversation must end with a user message."


class Unfit(Exception):
    """The request cannot be answered; the text says why, for a 400."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read."""

    dialect: str
    model: str = "chaos"
    stream: bool = False
    usage: bool = False
    """A usage chunk was asked for."""
    n: int = 1
    most: int | None = None
    """Tokens at most, as the client says."""
    endless: bool = False
    """vLLM's `ignore_eos`: exactly `most` words."""
    turns: tuple[Turn, ...] = ()
    prefix: str | None = None
    """The beginning that the answer shall continue."""
    tool: str = "lookup"
    inputs: int = 1
    marker: str = ""
    """The last `marker-...` in the turns: the answer begins with it."""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text", "") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def _turns(body: dict[str, Any], dialect: str) -> list[Turn]:
    if dialect in {"text", "embeddings"}:
        given = body.get("prompt" if dialect == "text" else "input", "")
        return [("user", part if isinstance(part, str) else str(part)) for part in _listed(given)]
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Unfit("messages: a list of messages is needed")
    if not all(isinstance(message, dict) for message in messages):
        raise Unfit("messages: each one is an object")
    found: list[Turn] = [("system", _text(body["system"]))] if body.get("system") else []
    return found + [(str(message.get("role")), _text(message.get("content"))) for message in messages]


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]


def _number(body: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or value < 1:
            raise Unfit(f"{name}: a whole number of 1 or more is needed")
        return value
    return None


def _prefix(body: dict[str, Any], turns: list[Turn], prefill: str) -> str | None:
    """Takes the last assistant turn off `turns` where the answer shall continue it."""
    forced = bool(body.get("continue_final_message"))
    if forced and body.get("add_generation_prompt"):
        raise Unfit("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    if not turns or turns[-1][0] != "assistant":
        if forced:
            raise Unfit("continue_final_message: the last message must be the assistant's")
        return None
    if prefill == "refuse":
        raise Unfit(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
    if prefill == "continue" or forced:
        return turns.pop()[1]
    return None


def read(body: Any, dialect: str, prefill: str) -> Asked:
    """Raises `Unfit` where an honest server answers 400."""
    if not isinstance(body, dict):
        raise Unfit("the body must be a JSON object")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Unfit("model: a name is needed")
    turns = _turns(body, dialect)
    prefix = _prefix(body, turns, prefill) if dialect in {"chat", "anthropic"} else None
    options = body.get("stream_options")
    tools = body.get("tools")
    tool = "lookup"
    if isinstance(tools, list) and tools and isinstance(tools[0], dict):
        tool = str((tools[0].get("function") or tools[0]).get("name") or tool)
    markers = [found for _, said in turns if "marker-" in said for found in _MARKER.findall(said)]
    return Asked(
        dialect=dialect,
        model=model,
        stream=bool(body.get("stream")) and dialect != "embeddings",
        usage=isinstance(options, dict) and bool(options.get("include_usage")),
        n=min(_number(body, "n") or 1, _CHOICES),
        most=_number(body, "max_completion_tokens", "max_tokens"),
        endless=bool(body.get("ignore_eos")),
        turns=tuple(turns),
        prefix=prefix,
        tool=tool,
        inputs=len(turns),
        marker=markers[-1] if markers else "",
    )
