"""Faults that are an answer of their own: statuses, errors as each dialect words them, a redirect."""

from datetime import UTC, datetime
from email.utils import format_datetime

import msgspec

from headgate.bench.chaos.fault import Order
from headgate.bench.chaos.script import JSON, Script

RETRY_AFTER = {
    "short": "1",
    "long": "86400",
    "zero": "0",
    "negative": "-5",
    "fraction": "0.5",
    "odd": "soon, 12 potatoes",
    "past": format_datetime(datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), usegmt=True),
    "date": format_datetime(datetime(2999, 1, 1, tzinfo=UTC), usegmt=True),
    "huge": "9" * 400,
}
"""What `retry_after` may be, besides `absent` and a number of seconds."""
_KINDS = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("invalid_request_error", "authentication_error"),
    403: ("permission_denied", "permission_error"),
    404: ("invalid_request_error", "not_found_error"),
    429: ("rate_limit_exceeded", "rate_limit_error"),
    529: ("overloaded_error", "overloaded_error"),
}
_MESSAGES = {
    401: "Incorrect API key provided: sk-chaos. You can find your API key at https://platform.example.com/keys.",
    403: "Your account may not use this model.",
    404: "The model `chaos` does not exist or you do not have access to it.",
    429: "Rate limit reached for requests. Please try again in 1s.",
    500: "The server had an error while processing your request. Sorry about that!",
    502: "Bad gateway.",
    503: "The engine is currently overloaded, please try again later.",
    529: "Overloaded",
}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


def _error(script: Script, status: int, inner: dict[str, object], style: str) -> Script:
    value: dict[str, object] = {"error": inner}
    if style == "anthropic":
        value = {"type": "error", "error": {"type": inner["type"], "message": inner["message"]}}
    return Script(None, msgspec.json.encode(value), status, JSON, dialect=script.dialect)


def _style(script: Script, order: Order, name: str) -> str:
    return order.word(name, "anthropic" if script.anthropic else "openai")


def _retry_after(order: Order) -> tuple[tuple[str, str], ...]:
    given = order.word("retry_after", "absent")
    return () if given == "absent" else (("retry-after", RETRY_AFTER.get(given, given)),)


def status(script: Script, order: Order) -> Script:
    """A refusal with this status; `body` is openai, anthropic, html or empty."""
    code = order.whole("status", 500)
    style = _style(script, order, "body")
    ours, theirs = _KINDS.get(code, ("server_error", "api_error"))
    message = _MESSAGES.get(code, f"refused with {code}")
    if style == "empty":
        made = Script(None, b"", code, "text/plain")
    elif style == "html":
        page = f"<html><head><title>{code}</title></head><body><center>nginx</center></body></html>\r\n"
        made = Script(None, page.encode(), code, "text/html")
    else:
        inner: dict[str, object] = {"message": message, "type": theirs if style == "anthropic" else ours}
        inner |= {"param": None, "code": order.word("code", _CODES.get(code, "")) or None}
        made = _error(script, code, inner, style)
    return made.altered(headers=_retry_after(order))


def context_length(script: Script, order: Order) -> Script:
    """The prompt is too long, in the words of OpenAI, Anthropic, vLLM or llama.cpp (`as`)."""
    style = _style(script, order, "as")
    if style == "vllm":
        message = (
            "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens "
            "(8000 in the messages, 1000 in the completion). Please reduce the length of the messages or completion."
        )
        value = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
        return Script(None, msgspec.json.encode(value), 400, dialect=script.dialect)
    if style == "llamacpp":
        message = "the request exceeds the available context size, try increasing it"
        inner: dict[str, object] = {"code": 400, "message": message, "type": "exceed_context_size_error"}
        return _error(script, 400, {**inner, "n_prompt_tokens": 9000, "n_ctx": 8192}, style)
    if style == "anthropic":
        message = "prompt is too long: 209000 tokens > 200000 maximum"
        return _error(script, 400, {"type": "invalid_request_error", "message": message}, style)
    message = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. "
        "Please reduce the length of the messages."
    )
    more = {"param": "messages", "code": "context_length_exceeded"}
    return _error(script, 400, {"message": message, "type": "invalid_request_error", **more}, style)


def content_filter(script: Script, order: Order) -> Script:
    """The prompt is refused by policy before the model sees it, as OpenAI, Azure or Anthropic say it (`as`)."""
    style = _style(script, order, "as")
    if style == "anthropic":
        message = "Output blocked by content filtering policy"
        return _error(script, 400, {"type": "invalid_request_error", "message": message}, style)
    if style == "azure":
        message = (
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
            "Please modify your prompt and retry."
        )
        found = {"hate": {"filtered": True, "severity": "high"}, "violence": {"filtered": False, "severity": "safe"}}
        deeper = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": found}
        inner: dict[str, object] = {"message": message, "type": None, "param": "prompt", "code": "content_filter"}
        return _error(script, 400, {**inner, "status": 400, "innererror": deeper}, style)
    message = "Your request was rejected as a result of our safety system."
    inner = {"message": message, "type": "invalid_request_error", "param": None, "code": "content_policy_violation"}
    return _error(script, 400, inner, style)


def redirect(script: Script, order: Order) -> Script:
    """Sends the client elsewhere: to the cloud's metadata, unless told."""
    to = order.word("to", "http://169.254.169.254/latest/meta-data/")
    return Script(None, b"", order.whole("status", 307), "text/plain", headers=(("location", to),))
