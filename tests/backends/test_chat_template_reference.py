"""Templates are rendered and tokenised as the `transformers` library does it, to the letter."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.chat_template import ChatTemplate
from headgate.core.clock import SystemClock
from tests.backends import folders

TEMPLATES = {
    "roles and tools": """
{%- if not date is defined %}{% set date = strftime_now("%Y") %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- bos_token + "<|system|>" + date + "\n" }}
{%- if tools is not none %}
    {{- "Tools:\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system }}<|end|>
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- "<|tool|>" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception("one call at once") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}
    {%- else %}
        {{- '<|' + message['role'] + '|>\n' + message['content'] | trim + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}
""",
    "reasoning is left out of the past": """
{%- macro turn(role, text) -%}
<|{{ role }}|>{{ text }}
{% endmacro -%}
{%- set ns = namespace(last=messages | length - 1, looking=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.looking and message.role == "user" and not (message.content.startswith('<r>') and
            message.content.endswith('</r>')) %}
        {%- set ns.looking = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if '</think>' in content %}
        {%- if loop.index0 < ns.last %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- else %}
            {%- set content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1] ~ '|' ~ content %}
        {%- endif %}
    {%- endif %}
    {%- if loop.first or (loop.last or not loop.previtem.role == message.role) %}
        {{- turn(message.role, content) }}
    {%- else %}
        {%- continue %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
""",
}
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["<think>\na\n</think>\n\nb", "</think>", "<r>x</r>", " é<b>&'\" ", "<|end|>"]
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system"]), "content": WORDS})
    | st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": WORDS,
            "tool_calls": st.lists(
                st.fixed_dictionaries(
                    {
                        "type": st.just("function"),
                        "function": st.fixed_dictionaries(
                            {"name": st.just("f"), "arguments": st.dictionaries(WORDS, WORDS | st.integers())}
                        ),
                    }
                ),
                min_size=1,
                max_size=1,
            ),
        }
    ),
    min_size=1,
    max_size=6,
)
TOOL = {"type": "function", "function": {"name": "f", "description": "<é>", "parameters": {"type": "object"}}}


@pytest.mark.prove
@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_are_rendered_as_transformers_renders_them(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = folders.sentencepiece(legacy=False)
    folder = folders.write_text_side(tmp_path / "model", made, TEMPLATES[name])
    ours = ChatTemplate.read(folder, SystemClock())
    assert ours is not None
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATES[name]
    )

    @settings(max_examples=300, deadline=None)
    @given(messages=MESSAGES, tools=st.booleans(), thinking=st.sampled_from([None, True, False]))
    def same(messages: list[dict[str, Any]], tools: bool, thinking: bool | None) -> None:
        variables = {} if thinking is None else {"enable_thinking": thinking}
        offered = [TOOL] if tools else None
        expected = theirs.apply_chat_template(
            messages, tools=offered, tokenize=False, add_generation_prompt=True, **variables
        )
        text = ours.render(messages, tools=offered, variables=variables)
        assert text == expected
        ids = made.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text, add_special_tokens=False)

    same()
