"""The answer in OpenAI's dialect: chat completions, completions, embeddings."""

from typing import Any

import msgspec

from headgate.bench.chaos.answer import Answer, Choice
from headgate.bench.chaos.asked import Asked

CREATED = 1_700_000_000
DONE = b"data: [DONE]\n\n"
_json = msgspec.json.encode


def usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def whole(answer: Answer, asked: Asked) -> dict[str, Any]:
    """The body of an answer without a stream."""
    if asked.dialect == "embeddings":
        return _embeddings(answer, asked)
    if asked.dialect == "text":
        texts: list[dict[str, Any]] = [
            {"index": index, "text": choice.text, "logprobs": None, "finish_reason": choice.finish}
            for index, choice in enumerate(answer.choices)
        ]
        return _around(answer, "text_completion", texts)
    made: list[dict[str, Any]] = [
        {"index": index, "message": _message(choice), "logprobs": None, "finish_reason": choice.finish}
        for index, choice in enumerate(answer.choices)
    ]
    return _around(answer, "chat.completion", made)


def _around(answer: Answer, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"id": f"chatcmpl-{answer.name}", "object": kind, "created": CREATED, "model": answer.model}
    more: dict[str, Any] = {"choices": choices, "usage": usage(answer)}
    return head | more


def _message(choice: Choice) -> dict[str, Any]:
    if not choice.calls:
        return {"role": "assistant", "content": choice.text, "refusal": None}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in choice.calls
    ]
    return {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}


def _embeddings(answer: Answer, asked: Asked) -> dict[str, Any]:
    digits = [int(digit, 16) / 16 for digit in answer.name]
    data = [
        {"object": "embedding", "index": index, "embedding": [*digits, index / 16]} for index in range(asked.inputs)
    ]
    counted = {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens}
    return {"object": "list", "data": data, "model": answer.model, "usage": counted}


def events(answer: Answer, asked: Asked) -> list[bytes]:
    """The events of a stream, `[DONE]` the last of them."""
    kind = "text_completion" if asked.dialect == "text" else "chat.completion.chunk"
    head = _json({"id": f"chatcmpl-{answer.name}", "object": kind, "created": CREATED, "model": answer.model})
    before = b"data: " + head[:-1] + b',"choices":['
    after = b'],"usage":null}\n\n' if asked.usage else b"]}\n\n"
    out = (_text if asked.dialect == "text" else _chat)(answer, before, after)
    if asked.usage:
        out.append(before + b'],"usage":' + _json(usage(answer)) + b"}\n\n")
    out.append(DONE)
    return out


def _text(answer: Answer, before: bytes, after: bytes) -> list[bytes]:
    out = []
    for index, choice in enumerate(answer.choices):
        lead = before + b'{"index":%d,"text":' % index
        tail = b',"logprobs":null,"finish_reason":null}' + after
        out += [lead + word + tail for word in choice.words]
        out.append(lead + b'"","logprobs":null,"finish_reason":"%b"}' % choice.finish.encode() + after)
    return out


def _chat(answer: Answer, before: bytes, after: bytes) -> list[bytes]:
    tail = b'},"logprobs":null,"finish_reason":null}' + after
    leads = [before + b'{"index":%d,"delta":{' % index for index in range(len(answer.choices))]
    out = [lead + b'"role":"assistant","content":""' + tail for lead in leads]
    choices = list(zip(leads, answer.choices, strict=True))
    if len(choices) == 1:
        lead = leads[0] + b'"content":'
        out += [lead + word + tail for word in answer.choices[0].words]
    else:
        for place in range(max(len(choice.words) for choice in answer.choices)):
            out += [
                lead + b'"content":' + choice.words[place] + tail
                for lead, choice in choices
                if place < len(choice.words)
            ]
    for lead, choice in choices:
        out += [lead + call + tail for call in _calls(choice)]
    out += [
        lead + b'},"logprobs":null,"finish_reason":"%b"}' % choice.finish.encode() + after for lead, choice in choices
    ]
    return out


def _calls(choice: Choice) -> list[bytes]:
    out = []
    for index, call in enumerate(choice.calls):
        opening = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        out.append(b'"tool_calls":[' + _json(opening) + b"]")
        pieces = ({"index": index, "function": {"arguments": piece}} for piece in call.pieces)
        out += [b'"tool_calls":[' + _json(piece) + b"]" for piece in pieces]
    return out


def error(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    return _json({"error": {"message": message, "type": kind, "param": param, "code": code}})
