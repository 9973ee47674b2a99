"""Faults in what an answer says: events twice, empty, broken, miscounted, or none at the end."""

from collections.abc import Callable
from typing import Any

import msgspec

from headgate.bench.chaos.fault import Order
from headgate.bench.chaos.openai import DONE
from headgate.bench.chaos.script import Script

_USAGE = b'"usage":{'
_ABSURD: dict[str, Any] = {"negative": -7, "huge": 10**18, "float": 3.5, "text": "many", "null": None}


def _split(event: bytes) -> tuple[bytes, Any]:
    """The lines before an event's data, and the data read; None where it is no JSON."""
    before, _, data = event.partition(b"data: ")
    if data.startswith(b"[DONE]"):
        return before, None
    return before, msgspec.json.decode(data)


def _joined(before: bytes, value: Any) -> bytes:
    return before + b"data: " + msgspec.json.encode(value) + b"\n\n"


def _valued(script: Script, change: Callable[[Any], Any], only: bytes = b"{") -> Script:
    """The script with `change` made to each JSON value in which `only` stands."""
    if script.events is None:
        return script.altered(body=msgspec.json.encode(change(msgspec.json.decode(script.body))))
    made = []
    for event in script.events:
        before, value = _split(event) if only in event else (b"", None)
        made.append(event if value is None else _joined(before, change(value)))
    return script.altered(events=tuple(made))


def _said(script: Script) -> bytes:
    """An event, or a body, that a client must not take for part of the answer."""
    if script.events is None:
        return script.body
    return script.events[min(2, len(script.events) - 1)]


def no_done(script: Script, order: Order) -> Script:
    """A stream without its terminal event; a body without its last byte, rightly announced."""
    if script.events is None:
        return script.altered(body=script.body[:-1])
    return script.altered(events=script.events[:-1])


