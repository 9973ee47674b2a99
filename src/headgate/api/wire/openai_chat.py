"""Chat answers: events to `chat.completion.chunk` frames, or folded into one `chat.completion`.

The unchanging start and end of each frame are made once; a piece of text costs one JSON string and one join.
"""

from headgate.api.wire.answers import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    FunctionBody,
    TokenLogprobBody,
    ToolCallBody,
    TopLogprob,
    usage_body,
)
from headgate.api.wire.encoding import encode, finite, text
from headgate.core.call import Call
from headgate.core.events import Event, Finish, Reasoning, Text, TokenLogprob, ToolDelta
from headgate.core.usage import Usage


def _logprobs(tokens: tuple[TokenLogprob, ...]) -> list[TokenLogprobBody]:
    return [
        TokenLogprobBody(
            token.token,
            finite(token.logprob),
            token.bytes,
            [TopLogprob(top.token, finite(top.logprob), top.bytes) for top in token.top],
        )
        for token in tokens
    ]


class ChatEncoder:
    """Frames of one answer. Same id, model and time on all; the role comes first in each choice."""

    def __init__(self, answer_id: str, created: int, call: Call, fingerprint: str) -> None:
        self._start = b'data: {"id":%s,"object":"chat.completion.chunk","created":%d,"model":%s,' % (
            text(answer_id),
            created,
            text(call.model),
        )
        self._start += b'"system_fingerprint":%s,"choices":[' % text(fingerprint)
        self._include_usage = call.include_usage
        self._end = b'],"usage":null}\n\n' if call.include_usage else b"]}\n\n"
        self._open_end = b',"logprobs":null,"finish_reason":null}' + self._end
        self._choices: dict[int, bytes] = {}
        self._text_starts: dict[int, bytes] = {}
        self._usage: Usage | None = None

    def frames(self, event: Event) -> bytes:
        if type(event) is Text:
            start = self._text_starts.get(event.index)
            opening = b"" if start is not None else self._opening(event.index, b'""')
            start = start or self._text_starts[event.index]
            if event.logprobs is None:
                return b"".join((opening, start, text(event.text), b"}", self._open_end))
            logprobs = encode(ChatLogprobs(_logprobs(event.logprobs)))
            return b"".join((
                opening, start, text(event.text), b'},"logprobs":', logprobs, b',"finish_reason":null}', self._end,
            ))  # fmt: skip
        if isinstance(event, Usage):
            self._usage = event
            return b""
        return self._other(event)

    def _opening(self, index: int, content: bytes) -> bytes:
        choice = self._start + b'{"index":%d,"delta":{' % index
        self._choices[index] = choice
        self._text_starts[index] = choice + b'"content":'
        return choice + b'"role":"assistant","content":%s,"refusal":null}' % content + self._open_end

    def _other(self, event: Event) -> bytes:
        index = 0 if isinstance(event, Usage) else event.index
        opening = b""
        if index not in self._choices:
            opening = self._opening(index, b"null" if isinstance(event, ToolDelta) else b'""')
        choice = self._choices[index]
        if isinstance(event, ToolDelta):
            return opening + choice + b'"tool_calls":[' + _tool_delta(event) + b"]}" + self._open_end
        if isinstance(event, Reasoning):
            return opening + choice + b'"reasoning_content":' + text(event.text) + b"}" + self._open_end
        if isinstance(event, Finish):
            return opening + choice + b'},"logprobs":null,"finish_reason":' + text(event.reason) + b"}" + self._end
        return opening

    def tail(self, raw: bool) -> bytes:
        if raw or not self._include_usage or self._usage is None:
            return b""
        return self._start + b'],"usage":' + encode(usage_body(self._usage)) + b"}\n\n"


def _tool_delta(event: ToolDelta) -> bytes:
    """`id`, `type` and `name` come with the first piece only."""
    arguments = text(event.arguments)
    if event.id is None and event.name is None:
        return b'{"index":%d,"function":{"arguments":%s}}' % (event.position, arguments)
    return b'{"index":%d,"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}' % (
        event.position,
        text(event.id or ""),
        text(event.name or ""),
        arguments,
    )


class _Tool:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class _Choice:
    """One choice, gathered from its pieces."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[TokenLogprobBody] | None = None
        self.tools: dict[int, _Tool] = {}
        self.reason: str | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, Text):
            self.text.append(event.text)
            if event.logprobs is not None:
                self.logprobs = self.logprobs or []
                self.logprobs.extend(_logprobs(event.logprobs))
        elif isinstance(event, Reasoning):
            self.reasoning.append(event.text)
        elif isinstance(event, ToolDelta):
            tool = self.tools.setdefault(event.position, _Tool())
            tool.id = event.id or tool.id
            tool.name = event.name or tool.name
            tool.arguments.append(event.arguments)
        elif isinstance(event, Finish):
            self.reason = event.reason

    def body(self, index: int) -> ChatChoice:
        tools = [
            ToolCallBody(tool.id, FunctionBody(tool.name, "".join(tool.arguments)))
            for _, tool in sorted(self.tools.items())
        ]
        message = AnswerMessage(
            role="assistant",
            content="".join(self.text) if self.text or not tools else None,
            refusal=None,
            tool_calls=tools or None,
            reasoning_content="".join(self.reasoning) or None,
        )
        logprobs = None if self.logprobs is None else ChatLogprobs(self.logprobs)
        return ChatChoice(index, message, logprobs, self.reason)


class ChatFold:
    """Gathers the events of an answer into one whole `chat.completion`."""

    def __init__(self, answer_id: str, created: int, call: Call, fingerprint: str) -> None:
        self._id = answer_id
        self._created = created
        self._model = call.model
        self._fingerprint = fingerprint
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, Usage):
            self._usage = event
        else:
            self._choices.setdefault(event.index, _Choice()).take(event)

    def body(self) -> bytes:
        return encode(
            ChatCompletion(
                id=self._id,
                created=self._created,
                model=self._model,
                system_fingerprint=self._fingerprint,
                choices=[choice.body(index) for index, choice in sorted(self._choices.items())],
                usage=None if self._usage is None else usage_body(self._usage),
            )
        )
