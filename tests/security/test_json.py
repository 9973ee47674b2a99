"""Bodies that are not quite JSON, or JSON that nobody sends; and numbers, lists and texts far beyond their limits."""

import json
import time
from typing import Any

import pytest

from tests.live import Live
from tests.security.raw import ask, chat, hello

HEAD = '{"model":"scripted","messages":[{"role":"user","content":"hi"}]'


def with_value(text: str) -> bytes:
    """A good body but for one more field, which the gateway does not know and an upstream would get."""
    return f'{HEAD},"unknown":{text}}}'.encode("utf-8", "surrogatepass")


NO_VALUES = (
    "NaN", "Infinity", "-Infinity", "nan", "01", "-01", "+1", ".5", "1.", "1e", "1e+", "0x1", "1_000", "--1", "-",
    "1 2", "True", "None", "undefined", "nul", "truee", "'a'", '"a', '"\\x41"', '"\\u12"', '"\\uD800\\u12"', '"\t"',
    '"\n"', '"\x00"', '"\x1f"', "[1,]", "[,1]", "[1,,2]", "[1 2]", "[", "[[", "]", "{", '{"a"}', '{"a":}', '{"a":1,}',
    "{a:1}", '{"a":1 "b":2}', "{1:2}", '{"a":1}}', "/*c*/1", "1//c", "# c", "`a`", "\ufeff1", "\u00a01", "１", "1e5e5",
    "\x0c1",
)  # fmt: skip
VALUES = (
    "0", "-0", "0.0", "-0.0", "1E400", "-1e-400", "1e5", "123456789012345678901234567890", "0.1e-9999", '""',
    '"\\u0000"', '"\\u001b"', '"\\uFFFF"', '"\\ud83d\\ude00"', '"\\/"', '"\x7f"', '"\u2028\u2029"', "[]", "{}",
    '{"":0}', '{"a":1,"a":2}', " \t\n\r null \t\n\r ", "[[],{},[[]]]", '"' + "a" * 100_000 + '"',
    "[" + "1," * 50_000 + "1]", '{"__proto__":{"x":1},"constructor":1}',
)  # fmt: skip


def codes(live: Live, body: bytes) -> tuple[int, str | None]:
    answer = chat(live, body)
    return answer.status, None if answer.status == 200 else answer.error["code"]


@pytest.mark.parametrize("text", NO_VALUES)
def test_what_is_not_json_is_refused_as_such(gate: Live, text: str) -> None:
    assert codes(gate, with_value(text)) == (400, "invalid_json")


@pytest.mark.parametrize("text", VALUES)
def test_what_is_json_is_taken_however_odd(gate: Live, text: str) -> None:
    assert chat(gate, with_value(text)).status == 200


@pytest.mark.parametrize("text", ['"\\ud800"', '"\\udc00\\ud800"', '["\\ud800x"]'])
def test_half_characters_do_no_harm(gate: Live, text: str) -> None:
    assert chat(gate, with_value(text)).status in {200, 400}
    assert chat(gate, f'{{"model":{text},"messages":[{{"role":"user","content":{text}}}]}}'.encode()).status == 400


@pytest.mark.parametrize("number", ["9" * 5_000, "-" + "9" * 5_000, "9" * 5_000 + ".5", "1e99999", "0." + "0" * 5_000])
@pytest.mark.parametrize("field", ["max_tokens", "n", "temperature", "seed", "top_p", "unknown"])
def test_numbers_of_five_thousand_digits_are_answered(gate: Live, field: str, number: str) -> None:
    assert chat(gate, f'{HEAD},"{field}":{number}}}'.encode()).status in {200, 400}


