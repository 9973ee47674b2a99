"""Answers held to schemas and tools: even a model of random weights gives valid ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from headgate.core.errors import BadCall
from headgate.core.events import ToolDelta
from tests.backends import folders
from tests.backends.embedded import Asker, reason, run, text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    folders.write(path)
    return path


PERSON = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["happy", "sad"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "adult": {"type": "boolean"},
    },
    "required": ["mood", "age", "adult"],
    "additionalProperties": False,
}


def person_format(**changes: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, **changes}}


def check_person(answer: str) -> None:
    value = json.loads(answer)
    assert set(value) == {"mood", "age", "adult"}
    assert value["mood"] in {"happy", "sad"}
    assert isinstance(value["adult"], bool)
    assert 0 <= value["age"] <= 120


@pytest.mark.parametrize("strict", [True, False, None])
def test_even_a_random_model_fills_a_json_schema(strict: bool | None, folder: Path) -> None:
    async def work(ask: Asker) -> None:
        out = await ask.chat(response_format=person_format(strict=strict), n=5, temperature=1.5, max_tokens=100)
        for index in range(5):
            check_person(text(out, index))
            assert reason(out, index) == "stop"
        # Neither a wish to ignore the end nor a wish for more tokens breaks the form.
        out = await ask.chat(response_format=person_format(), ignore_eos=True, min_tokens=90, max_tokens=100)
        check_person(text(out))
        assert reason(out) == "stop"

    run(folder, work)


def test_a_json_object_is_valid_json_unless_cut(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        for seed in range(5):
            out = await ask.chat(response_format={"type": "json_object"}, seed=seed, max_tokens=150)
            if reason(out) == "stop":
                assert isinstance(json.loads(text(out)), dict)
            else:
                assert text(out).startswith("{")

    run(folder, work)


def test_a_schema_that_cannot_be_enforced_is_refused_before_anything_is_sent(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        for schema in ({"type": "elephant"}, {"$ref": "http://127.0.0.1:9/x"}, {"not": {"type": "string"}}):
            with pytest.raises(BadCall, match="cannot be enforced") as caught:
                await ask.chat(response_format=person_format(schema=schema, strict=True))
            assert caught.value.param == "response_format.json_schema.schema"
        assert not ask.backend.engine._generations
        check_person(text(await ask.chat(response_format=person_format(strict=True), max_tokens=100)))

    run(folder, work)


def test_a_forced_call_has_valid_arguments_whatever_the_model(folder: Path) -> None:
    tools = [
        {"type": "function", "function": {"name": "register", "parameters": PERSON}},
        {"type": "function", "function": {"name": 'say "hi"', "parameters": {"properties": {}}}},
    ]

    async def work(ask: Asker) -> None:
        named = {"type": "function", "function": {"name": "register"}}
        for tool_choice in (named, "required", "required", "required"):
            out = await ask.chat(tools=tools, tool_choice=tool_choice, temperature=1.5, max_tokens=120)
            deltas = [event for event in out if isinstance(event, ToolDelta)]
            arguments = "".join(delta.arguments for delta in deltas)
            if reason(out) == "length":
                continue
            assert reason(out) == "tool_calls"
            assert text(out) == ""
            names = [delta.name for delta in deltas if delta.name is not None]
            assert names in (["register"], ['say "hi"'])
            if names == ["register"]:
                check_person(arguments)
            else:
                json.loads(arguments)
        out = await ask.chat(tools=tools[:1], tool_choice="required", n=4, temperature=1.5, max_tokens=120)
        for index in range(4):
            check_person("".join(e.arguments for e in out if isinstance(e, ToolDelta) and e.index == index))

    run(folder, work)


def test_a_call_that_the_model_begins_itself_is_one_of_a_tool_on_offer(folder: Path) -> None:
    begin = str(folders.tokenizer().token_to_id("<tool_call>"))
    tool = {"type": "function", "function": {"name": "register", "parameters": PERSON}}
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["one", "two"]}}}

    async def work(ask: Asker) -> None:
        for parallel in (True, False):
            for bias in ({begin: 6.0}, {}):
                out = await ask.chat(
                    tools=[tool], logit_bias=bias, n=4, temperature=1.2, max_tokens=200, parallel_tool_calls=parallel
                )
                calls: dict[tuple[int, int], str] = {}
                for event in out:
                    if isinstance(event, ToolDelta):
                        assert event.name in {None, "register"}
                        place = (event.index, event.position)
                        calls[place] = calls.get(place, "") + event.arguments
                for (index, position), arguments in calls.items():
                    assert parallel or position == 0
                    if reason(out, index) == "tool_calls":
                        check_person(arguments)
                assert calls or not bias
        out = await ask.chat(tools=[tool], response_format=schema, n=4, temperature=1.5, max_tokens=200)
        for index in range(4):
            if reason(out, index) == "stop":
                assert text(out, index) in {'"one"', '"two"'}

    run(folder, work)


def test_a_schema_that_cannot_be_enforced_is_only_guidance_unless_strict(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        out = await ask.chat(response_format=person_format(schema={"type": "elephant"}), max_tokens=5)
        assert reason(out) in {"stop", "length"}
        odd: dict[str, Any] = {
            "type": "function",
            "function": {"name": "f", "parameters": {"properties": {"x": {"type": "elephant"}}}},
        }
        assert reason(await ask.chat(tools=[odd], max_tokens=5)) in {"stop", "length", "tool_calls"}
        odd["function"]["strict"] = True
        with pytest.raises(BadCall) as caught:
            await ask.chat(tools=[odd], max_tokens=5)
        assert caught.value.param == "tools"

    run(folder, work)
