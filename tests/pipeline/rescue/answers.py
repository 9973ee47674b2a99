"""Answers in pieces of any size, in both forms, and what a caller makes of them."""

import json
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headgate.core.call import Call, Operation
from headgate.core.deadline import Deadline
from headgate.core.errors import HeadgateError, Truncated
from headgate.core.events import Event, Finish, FinishReason, Reasoning, Stream, Text, ToolDelta
from headgate.core.request import ChatRequest, CompletionRequest
from headgate.core.rules import Way
from headgate.core.usage import Usage
from headgate.pipeline.rescue.rescue import rescued
from tests.clock import VirtualClock

Item = Event | bytes
CUT = Truncated("the stream was cut")


def call(operation: Operation = "chat", **fields: Any) -> Call:
    body: dict[str, Any] = {"model": "m", "stream": True}
    body |= {"prompt": "Once"} if operation == "completion" else {"messages": [{"role": "user", "content": "Hi"}]}
    body |= fields
    raw = json.dumps(body).encode()
    kind: type[ChatRequest | CompletionRequest] = CompletionRequest if operation == "completion" else ChatRequest
    return Call(
        id="req_1",
        operation=operation,
        dialect="openai",
        model="m",
        body=msgspec.json.decode(raw, type=kind),
        raw=raw,
        stream=True,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        deadline=Deadline.after(VirtualClock(), 60.0),
        received=0.0,
    )


