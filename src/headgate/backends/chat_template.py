"""Chat templates as Hugging Face defines them, rendered in a sandbox.

A template is code of the model's maker: it is read from the model's folder when the backend is built, never from a
request. It runs in a sandbox that bounds what it does (`template_sandbox.py`), and sees the injected clock only.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import msgspec
from jinja2 import meta
from msgspec import Struct

from headgate.backends.template_budget import MAX_CHARS, Budget, Overrun, with_budget
from headgate.backends.template_sandbox import Sandbox
from headgate.core.clock import Clock
from headgate.core.errors import BadCall

MAX_SOURCE_BYTES = 2**20
_MAX_WORD = 1000
"""Characters of a template's own word that reach the caller, and of a form of dates."""
_DEFAULT, _TOOL_USE = "default", "tool_use"

Kind = TypeVar("Kind")
Message = dict[str, Any]
"""One message as templates read it: the keys of OpenAI's wire format."""


class _AddedToken(Struct):
    content: str


_Token = str | _AddedToken | None


class _SpecialTokens(Struct):
    bos_token: _Token = None
    eos_token: _Token = None
    unk_token: _Token = None
    pad_token: _Token = None


class _TokenizerConfig(_SpecialTokens):
    chat_template: str | list[dict[str, str]] | None = None


class _Refused(Exception):
    """The template called `raise_exception`: its maker forbids this conversation."""


def _raise_exception(message: str) -> None:
    raise _Refused(message)


class ChatTemplate:
    """Turns a conversation into the text that the model was trained on."""

    def __init__(
        self, source: str | Mapping[str, str], clock: Clock, *, tokens: Mapping[str, str] | None = None
    ) -> None:
        """`source` is one template or several by name, of which `tool_use` is for requests with tools.

        `tokens` are the texts of special tokens, by the names that templates have for them. Raises `ValueError` where a
        template does not compile, or does more than any has to even for a greeting.
        """
        sources = {_DEFAULT: source} if isinstance(source, str) else dict(source)
        if _DEFAULT not in sources:
            raise ValueError(f"the chat templates are named {sorted(sources)}: one must be named '{_DEFAULT}'")
        self.source = "\n".join(sources.values())
        if len(self.source) > MAX_SOURCE_BYTES:
            raise ValueError(f"the chat template has over {MAX_SOURCE_BYTES} characters")
        self._clock = clock
        self._tokens = dict.fromkeys(_SpecialTokens.__struct_fields__[:2], "") | dict(tokens or {})
        sandbox = Sandbox()
        sandbox.globals["raise_exception"] = _raise_exception
        sandbox.globals["strftime_now"] = self._strftime_now
        wanted = (_DEFAULT, _TOOL_USE)
        self._templates = {name: sandbox.template(sources[name]) for name in wanted if name in sources}
        self.variables = frozenset(
            name for one in self._templates for name in meta.find_undeclared_variables(sandbox.parse(sources[one]))
        )
        """What the template reads beside what it makes itself."""
        self._try()

    @classmethod
    def read(cls, folder: Path, clock: Clock) -> "ChatTemplate | None":
        """The template of a model folder; None where it has none. Raises `ValueError` for one that cannot be used.

        A file `chat_template.jinja` counts before what `tokenizer_config.json` says; the files of
        `additional_chat_templates` are more of them, by name.
        """
        config = _decoded(folder / "tokenizer_config.json", _TokenizerConfig) or _TokenizerConfig()
        special = _decoded(folder / "special_tokens_map.json", _SpecialTokens) or _SpecialTokens()
        found: dict[str, str] = {}
        if isinstance(config.chat_template, str):
            found[_DEFAULT] = config.chat_template
        for entry in config.chat_template or [] if not isinstance(config.chat_template, str) else []:
            found[entry.get("name", "")] = entry.get("template", "")
        files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
        for name, path in (files | {_DEFAULT: folder / "chat_template.jinja"}).items():
            if path.is_file():
                found[name] = _text(path)
        if not found:
            return None
        tokens: dict[str, str] = {}
        for field in _SpecialTokens.__struct_fields__:
            token = getattr(config, field) or getattr(special, field)
            if token is not None:
                tokens[field] = token if isinstance(token, str) else token.content
        return cls(found, clock, tokens=tokens)

    def render(
        self,
        messages: list[Message],
        *,
        tools: list[Message] | None = None,
        response_schema: Message | None = None,
        variables: Message | None = None,
    ) -> str:
        """The text up to where the assistant's answer begins. Raises `BadCall` for what the template cannot express."""
        try:
            return self._rendered(messages, tools, response_schema, variables)
        except _Refused as error:
            raise BadCall(f"This model's chat template refuses: {_short(error)}", param="messages") from error
        except Overrun as error:
            raise BadCall(f"This model's chat template {error} for these messages.", param="messages") from error
        except (
            jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
            NameError, AssertionError, MemoryError,
        ) as error:  # fmt: skip
            raise BadCall(
                f"This model's chat template cannot render these messages: {_short(error)}", param="messages"
            ) from error

    def _rendered(
        self,
        messages: list[Message],
        tools: list[Message] | None = None,
        response_schema: Message | None = None,
        variables: Message | None = None,
    ) -> str:
        template = self._templates[_DEFAULT]
        if tools:
            template = self._templates.get(_TOOL_USE, template)
        values = {
            **self._tokens,
            **(variables or {}),
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "response_schema": response_schema,
            "add_generation_prompt": True,
        }
        pieces: list[str] = []
        size = 0
        for piece in template.generate(with_budget(values, Budget(self._clock))):
            size += len(piece)
            if size > MAX_CHARS:
                raise Overrun(f"makes a text of over {MAX_CHARS} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _try(self) -> None:
        """Finds at load what would run without end whatever it is given."""
        try:
            self.render([{"role": "user", "content": "Hello"}])
        except BadCall as error:
            if isinstance(error.__cause__, Overrun):
                raise ValueError(f"the chat template {error.__cause__}, even for a greeting") from error

    def _strftime_now(self, form: str) -> str:
        if len(form) > _MAX_WORD:
            raise Overrun("asks for a date without end")
        return datetime.fromtimestamp(self._clock.now(), tz=UTC).strftime(form)


def _short(error: Exception) -> str:
    return str(error)[:_MAX_WORD]


def _decoded(path: Path, kind: type[Kind]) -> Kind | None:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_SOURCE_BYTES:
        raise ValueError(f"{path} has over {MAX_SOURCE_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeError as error:
        raise ValueError(f"{path}: {error}") from error
