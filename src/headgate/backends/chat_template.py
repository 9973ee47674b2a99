"""Chat templates as Hugging Face defines them, rendered in a sandbox.

A template is code of the model's maker: it is read from the model's folder when the backend is built, never from a
request. It runs in Jinja's immutable sandbox, its output is bounded, and it sees the injected clock only.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from jinja2.ext import Extension
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct

from headgate.core.clock import Clock
from headgate.core.errors import BadCall

MAX_RENDERED_CHARS = 16 * 2**20

Message = dict[str, Any]
"""One message as templates read it: the keys of OpenAI's wire format."""


class _AddedToken(Struct):
    content: str


class _TokenizerConfig(Struct):
    chat_template: str | list[dict[str, str]] | None = None
    bos_token: str | _AddedToken | None = None
    eos_token: str | _AddedToken | None = None


class _Refused(Exception):
    """The template called `raise_exception`: its maker forbids this conversation."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; rendering keeps what is inside."""

    tags = {"generation"}  # noqa: RUF012 the name and form that Jinja reads

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Any) -> str:
        return str(caller())


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter would escape `<`, `>` and `&` for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise _Refused(message)


class ChatTemplate:
    """Turns a conversation into the text that the model was trained on. Raises `ValueError` if it does not compile."""

    def __init__(self, source: str, clock: Clock, *, bos_token: str = "", eos_token: str = "") -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = self._strftime_now
        self.source = source
        self._clock = clock
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template does not compile: {error}") from error

    @classmethod
    def read(cls, folder: Path, clock: Clock) -> "ChatTemplate | None":
        """The template of a model folder: `chat_template.jinja`, else the one in `tokenizer_config.json`, else None."""
        path = folder / "tokenizer_config.json"
        config = _TokenizerConfig()
        if path.exists():
            try:
                config = msgspec.json.decode(path.read_bytes(), type=_TokenizerConfig)
            except (msgspec.DecodeError, RecursionError) as error:
                raise ValueError(f"{path}: {error}") from error
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.exists() else config.chat_template
        if isinstance(source, list):
            named = {entry.get("name"): entry.get("template") for entry in source}
            source = named.get("default")
        if source is None:
            return None
        return cls(source, clock, bos_token=_content(config.bos_token), eos_token=_content(config.eos_token))

    def render(
        self, messages: list[Message], *, tools: list[Message] | None = None, response_schema: Message | None = None
    ) -> str:
        """The text up to where the assistant's answer begins. Raises `BadCall` for what the template cannot express."""
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(
                messages=messages,
                tools=tools or None,
                documents=None,
                response_schema=response_schema,
                add_generation_prompt=True,
                **self._tokens,
            ):
                size += len(piece)
                if size > MAX_RENDERED_CHARS:
                    raise BadCall(
                        f"The conversation renders to over {MAX_RENDERED_CHARS} characters.", param="messages"
                    )
                pieces.append(piece)
        except _Refused as error:
            raise BadCall(f"This model's chat template refuses: {error}", param="messages") from error
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise BadCall(
                f"This model's chat template cannot render these messages: {error}", param="messages"
            ) from error
        return "".join(pieces)

    def _strftime_now(self, form: str) -> str:
        return datetime.fromtimestamp(self._clock.now(), tz=UTC).strftime(form)


def _content(token: str | _AddedToken | None) -> str:
    if token is None:
        return ""
    return token if isinstance(token, str) else token.content
