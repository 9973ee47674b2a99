"""The chat template of the demonstration model, rendered just as serving renders it.

The environment follows Hugging Face `apply_chat_template`: an immutable sandbox, `trim_blocks`, `lstrip_blocks`
and a `tojson` that neither escapes HTML nor non-ASCII text.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment

from headgate.training.example import Example, Json, Turn

SOURCE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8").strip()


def _tojson(value: Json, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    return environment


_TEMPLATE = _environment().from_string(SOURCE)


def render(
    turns: Sequence[Turn],
    *,
    tools: Sequence[dict[str, Json]] = (),
    schema: dict[str, Json] | None = None,
    ask: bool = False,
) -> str:
    """The text the model sees. With `ask`, it ends where the assistant's answer begins."""
    return _TEMPLATE.render(
        messages=[turn.wire() for turn in turns],
        tools=list(tools) or None,
        response_schema=schema,
        add_generation_prompt=ask,
    )


def render_prompt(example: Example) -> str:
    """The prompt of an example, up to the expected answer."""
    return render(example.turns, tools=example.tools, schema=example.schema, ask=True)


def render_whole(example: Example) -> str:
    """The whole training text of an example, its answer included."""
    return render((*example.turns, example.answer), tools=example.tools, schema=example.schema)
