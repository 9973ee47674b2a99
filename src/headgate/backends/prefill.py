"""How servers are asked to go on with an answer that they are given the beginning of.

Only for answers that are one text; whether that is so, the pipeline knows from what it has sent (`pipeline/rescue`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw

from headgate.core.call import Call
from headgate.core.ports import ModelInfo
from headgate.core.request import ChatRequest, CompletionRequest

Prefill = Literal["none", "assistant", "prefix", "vllm"]
"""`assistant`: a last message of the assistant is continued (OpenRouter, Anthropic's models). `prefix`: one that is
marked as prefix (Mistral, DeepSeek). `vllm`: by `continue_final_message` (vLLM, SGLang)."""

OWNERS: Mapping[str, Prefill] = {"vllm": "vllm", "sglang": "vllm"}
"""Servers that name themselves as the owner of the models they list, and how they are asked."""
SENT_BYTES_PER_TOKEN = 6
"""More than tokens mostly have: rather some tokens too many than an answer that ends early by our own estimate."""
_members = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_TRUE, _FALSE = Raw(b"true"), Raw(b"false")
_CAPS = ("max_tokens", "max_completion_tokens", "min_tokens")


def learned(models: Sequence[ModelInfo]) -> Prefill:
    """How a server is asked that lists these; `none` unless all of them say what it is."""
    styles = {OWNERS.get(model.owned_by, "none") for model in models}
    return styles.pop() if len(styles) == 1 else "none"


def prefilled(call: Call, text: str, style: Prefill) -> Call | None:
    """The call that lets a model go on after `text`, with what it may write less by what the text has, roughly.

    None where a server of this style would not. A completion needs no style: its prompt is what is continued.
    """
    try:
        members = _members.decode(call.raw)
        changed = _completion(call.body, members, text) if call.operation == "completion" else None
        if call.operation == "chat" and style != "none":
            changed = _chat(call.body, members, text, style)
        if changed is None:
            return None
        tokens = len(text.encode()) // SENT_BYTES_PER_TOKEN
        for name in _CAPS:
            _lower(members, name, tokens)
        raw = msgspec.json.encode(members)
        body = msgspec.json.decode(raw, type=type(call.body))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None  # a text that JSON cannot carry, or a body that only its first reader could read
    cap = None if call.output_cap is None else max(1, call.output_cap - tokens)
    return msgspec.structs.replace(call, raw=raw, body=body, output_cap=cap)


def _completion(body: Any, members: dict[str, Raw], text: str) -> bool | None:
    if not isinstance(body, CompletionRequest) or not isinstance(body.prompt, str):
        return None
    if body.echo or body.suffix or (body.n or 1) > 1 or (body.best_of or 1) > 1:
        return None
    members["prompt"] = Raw(msgspec.json.encode(body.prompt + text))
    return True


def _chat(body: Any, members: dict[str, Raw], text: str, style: Prefill) -> bool | None:
    if not isinstance(body, ChatRequest) or (body.n or 1) > 1:
        return None
    messages = _list.decode(members["messages"])
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if body.messages[-1].role == "assistant":
        return None  # the caller had begun the answer: a server may join the two messages, or not
    if style == "prefix":
        message["prefix"] = True
    if style == "vllm":
        members["continue_final_message"], members["add_generation_prompt"] = _TRUE, _FALSE
    messages.append(Raw(msgspec.json.encode(message)))
    members["messages"] = Raw(msgspec.json.encode(messages))
    return True


def _lower(members: dict[str, Raw], name: str, tokens: int) -> None:
    value = members.get(name)
    if value is None or not bytes(value).isdigit():
        return
    members[name] = Raw(b"%d" % max(name != "min_tokens", int(bytes(value)) - tokens))