@dataclass
class Choice:
    """What one choice says in the end."""

    reasoning: str = ""
    text: str = ""
    refusal: str = ""
    tools: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Name and arguments by position."""
    reason: FinishReason | None = "stop"


def pieces(text: str, rng: random.Random) -> list[str]:
    """The text in pieces of 1 to 5 characters."""
    out = []
    while text:
        size = rng.randint(1, 5)
        out.append(text[:size])
        text = text[size:]
    return out


def told(choices: Sequence[Choice], seed: int) -> list[Event]:
    """The answer as events: each choice in order, the choices mixed."""
    rng = random.Random(seed)
    queues: list[list[Event]] = []
    for index, choice in enumerate(choices):
        queue: list[Event] = [Reasoning(piece, index) for piece in pieces(choice.reasoning, rng)]
        queue += [Text(piece, index) for piece in pieces(choice.text, rng)]
        for position, (name, arguments) in choice.tools.items():
            queue.append(ToolDelta("", position, f"call_{seed}_{index}_{position}", name, index))
            queue += [ToolDelta(piece, position, None, None, index) for piece in pieces(arguments, rng)]
        queues.append([*queue, Finish(choice.reason or "stop", index)])
    out: list[Event] = []
    while any(queues):
        out.append(rng.choice([queue for queue in queues if queue]).pop(0))
    return [*out, Usage(7, output=len(out))]


def frame(choice: dict[str, Any] | None, name: str, *, chat: bool = True, **more: Any) -> bytes:
    body = {
        "id": name,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": len(name),
        "model": f"model-of-{name}",
        "choices": [] if choice is None else [choice],
        **more,
    }
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def delta(event: Event) -> dict[str, Any]:
    if isinstance(event, Text):
        return {"content": event.text}
    if isinstance(event, Reasoning):
        return {"reasoning_content": event.text}
    assert isinstance(event, ToolDelta)
    tool: dict[str, Any] = {"index": event.position, "function": {"arguments": event.arguments}}
    if event.id is not None:
        tool |= {"id": event.id, "type": "function"}
        tool["function"]["name"] = event.name
    return {"tool_calls": [tool]}


def framed(events: Sequence[Event], name: str, seed: int = 0, *, chat: bool = True, usage: bool = False) -> list[Item]:
    """The same as a server of OpenAI's dialect would send it, as its backend would pass it: some frames together."""
    rng = random.Random(seed)
    out: list[Item] = []
    begun: set[int] = set()
    block = b""
    for event in events:
        if isinstance(event, Usage):
            if usage:
                shown = {"prompt_tokens": event.input, "completion_tokens": event.output, "total_tokens": event.total}
                block += frame(None, name, chat=chat, usage=shown)
            out += [block] if block else []
            return [*out, event]
        if chat and event.index not in begun:
            begun.add(event.index)
            first = {"index": event.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            block += frame(first, name)
        finish = event.reason if isinstance(event, Finish) else None
        choice: dict[str, Any] = {"index": event.index, "finish_reason": finish}
        if chat:
            choice["delta"] = {} if isinstance(event, Finish) else delta(event)
        else:
            choice["text"] = event.text if isinstance(event, Text) else ""
        block += frame(choice, name, chat=chat)
        if isinstance(event, Finish) or rng.random() < 0.6:
            out.append(block)
            block = b""
        if isinstance(event, Finish):
            out.append(event)
    return [*out, block] if block else out


@dataclass
class Seen:
    """What a caller has in the end."""

    choices: dict[int, Choice] = field(default_factory=dict)
    roles: list[int] = field(default_factory=list)
    finishes: list[int] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    ids: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    usage: list[Any] = field(default_factory=list)
    raw: bool = False

    def take(self, item: Item) -> None:
        if isinstance(item, bytes):
            self.raw = True
            for part in item.removesuffix(b"\n\n").split(b"\n\n"):
                self._frame(json.loads(part.removeprefix(b"data: ")))
        elif isinstance(item, Usage):
            self.usage += [] if self.raw else [item]
        elif not (self.raw and isinstance(item, Finish)):
            assert not self.raw, "events among frames"
            self._event(item)

    def _frame(self, body: dict[str, Any]) -> None:
        self.names.add(f"{body['id']} {body['created']} {body['model']}")
        self.usage += [body["usage"]] if body.get("usage") else []
        for choice in body["choices"]:
            index = choice["index"]
            said = choice.get("delta", {})
            self.roles += [index] if said.get("role") else []
            text = said.get("content") or choice.get("text")
            events: list[Event] = [
                Text(text or "", index),
                Reasoning(said.get("reasoning_content") or "", index),
                *(
                    ToolDelta(
                        tool["function"].get("arguments", ""),
                        tool["index"],
                        tool.get("id"),
                        tool["function"].get("name"),
                        index,
                    )
                    for tool in said.get("tool_calls") or []
                ),
            ]
            for event in events:
                self._event(event)
            self.choices[index].refusal += said.get("refusal") or ""
            if choice["finish_reason"]:
                self._event(Finish(choice["finish_reason"], index))

    def _event(self, event: Event) -> None:
        assert not isinstance(event, Usage)
        index = event.index
        choice = self.choices.setdefault(index, Choice(reason=None))
        if isinstance(event, Text):
            choice.text += event.text
        elif isinstance(event, Reasoning):
            choice.reasoning += event.text
        elif isinstance(event, Finish):
            self.finishes.append(index)
            choice.reason = event.reason
        else:
            name, arguments = choice.tools.get(event.position, ("", ""))
            choice.tools[event.position] = (name + (event.name or ""), arguments + event.arguments)
            if event.id:
                self.ids.setdefault((index, event.position), []).append(event.id)


class Source:
    """A stream that gives its items and then ends, or fails; it knows whether it was closed or came to its end."""

    def __init__(self, items: Sequence[Item], error: HeadgateError | None = None) -> None:
        self._items = items
        self._error = error
        self.given = 0
        self.ended = False
        self.stream = self._run()

    async def _run(self) -> AsyncGenerator[Item]:
        try:
            for item in self._items:
                self.given += 1
                yield item
            if self._error is not None:
                raise self._error
        finally:
            self.ended = True


class Attempts:
    """Hands out prepared attempts in order; an error is raised, None is no attempt."""

    def __init__(self, *prepared: Source | HeadgateError | None) -> None:
        self._prepared = list(prepared)
        self.asked: list[tuple[Way, str]] = []

    async def __call__(self, way: Way, text: str) -> Stream | None:
        self.asked.append((way, text))
        given = self._prepared.pop(0) if self._prepared else None
        if isinstance(given, HeadgateError):
            raise given
        return None if given is None else given.stream


BOTH: tuple[Way, ...] = ("continue", "replay")


async def seen(
    first: Source, for_call: Call, another: Attempts, ways: tuple[Way, ...] = BOTH
) -> tuple[Seen, HeadgateError | None]:
    """What the caller has, and the error it ended with."""
    found = Seen()
    try:
        async for item in rescued(first.stream, for_call, ways, another):
            found.take(item)
    except HeadgateError as error:
        return found, error
    return found, None
