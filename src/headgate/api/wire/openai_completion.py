"""Completion answers: events to `text_completion` frames, or folded into one body."""

from codecs import getincrementaldecoder

from headgate.api.wire.answers import TextChoice, TextCompletion, TextLogprobs, usage_body
from headgate.api.wire.encoding import encode, finite, text, tops
from headgate.core.call import Call
from headgate.core.events import Event, Finish, Text, TokenLogprob
from headgate.core.usage import Usage


class _Logprobs:
    """Of one choice's tokens, with the character of the text at which each begins. Several may share one character."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def of(self, tokens: tuple[TokenLogprob, ...]) -> TextLogprobs:
        """Of those that come next."""
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(bytes(token.bytes)) if token.bytes else token.token)
        return TextLogprobs(
            [token.token for token in tokens],
            [finite(token.logprob) for token in tokens],
            [tops(token) for token in tokens],
            offsets,
        )


class CompletionEncoder:
    """Frames of one answer."""

    def __init__(self, answer_id: str, created: int, call: Call, fingerprint: str) -> None:
        self._start = b'data: {"id":%s,"object":"text_completion","created":%d,"model":%s,' % (
            text(answer_id),
            created,
            text(call.model),
        )
        self._start += b'"system_fingerprint":%s,"choices":[' % text(fingerprint)
        self._include_usage = call.include_usage
        self._end = b'],"usage":null}\n\n' if call.include_usage else b"]}\n\n"
        self._logprobs: dict[int, _Logprobs] = {}
        self._usage: Usage | None = None

    def frames(self, event: Event) -> bytes:
        if isinstance(event, Text):
            logprobs = b"null"
            if event.logprobs is not None:
                logprobs = encode(self._logprobs.setdefault(event.index, _Logprobs()).of(event.logprobs))
            return self._frame(event.index, text(event.text), logprobs, b"null")
        if isinstance(event, Finish):
            return self._frame(event.index, b'""', b"null", text(event.reason))
        if isinstance(event, Usage):
            self._usage = event
        return b""

    def _frame(self, index: int, piece: bytes, logprobs: bytes, reason: bytes) -> bytes:
        return b"".join((
            self._start, b'{"index":%d,"text":' % index, piece, b',"logprobs":', logprobs,
            b',"finish_reason":', reason, b"}", self._end,
        ))  # fmt: skip

    def tail(self, raw: bool) -> bytes:
        if raw or not self._include_usage or self._usage is None:
            return b""
        return self._start + b'],"usage":' + encode(usage_body(self._usage)) + b"}\n\n"


class _Choice:
    def __init__(self) -> None:
        self.text: list[str] = []
        self.tokens: list[TokenLogprob] | None = None
        self.reason: str | None = None

    def body(self, index: int) -> TextChoice:
        logprobs = None if self.tokens is None else _Logprobs().of(tuple(self.tokens))
        return TextChoice(index, "".join(self.text), logprobs, self.reason)


class CompletionFold:
    """Gathers the events of an answer into one whole `text_completion`."""

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
            return
        choice = self._choices.setdefault(event.index, _Choice())
        if isinstance(event, Text):
            choice.text.append(event.text)
            if event.logprobs is not None:
                choice.tokens = choice.tokens or []
                choice.tokens.extend(event.logprobs)
        elif isinstance(event, Finish):
            choice.reason = event.reason

    def body(self) -> bytes:
        return encode(
            TextCompletion(
                id=self._id,
                created=self._created,
                model=self._model,
                system_fingerprint=self._fingerprint,
                choices=[choice.body(index) for index, choice in sorted(self._choices.items())],
                usage=None if self._usage is None else usage_body(self._usage),
            )
        )
