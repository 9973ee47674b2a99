"""The answer in Anthropic's dialect: messages, whole and as a stream."""

from typing import Any

import msgspec

from headgate.bench.chaos.answer import Answer, Choice

_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_json = msgspec.json.encode
_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
)


def finish(choice: Choice) -> str:
    return _FINISH.get(choice.finish, choice.finish)


def _event(name: str, **more: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json({"type": name, **more}))


def _message(answer: Answer, content: list[dict[str, Any]], stop: str | None, written: int) -> dict[str, Any]:
    counted = {"input_tokens": answer.prompt_tokens, "output_tokens": written}
    head = {"id": f"msg_{answer.name}", "type": "message", "role": "assistant", "model": answer.model}
    return {**head, "content": content, "stop_reason": stop, "stop_sequence": None, "usage": counted}


def whole(answer: Answer) -> dict[str, Any]:
    """The body of an answer without a stream."""
    choice = answer.choices[0]
    content: list[dict[str, Any]] = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": msgspec.json.decode(call.arguments)}
        for call in choice.calls
    ]
    return _message(
        answer, content or [{"type": "text", "text": choice.text}], finish(choice), answer.completion_tokens
    )


def events(answer: Answer) -> list[bytes]:
    """The events of a stream, `message_stop` the last of them."""
    choice = answer.choices[0]
    out = [_event("message_start", message=_message(answer, [], None, 1))]
    if choice.calls:
        for index, call in enumerate(choice.calls):
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            out.append(_event("content_block_start", index=index, content_block=block))
            out += [
                _event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": piece})
                for piece in call.pieces
            ]
            out.append(_event("content_block_stop", index=index))
    else:
        out.append(_event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
        out.append(_event("ping"))
        out += [_DELTA + word + b"}}\n\n" for word in choice.words]
        out.append(_event("content_block_stop", index=0))
    delta = {"stop_reason": finish(choice), "stop_sequence": None}
    out.append(_event("message_delta", delta=delta, usage={"output_tokens": answer.completion_tokens}))
    out.append(_event("message_stop"))
    return out


def error(message: str, kind: str) -> bytes:
    return _json({"type": "error", "error": {"type": kind, "message": message}})
