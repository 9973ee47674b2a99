"""Chat templates as they are published: all that they use works, and none can harm who renders it."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.chat_template import ChatTemplate
from headgate.core.clock import SystemClock
from headgate.core.errors import BadCall

CLOCK = SystemClock()
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def render(source: str, content: str = "hi", **more: Any) -> str:
    return ChatTemplate(source, CLOCK).render([{"role": "user", "content": content}], **more)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}", "hi"),
        ("{% for i in range(4) %}{% if i is odd %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hi"),
        ("{{ strftime_now('%Y') | int > 2000 }}", "True"),
        (
            "{% set ns = namespace(found=false, n=1) %}{% for m in messages %}{% set ns.found = true %}"
            "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.found }} {{ ns.n }}",
            "True 2",
        ),
        ("{% macro box(x) -%} [{{ x }}] {%- endmacro %}{{ box('a') ~ box(2) }}", "[a][2]"),
        ("{% set x %}a{{ messages|length }}{% endset %}{{ x + 'b' }}", "a1b"),
        ("{{ messages[::-1][0]['content'] | upper }}{{ messages[-1].role.title() }}", "HIUser"),
        ("{% for m in messages[:1] if m.role == 'user' %}{{ loop.first }}{{ loop.last }}{% endfor %}", "TrueTrue"),
        ("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "a=1;b=2;"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(',') }}", "hi"),
        ("{{ 'a-b'.split('-') | last }}{{ ' x '.strip() }}{{ 'abc'.replace('b', '') }}{{ 'aXb' | replace('X', '') }}",
         "bxacab"),
        ("{{ {'b': [1, {}], 'a': none} | tojson(indent=2, sort_keys=true) }}",
         '{\n  "a": null,\n  "b": [\n    1,\n    {}\n  ]\n}'),
        ("{{ ['é<&\\''] | tojson }}{{ 'é' | tojson(ensure_ascii=true) }}", '["é<&\'"]"\\u00e9"'),
        ("{{ {'a': 1} | tojson(separators=(',', ':')) }}", '{"a":1}'),
        ("{{ 'x\ny' | indent(2) }}|{{ '%s=%05.1f' | format('a', 2.5) }}|{{ 2.567 | round(1) }}", "x\n  y|a=002.5|2.6"),
        ("{% if tools is not none %}T{% endif %}{{ missing is defined }}{{ missing }}{{ messages is iterable }}",
         "FalseTrue"),
        ("{% if enable_thinking is defined and enable_thinking is false %}off{% else %}on{% endif %}", "on"),
        ("{% call(x) wrap() %}{{ x }}{% endcall %}{% macro wrap() %}<{{ caller('i') }}>{% endmacro %}", None),
        ("{% macro wrap() %}<{{ caller('i') }}>{% endmacro %}{% call(x) wrap() %}{{ x }}{% endcall %}", "<i>"),
        ("{% for a in [[1, [2]], [3]] recursive %}{{ a if a is number else loop(a) }}{% endfor %}", "123"),
        ("  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),
        ("{{ [1, 2] + [3] }}{{ 'ab' * 2 }}{{ 7 % 4 }}{{ 2 ** 5 }}{{ (1, 2)[0] }}", "[1, 2, 3]abab3321"),
    ],
)  # fmt: skip
def test_templates_have_what_published_ones_use(source: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(BadCall):
            render(source)
    else:
        assert render(source) == expected


def test_a_refusal_of_the_templates_maker_reaches_the_caller() -> None:
    with pytest.raises(BadCall, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"
    with pytest.raises(BadCall) as caught:
        render("{{ raise_exception('no ' * 99999) }}")
    assert len(caught.value.message) < 1100


def test_variables_of_the_caller_are_seen_and_ours_are_not_overwritten() -> None:
    template = ChatTemplate("{{ thinking }}{{ messages | length }}{{ bos_token }}", CLOCK, tokens={"bos_token": "<s>"})
    assert template.render([], variables={"thinking": 7, "messages": "x"}) == "70<s>"
    assert {"thinking", "messages", "bos_token"} <= template.variables


# Folders: every place where a template may stand.


def write(folder: Path, config: dict[str, Any] | None = None, **files: str) -> ChatTemplate | None:
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    for name, text in files.items():
        place = folder if name == "chat_template" else folder / "additional_chat_templates"
        (place / f"{name}.jinja").write_text(text)
    return ChatTemplate.read(folder, CLOCK)


def test_the_file_counts_before_the_config_and_tokens_come_from_either(tmp_path: Path) -> None:
    assert write(tmp_path) is None
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}, "eos_token": "no"}')
    template = write(tmp_path, {"chat_template": "config {{ bos_token }}{{ eos_token }}", "eos_token": "</s>"})
    assert template is not None
    assert template.render([]) == "config <s></s>"
    template = write(tmp_path, None, chat_template="file {{ eos_token }}")
    assert template is not None
    assert template.render([]) == "file </s>"


@pytest.mark.parametrize("as_files", [True, False])
def test_the_tool_template_is_for_requests_with_tools(as_files: bool, tmp_path: Path) -> None:
    if as_files:
        template = write(tmp_path, {}, chat_template="plain", tool_use="tools {{ tools | length }}", rag="other")
    else:
        named = {"default": "plain", "tool_use": "tools {{ tools | length }}", "rag": "{% broken"}
        template = write(tmp_path, {"chat_template": [{"name": n, "template": t} for n, t in named.items()]})
    assert template is not None
    assert template.render([]) == "plain"
    assert template.render([], tools=[WEATHER]) == "tools 1"


def test_templates_without_a_default_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be named 'default'"):
        write(tmp_path, {"chat_template": [{"name": "tool_use", "template": "x"}]})


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{% for x in y %}" * 50 + "{% endfor %}" * 50,
        "{{ 'x' | urlize }}",
        "{{ " + "(" * 5000,
        "{% for %}",
        "{{ x | nothing }}",
    ],
)
def test_a_template_that_does_not_compile_is_refused_when_read(source: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not compile"):
        write(tmp_path, {"chat_template": source})


def test_a_template_of_megabytes_or_of_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="over 1048576"):
        write(tmp_path, {}, chat_template="x" * (2**20 + 1))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="utf-8"):
        ChatTemplate.read(tmp_path, CLOCK)


# Hostile templates. What is in a condition on the message runs at a request, not yet at load.

REACHES_OUT = [
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ ''['format_map']({}) }}",
    "{% set f = ''.format %}{{ f(1) }}",
    "{% set _ = messages.append(1) %}",
    "{% set _ = messages[0].update(a=1) %}",
    "{% include '/etc/passwd' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{{ (1).to_bytes(9999999999, 'big') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ lipsum(n=99999999) }}",
    "{{ raise_exception.__globals__.keys() }}",
]


@pytest.mark.parametrize("source", REACHES_OUT)
def test_templates_cannot_reach_out(source: str) -> None:
    with pytest.raises((BadCall, ValueError)):
        render(source)


WITHOUT_END = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "a long range": "{% for i in range(10**12) %}{% endfor %}",
    "doubling text": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "adding text": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a product": "{{ 'x' * 9999999999 }}",
    "a product of lists": "{{ [1] * 9999999999 }}",
    "products of lists": "{% set x = [1] * 9999 %}{% set x = [x] * 9999 %}{% set x = [x] * 9999 %}{{ x | tojson }}",
    "a power": "{{ 9 ** 999999999 }}",
    "powers": "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "a wide field": "{{ '%999999999d' % 1 }}",
    "a wide field by number": "{{ '%*d' % (999999999, 1) }}",
    "a wide filter": "{{ '%999999999d' | format(1) }}",
    "an indent": "{{ 'x\n' * 9 | indent(999999999) }}",
    "an indent of JSON": "{{ [[[1]]] | tojson(indent=999999999) }}",
    "blocks": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = y %}{% endfor %}",
    "a macro": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a tree of macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "nested lists": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{{ n.x | tojson }}",
    "nested dicts": "{% set n = namespace(x={}) %}{% for i in range(99) %}{% set n.x = {'a': n.x, 'b': n.x} %}"
    "{% endfor %}{{ n.x == n.x }}",
    "nested arguments": "{% macro f(n) %}"
    "{% if n %}{{ f(n - 1, varargs, varargs) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "nested by dict": "{% set n = namespace(x=1) %}{% for i in range(99) %}"
    "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}",
    "replacing": "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x.replace('a', 'aa') %}"
    "{% endfor %}",
    "a replacing filter": "{% set n = namespace(x='aa') %}"
    "{% for i in range(99) %}{% set n.x = n.x | replace('a', 'aa') %}"
    "{% endfor %}",
    "joining": "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x.join(n.x) %}{% endfor %}",
    "a joining filter": "{% set n = namespace(x='aa') %}"
    "{% for i in range(99) %}{% set n.x = n.x | join(n.x) %}{% endfor %}",
    "much text": "{% for i in range(99999) %}" + "lorem ipsum " * 99 + "{% endfor %}",
    "much text kept": "{% set x %}"
    "{% for i in range(9999) %}{% for j in range(99) %}" + "lorem ipsum " * 99 + "{% endfor %}"
    "{% endfor %}{% endset %}",
    "much text of a macro": "{% macro f() %}" + "lorem ipsum " * 99 + "{% endmacro %}{% for i in range(99999) %}"
    "{% set x = f() %}{% endfor %}",
    "a recursive loop": "{% for i in [1] recursive %}{{ loop([i]) }}{{ loop([i]) }}{% endfor %}",
    "a block of itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "large filters": "{% set x = 'x' * 9999999 %}{% for i in range(99999) %}{{ (x | upper) == 'x' }}{% endfor %}",
    "large methods": "{% set x = 'x' * 9999999 %}{% for i in range(99999) %}{{ x.upper() == 'x' }}{% endfor %}",
    "a date": "{{ strftime_now('%c' * 999999) }}",
    "a filter for each": "{% set x = range(99999) | list %}{{ range(99999) | select('in', x) | map('string') | list }}",
    "a test for each": "{% set x = range(99999) | list %}{% for i in range(99999) %}{{ -1 in x }}{% endfor %}",
    "a round number": "{{ 5 | round(-999999999) }}",
}  # fmt: skip


SLOW = {
    "a tree of macros",
    "much text of a macro",
    "nested by dict",
    "nested arguments",
    "nested dicts",
    "large filters",
}
"""These take a second or more until they are stopped."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.prove if kind in SLOW else ()) for kind in WITHOUT_END]
)
def test_templates_cannot_run_or_grow_without_end(kind: str) -> None:
    source = "{% if messages[0].content == 'run' %}" + WITHOUT_END[kind] + "{% endif %}ok"
    template = ChatTemplate(source, CLOCK)
    with pytest.raises(BadCall, match="chat template"):
        template.render([{"role": "user", "content": "run"}])
    assert template.render([{"role": "user", "content": "hi"}]) == "ok"


