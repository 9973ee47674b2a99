"""What servers and providers write when a prompt is too long or not let through, each in its own words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from headgate.backends.openai_answer import error_in
from headgate.backends.openai_errors import MESSAGE_CHARS_MAX, error_for
from headgate.core.errors import BadCall, HeadgateError, Overloaded, Upstream, UpstreamTimeout
from headgate.core.faults import CONTENT_POLICY, CONTEXT_LENGTH, blame, classify

CONTEXT: dict[str, tuple[int, Any]] = {
    "openai": (400, {"error": {
        "message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 "
        "tokens. Please reduce the length of the messages.", "type": "invalid_request_error", "param": "messages",
        "code": "context_length_exceeded"}}),
    "openai, new": (400, {"error": {"message": "Your input exceeds the context window of this model. Please adjust "
                                    "your input and try again.", "type": "invalid_request_error", "code": None}}),
    "vllm": (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you "
                   "requested 5000 tokens (4000 in the messages, 1000 in the completion).", "type": "BadRequestError",
                   "param": None, "code": 400}),
    "vllm, decoder": (400, {"error": {"message": "The decoder prompt (length 5000) is longer than the maximum model "
                                      "length of 4096. Make sure that...", "code": 400}}),
    "vllm, no room": (400, {"error": {"message": "max_tokens must be at least 1, got -77.", "code": 400}}),
    "sglang": (400, {"object": "error", "message": "The input (5000 tokens) is longer than the model's context length "
                     "(4096 tokens).", "code": 400}),
    "llama.cpp": (400, {"error": {"code": 400, "message": "the request exceeds the available context size. try "
                                  "increasing the context size or enable context shift",
                                  "type": "exceed_context_size_error"}}),
    "ollama": (500, {"error": "the input length exceeds the context length"}),
    "ollama, embeddings": (400, {"error": {"message": "input length exceeds maximum context length"}}),
    "lm studio": (400, {"error": "The number of tokens to keep from the initial prompt is greater than the context "
                        "length"}),
    "anthropic": (400, {"type": "error", "error": {"type": "invalid_request_error",
                                                   "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    "anthropic, with its answer": (400, {"type": "error", "error": {
        "type": "invalid_request_error",
        "message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"}}),
    "mistral": (400, {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for "
                      "model with 32768 maximum context length", "type": "invalid_request_error", "code": "3051"}),
    "google": (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "The input token count (1200000) "
                                "exceeds the maximum number of tokens allowed (1048576)."}}]),
    "xai": (400, {"error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}),
    "groq": (413, {"error": {"message": "Please reduce the length of the messages or completion.", "type": "x"}}),
    "bedrock": (400, {"message": "Input is too long for requested model."}),
    "tgi": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000"}),
    "moonshot": (400, {"error": {"message": "Invalid request: Your request exceeded model token limit: 8192"}}),
}  # fmt: skip
POLICY: dict[str, tuple[int, Any]] = {
    "openai": (400, {"error": {"message": "Your request was rejected.", "code": "content_policy_violation"}}),
    "openai, images": (400, {"error": {"message": "Your request was rejected as a result of our safety system.",
                                       "code": "moderation_blocked"}}),
    "openai, reasoning": (400, {"error": {"message": "Invalid prompt: your prompt was flagged as potentially violating "
                                          "our usage policy.", "code": "invalid_prompt"}}),
    "azure": (400, {"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's "
                              "content management policy.", "code": "content_filter", "param": "prompt", "status": 400,
                              "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    "azure, inside alone": (400, {"error": {"message": "Bad request", "code": "bad_request",
                                            "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    "anthropic": (400, {"type": "error", "error": {"type": "invalid_request_error",
                                                   "message": "Output blocked by content filtering policy"}}),
    "google": (400, {"error": {"code": 400, "message": "The prompt was blocked due to safety reasons"}}),
    "openrouter": (403, {"error": {"code": 403, "message": "m requires moderation on p. Your input was flagged."}}),
    "deepseek": (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}),
    "dashscope": (400, {"error": {"code": "data_inspection_failed",
                                  "message": "Input data may contain inappropriate content."}}),
}  # fmt: skip


def told(status: int, body: Any) -> HeadgateError:
    return error_for(status, lambda name: None, json.dumps(body).encode(), 1.0)


@pytest.mark.parametrize("who", CONTEXT)
def test_a_prompt_that_is_too_long_is_known_in_the_words_of(who: str) -> None:
    error = told(*CONTEXT[who])
    assert error.code == CONTEXT_LENGTH
    assert 400 <= error.status < 500
    assert (classify(error), blame(error)) == ("context_length", "caller")


@pytest.mark.parametrize("who", POLICY)
def test_a_refusal_for_the_content_s_sake_is_known_in_the_words_of(who: str) -> None:
    error = told(*POLICY[who])
    assert (type(error), error.code, error.status) == (BadCall, CONTENT_POLICY, 400)
    assert (classify(error), blame(error)) == ("content_policy", "caller")


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "'messages' is a required property", "bad_request"),
        (400, "max_tokens is too large: 100000. This model supports at most 16384 completion tokens", "bad_request"),
        (400, "Invalid value for 'content': expected a string, got null.", "bad_request"),
        (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000. The input or output "
              "tokens must be reduced in order to run successfully.", "overload"),
        (403, "You are not allowed to sample from this model", "auth"),
        (500, "CUDA error: out of memory", "upstream"),
    ],
)  # fmt: skip
def test_what_only_sounds_like_it_is_not_taken_for_it(status: int, message: str, kind: str) -> None:
    assert classify(told(status, {"error": {"message": message}})) == kind


def test_what_a_403_says_is_not_shown() -> None:
    assert "moderation on p" not in told(*POLICY["openrouter"]).message


@pytest.mark.parametrize("who", CONTEXT)
def test_the_same_words_inside_an_answer_mean_the_same(who: str) -> None:
    body = CONTEXT[who][1]
    inside = body["error"] if isinstance(body, dict) and "error" in body else body
    assert error_in(Raw(json.dumps(inside).encode())).code == CONTEXT_LENGTH


@pytest.mark.parametrize(
    ("inside", "kind", "code"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, Overloaded, "upstream_overloaded"),
        ({"type": "rate_limit_error", "message": "slow down"}, Overloaded, "upstream_rate_limited"),
        ({"code": "rate_limit_exceeded", "type": "tokens"}, Overloaded, "upstream_rate_limited"),
        ({"code": 429, "message": "Provider returned error"}, Overloaded, "upstream_rate_limited"),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, Overloaded, "upstream_rate_limited"),
        ({"code": "insufficient_quota", "type": "insufficient_quota"}, Overloaded, "upstream_quota"),
        ({"code": 503, "message": "no instances"}, Overloaded, "upstream_overloaded"),
        ({"code": 401, "message": "bad key sk-1"}, Upstream, "upstream_auth"),
        ({"code": 504}, UpstreamTimeout, "upstream_timeout"),
        ({"code": "content_filter", "message": "no"}, BadCall, CONTENT_POLICY),
        ({"code": 502, "message": "bad gateway"}, Upstream, "upstream_error"),
        ({"type": "server_error"}, Upstream, "upstream_error"),
        ("out of memory", Upstream, "upstream_error"),
        ({"code": ["x"], "type": {}, "innererror": 3}, Upstream, "upstream_error"),
        (7, Upstream, "upstream_error"),
    ],
)  # fmt: skip
def test_an_error_inside_an_answer_is_of_its_own_kind(inside: Any, kind: type[HeadgateError], code: str) -> None:
    error = error_in(Raw(json.dumps(inside).encode()), "sk-1")
    assert (type(error), error.code) == (kind, code)
    assert "sk-1" not in error.message


def test_a_rate_limit_inside_an_answer_has_its_status() -> None:
    assert error_in(Raw(b'{"type":"rate_limit_error"}')).status == 429


@given(st.binary(max_size=300))
def test_no_bytes_inside_an_answer_break_the_mapping(data: bytes) -> None:
    error = error_in(Raw(data))
    assert len(error.message) <= MESSAGE_CHARS_MAX + 100
