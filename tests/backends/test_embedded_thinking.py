"""Reasoning and calls of a real engine on a random model: what the template opens, the stream keeps apart."""

import json
from pathlib import Path

import pytest

from headgate.core.events import Reasoning, ToolDelta
from headgate.core.usage import Usage
from tests.backends import folders
from tests.backends.embedded import WEATHER, Asker, reason, run, text

OPEN = (
    folders.TEMPLATE
    + "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>\n' }}{% endif %}{# </think> #}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    folders.write(path, template=OPEN)
    return path


def test_reasoning_that_the_prompt_opened_is_streamed_apart_and_counted(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        out = await ask.chat(ignore_eos=True, seed=1)
        assert "".join(event.text for event in out if isinstance(event, Reasoning))
        assert text(out) == ""
        usage = out[-1]
        assert isinstance(usage, Usage)
        assert usage.reasoning == usage.output == 30
        silent = await ask.chat(ignore_eos=True, seed=1, include_reasoning=False)
        assert not any(isinstance(event, Reasoning) for event in silent)
        hidden = silent[-1]
        assert isinstance(hidden, Usage)
        assert (hidden.output, hidden.reasoning) == (30, 30)

    run(folder, work)


def test_without_reasoning_the_same_model_answers_at_once(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        for more in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}):
            out = await ask.chat(ignore_eos=True, seed=1, **more)
            assert text(out)
            assert not any(isinstance(event, Reasoning) for event in out)
            usage = out[-1]
            assert isinstance(usage, Usage)
            assert usage.reasoning == 0

    run(folder, work)


@pytest.mark.parametrize("family", ["hermes", "llama", "mistral"])
def test_a_forced_call_is_made_in_every_familys_form(family: str, tmp_path: Path) -> None:
    shown = {"hermes": "<tool_call>", "llama": "<|python_tag|>", "mistral": "[TOOL_CALLS]"}[family]
    folders.write(tmp_path / "tiny", template=folders.TEMPLATE + "{# " + shown + " #}")

    async def work(ask: Asker) -> None:
        assert ask.backend._prompts.dialect.family == family
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            out = await ask.chat(tools=[WEATHER], tool_choice=choice, max_tokens=300, seed=3)
            calls = [event for event in out if isinstance(event, ToolDelta)]
            assert [event.name for event in calls if event.name] == ["get_weather"]
            assert text(out) == ""
            arguments = "".join(event.arguments for event in calls)
            if reason(out) == "tool_calls":
                assert isinstance(json.loads(arguments), dict)

    run(tmp_path / "tiny", work)