def test_a_template_that_never_ends_is_refused_at_load() -> None:
    with pytest.raises(ValueError, match=r"takes over \d+ steps, even for a greeting"):
        ChatTemplate(WITHOUT_END["loops"], CLOCK)


def test_a_long_conversation_is_far_from_the_bounds() -> None:
    source = (
        "{% macro turn(role, text) %}<|{{ role }}|>{{ text | trim }}\n{% endmacro %}"
        "{% set ns = namespace(count=0) %}{% for m in messages %}{% set ns.count = ns.count + 1 %}"
        "{% if (messages | length) - 1 == loop.index0 and messages[-1] is mapping %}{% endif %}"
        "{% if m.role == 'user' and m.content is string %}{{ turn(m.role, m.content) }}"
        "{% else %}{{ '<|' ~ m.role ~ '|>' + m.content }}{% endif %}{% endfor %}{{ ns.count }}"
    )
    messages = [{"role": ("user", "assistant")[i % 2], "content": "word " * 20} for i in range(5000)]
    assert ChatTemplate(source, CLOCK).render(messages).endswith("5000")


NAMES = st.sampled_from(["messages", "x", "y", "'ab'", "3", "[x, y]", "{'a': x}", "range(9)", "none", "missing"])
STEPS = st.sampled_from(
    ["{{{{ {0} }}}}", "{{% set x = {0} ~ {1} %}}", "{{% set y = [{0}, {1}] %}}", "{{{{ {0} | tojson }}}}",
     "{{{{ {0} + {1} }}}}", "{{{{ {0} * {1} }}}}", "{{{{ {0} | join({1}) }}}}", "{{{{ {0}.replace({1}, x) }}}}",
     "{{% for x in {0} %}}{{{{ x }}}}{{% endfor %}}", "{{{{ {0} % {1} }}}}", "{{{{ {0} == {1} }}}}",
     "{{{{ {0}[{1}] }}}}"]
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.tuples(STEPS, NAMES, NAMES), max_size=12), content=st.text(max_size=9))
def test_any_template_renders_or_says_why_not(parts: list[tuple[str, str, str]], content: str) -> None:
    source = "{% set x = 'x' %}{% set y = [] %}" + "".join(step.format(a, b) for step, a, b in parts)
    with contextlib.suppress(BadCall):
        assert isinstance(render(source, content), str)