def after_done(script: Script, order: Order) -> Script:
    """More after the end: an event behind the terminal one; bytes behind the body's announced length."""
    if script.events is None:
        return script.altered(junk=b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nfor-them")
    return script.altered(events=(*script.events, _said(script)))


def two_done(script: Script, order: Order) -> Script:
    if script.events is None:
        return script.altered(body=script.body * 2)
    return script.altered(events=(*script.events, script.events[-1]))


def error_event(script: Script, order: Order) -> Script:
    """An error in the midst of a stream; a 200 whose body is an error."""
    kind, code = order.word("kind", "server_error"), order.options.get("code")
    inner: dict[str, Any] = {"message": "the engine died", "type": kind, "param": None, "code": code}
    value: dict[str, Any] = {"error": inner}
    before = b""
    if script.anthropic:
        kind = order.word("kind", "overloaded_error")
        value, before = {"type": "error", "error": {"type": kind, "message": "Overloaded"}}, b"event: error\n"
    if script.events is None:
        return script.altered(body=msgspec.json.encode(value))
    ending = (DONE,) if order.whole("done", 0) else ()
    return script.altered(events=(*script.events[: order.whole("after", 1)], _joined(before, value), *ending))


def bad_json(script: Script, order: Order) -> Script:
    """One event, or the body, that is no JSON; the rest is honest."""
    if script.events is None:
        return script.altered(body=script.body[: len(script.body) // 2] + b'"}')
    after = order.whole("after", 1)
    broken = b'data: {"choices":[{"index":0,"delta":{"content":"hal\n\n'
    return script.altered(events=(*script.events[:after], broken, *script.events[after + 1 :]))


def null(script: Script, order: Order) -> Script:
    """`null` where an object belongs."""
    if script.events is None:
        return script.altered(body=b"null")
    after = order.whole("after", 1)
    return script.altered(events=(*script.events[:after], b"data: null\n\n", *script.events[after:]))


def wrong_type(script: Script, order: Order) -> Script:
    return script.altered(kind=order.word("type", "text/plain"))


def html(script: Script, order: Order) -> Script:
    """200 with a page, as a proxy's login or maintenance notice comes."""
    page = b"<!doctype html><html><head><title>Welcome to nginx!</title></head><body>maintenance</body></html>\n"
    return script.altered(events=None, body=page, kind="text/html; charset=utf-8", headers=())


def duplicate_events(script: Script, order: Order) -> Script:
    """Each event from the `after`-th on twice, but the terminal one; a body's choices twice."""
    if script.events is None:
        return _valued(script, lambda value: _doubled(value))
    after = order.whole("after", 1)
    twice = (event for event in script.events[after:-1] for _ in range(2))
    return script.altered(events=(*script.events[:after], *twice, *script.events[max(after, len(script.events) - 1) :]))


def _doubled(value: Any) -> Any:
    for name in ("choices", "content", "data"):
        if isinstance(value.get(name), list):
            value[name] *= 2
    return value


def empty_choices(script: Script, order: Order) -> Script:
    """An event without a choice, again and again in the stream; a body without one."""
    if script.events is None:
        return _valued(script, lambda value: value | {"content" if script.anthropic else "choices": []})
    if script.anthropic:
        empty = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{}}\n\n'
    else:
        empty = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"x","choices":[]}\n\n'
    return script.altered(events=tuple(part for event in script.events[:-1] for part in (event, empty))
                          + script.events[-1:])  # fmt: skip


def usage_missing(script: Script, order: Order) -> Script:
    """No count anywhere, though one was asked for."""

    def without(value: Any) -> Any:
        return {name: inner for name, inner in value.items() if name != "usage"}

    if script.events is None:
        return _valued(script, without)
    if script.anthropic:
        return _valued(script, lambda value: _message_without(without(value)), _USAGE)
    return script.altered(events=tuple(event for event in script.events if _USAGE not in event))


def _message_without(value: Any) -> Any:
    if isinstance(value.get("message"), dict):
        value["message"].pop("usage", None)
    return value


def usage_absurd(script: Script, order: Order) -> Script:
    """Counts that cannot be: below zero, beyond all bounds, broken, no numbers."""
    kind = order.word("kind", "negative")
    number = _ABSURD.get(kind, -7)

    def miscount(value: Any) -> Any:
        for holder in (value, value.get("message")):
            if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                holder["usage"] = dict.fromkeys(holder["usage"], number)
        return value

    return _valued(script, miscount, _USAGE)


def crlf(script: Script, order: Order) -> Script:
    """Lines end in CRLF, or in CR alone (`line=cr`), as the event stream's grammar allows."""
    if script.events is None:
        return script
    end = b"\r" if order.word("line", "crlf") == "cr" else b"\r\n"
    return script.altered(events=tuple(event.replace(b"\n", end) for event in script.events))


def refusal_delta(script: Script, order: Order) -> Script:
    """The model declines: `refusal` in place of `content`; in Anthropic's dialect, the reason to stop."""
    if script.anthropic:
        return _replaced(script, b'"stop_reason":"end_turn"', b'"stop_reason":"refusal"')

    def declined(value: Any) -> Any:
        for choice in value.get("choices", []):
            inner = choice.get("delta", choice.get("message"))
            if isinstance(inner, dict) and "content" in inner:
                inner["refusal"], inner["content"] = inner["content"], None
        return value

    return _valued(script, declined)


def _replaced(script: Script, old: bytes, new: bytes) -> Script:
    if script.events is None:
        return script.altered(body=script.body.replace(old, new))
    return script.altered(events=tuple(event.replace(old, new) for event in script.events))


def interleaved_tools(script: Script, order: Order) -> Script:
    """The pieces of several tool calls by turns: a client that joins them by order, not by index, mixes them."""
    if script.events is None:
        return script
    lanes: dict[int, list[bytes]] = {}
    before: list[bytes] = []
    behind: list[bytes] = []
    for event in script.events:
        lane = _lane(event, script.anthropic)
        if lane is None:
            (behind if lanes else before).append(event)
        else:
            lanes.setdefault(lane, []).append(event)
    longest = max(map(len, lanes.values()), default=0)
    mixed = [lane[place] for place in range(longest) for lane in lanes.values() if place < len(lane)]
    return script.altered(events=(*before, *mixed, *behind))


def _lane(event: bytes, is_anthropic: bool) -> int | None:
    """The tool call that an event is about."""
    _, value = _split(event)
    if value is None:
        return None
    if is_anthropic:
        return int(value["index"]) if "index" in value else None
    for choice in value.get("choices", []):
        for call in choice["delta"].get("tool_calls", []):
            return int(call["index"])
    return None