@pytest.mark.parametrize("depth", [500, 10_000, 1_000_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("place", ["unknown", "metadata", "tools", "response_format"])
def test_deep_nesting_is_refused_or_passed_over(gate: Live, depth: int, opening: str, closing: str, place: str) -> None:
    body = f'{HEAD},"{place}":{opening * depth}1{closing * depth}}}'
    assert chat(gate, body.encode()).status in {200, 400}
    assert chat(gate, body[: len(body) // 2].encode()).status == 400


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"])
def test_other_encodings_than_utf_8_are_refused(gate: Live, encoding: str) -> None:
    text = json.dumps(hello(messages=[{"role": "user", "content": "é東"}]), ensure_ascii=False)
    assert codes(gate, text.encode(encoding))[0] in ({400} if encoding != "utf-7" else {200, 400})


@pytest.mark.parametrize("data", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"])
def test_bytes_that_are_not_utf_8_are_refused(gate: Live, data: bytes) -> None:
    body = HEAD.encode().replace(b"hi", data) + b"}"
    assert codes(gate, body) == (400, "invalid_json")


@pytest.mark.parametrize("body", [b"", b" ", b"null", b"[]", b'"a"', b"1", b"true", b"{}", b"\x00", b"{}{}", b"[{}]"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"])
def test_bodies_of_the_wrong_kind_are_refused(gate: Live, path: str, body: bytes) -> None:
    answer = ask(gate, "POST", path, body, gate.key)
    assert answer.status == 400
    assert answer.error["message"]


LONG = [{"role": "user", "content": "hi"}]
EXTREME: dict[str, dict[str, Any]] = {
    "n 0": {"n": 0},
    "n 129": {"n": 129},
    "n 2^31": {"n": 2**31},
    "n -1": {"n": -1},
    "n 1.5": {"n": 1.5},
    "n true": {"n": True},
    "n text": {"n": "2"},
    "max_tokens 0": {"max_tokens": 0},
    "max_tokens -1": {"max_tokens": -1},
    "max_tokens 2^31": {"max_tokens": 2**31},
    "max_tokens 2^63": {"max_tokens": 2**63},
    "max_completion_tokens 2^64": {"max_completion_tokens": 2**64},
    "top_logprobs 21": {"logprobs": True, "top_logprobs": 21},
    "top_logprobs -1": {"logprobs": True, "top_logprobs": -1},
    "top_logprobs 2^40": {"logprobs": True, "top_logprobs": 2**40},
    "top_logprobs alone": {"top_logprobs": 2},
    "temperature": {"temperature": 1e308},
    "top_p": {"top_p": 1.5},
    "penalty": {"frequency_penalty": -99},
    "seed": {"seed": 2**64},
    "logit_bias value": {"logit_bias": {"1": 1e9}},
    "logit_bias kind": {"logit_bias": [1]},
    "stop texts": {"stop": ["a"] * 100_000},
    "stop kind": {"stop": [1]},
    "100,000 messages": {"messages": LONG * 100_000},
    "no messages": {"messages": []},
    "5,000 tools": {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(5_000)]},
    "a tool of a wrong type": {"tools": ["f"]},
    "a tool's parameters": {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
    "a role": {"messages": [{"role": "root", "content": "hi"}]},
    "a content": {"messages": [{"role": "user", "content": 5}]},
    "a model": {"model": "m" * 100_000},
    "an empty model": {"model": ""},
    "stream": {"stream": "yes"},
    "stream_options alone": {"stream_options": {"include_usage": True}},
}
ENGINE_EXTREME: dict[str, dict[str, Any]] = {
    "a token that is none": {"logit_bias": {"99999999": 1}},
    "a bias without a token": {"logit_bias": {"a": 1}},
    "more than the context": {"max_tokens": 1_000_000},
    "a prompt over the context": {"messages": [{"role": "user", "content": "word " * 200_000}]},
    "pictures": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]}]},
}


@pytest.mark.parametrize("name", EXTREME)
def test_values_beyond_their_limits_are_refused_at_once(gate: Live, name: str) -> None:
    answer = chat(gate, hello(**EXTREME[name]))
    assert answer.status in {400, 404}, answer.body
    assert answer.error["message"]


@pytest.mark.parametrize("name", ENGINE_EXTREME)
def test_what_the_engine_cannot_do_is_refused_at_once(gate: Live, name: str) -> None:
    answer = chat(gate, hello(model="headgate-demo", **ENGINE_EXTREME[name]))
    assert answer.status == 400, answer.body


@pytest.mark.prove
def test_refusing_the_extreme_takes_less_than_a_second(gate: Live) -> None:
    cases = [hello(**fields) for fields in EXTREME.values()]
    cases += [hello(model="headgate-demo", **fields) for fields in ENGINE_EXTREME.values()]
    slowest = 0.0
    for body in cases:
        data = json.dumps(body).encode()
        begun = time.perf_counter()
        chat(gate, data)
        slowest = max(slowest, time.perf_counter() - begun)
    print(f"the slowest refusal took {slowest:.3f} s")
    assert slowest < 1.0
