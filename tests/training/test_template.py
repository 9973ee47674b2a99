"""The chat template: what the model reads for every shape of conversation the API allows."""

from headgate.training.example import ToolCall, Turn
from headgate.training.template import render

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}}}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Get <the> weather", "parameters": CITY},
}


def test_a_plain_question_has_no_system_turn_and_ends_where_the_answer_begins() -> None:
    text = render([Turn("user", "Hi")], ask=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_system_text_tools_and_schema_stand_in_one_system_turn() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}, "tags": {"type": "array"}}}
    text = render([Turn("system", "Be brief."), Turn("user", "Hi")], tools=[WEATHER], schema=schema)
    assert text == (
        "<|im_start|>system\nBe brief.\n\nTools:\n"
        '{"name": "get_weather", "description": "Get <the> weather", '
        '"parameters": {"city": "string", "unit": ["C", "F"]}}'
        '\n\nAnswer in JSON: {"age": "integer", "tags": {"type": "array"}}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n'
    )


def test_a_schema_without_fields_asks_for_json() -> None:
    assert render([Turn("user", "Hi")], schema={}).startswith("<|im_start|>system\nAnswer in JSON.<|im_end|>\n")


def test_a_tool_without_parameters_or_description_is_its_name() -> None:
    text = render([Turn("user", "Hi")], tools=[{"type": "function", "function": {"name": "ping"}}])
    assert 'Tools:\n{"name": "ping"}<|im_end|>' in text


def test_calls_and_results_are_written_out() -> None:
    turns = [
        Turn("user", "Weather?"),
        Turn("assistant", calls=(ToolCall("get_weather", {"city": "Köln"}),)),
        Turn("tool", "18"),
    ]
    assert render(turns, ask=True) == (
        "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n18<|im_end|>\n<|im_start|>assistant\n"
    )
