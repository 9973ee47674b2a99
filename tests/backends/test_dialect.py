"""A model's spelling is found from its folder's template and tokens."""

import pytest

from headgate.backends.dialect import FAMILIES, HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, CallForm, Dialect, find

QWEN = "{% if tools %}<tool_call>{% endif %}"


def found(template: str | None, tokens: dict[str, int] | None = None, tool_parser: str | None = None) -> Dialect:
    return find(template, (tokens or {}).get, tool_parser=tool_parser)


@pytest.mark.parametrize(
    ("template", "tokens", "form"),
    [
        (QWEN, {"<tool_call>": 7, "[TOOL_CALLS]": 8}, HERMES),
        ("no tools", {"<tool_call>": 7}, HERMES),
        (None, {}, HERMES),
        ("{{ bos_token }}[TOOL_CALLS]{{ calls }}", {"[TOOL_CALLS]": 5, "[ARGS]": 6}, MISTRAL),
        ("[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}", {"[TOOL_CALLS]": 5, "[ARGS]": 6}, MISTRAL_NAMED),
        (None, {"[TOOL_CALLS]": 5}, MISTRAL),
        ("<|start_header_id|>{{ role }}", {"<|python_tag|>": 9}, LLAMA),
        ("<|python_tag|>", {}, LLAMA),
    ],
)
def test_the_family_is_that_of_the_template_and_else_of_the_tokens(
    template: str | None, tokens: dict[str, int], form: CallForm
) -> None:
    dialect = found(template, tokens)
    assert dialect.calls == form
    assert dialect.thinking is None
    assert dialect.tokens == tokens


@pytest.mark.parametrize(("end", "begin"), [("</think>", "<think>"), ("[/THINK]", "[THINK]")])
def test_thinking_is_what_the_template_shows(begin: str, end: str) -> None:
    thinking = found(f"{{{{ content.split('{end}') }}}}", {begin: 1, end: 2}).thinking
    assert thinking is not None
    assert (thinking.begin, thinking.end) == (begin, end)
    assert found("plain", {begin: 1, end: 2}).thinking is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_operators_word_counts_before_what_the_folder_shows(family: str) -> None:
    assert found(QWEN, {"[TOOL_CALLS]": 8}, family).family == family
    with pytest.raises(ValueError, match="it can be one of hermes, llama, mistral"):
        found(QWEN, tool_parser="pythonic")


def test_a_text_is_cut_at_the_markers_that_are_tokens() -> None:
    dialect = found(QWEN, {"<tool_call>": 7, "</think>": 8})
    assert dialect.pieces("a<tool_call>b</tool_call></think>") == ["a", 7, "b</tool_call>", 8]
    assert dialect.pieces("") == []
    assert found(QWEN).pieces("<tool_call>") == ["<tool_call>"]
    assert HERMES.head('f"é') == '{"name": "f\\"é", "arguments": '
    assert MISTRAL_NAMED.head("f") == "f[ARGS]"
