"""From a request to sampling parameters, with the model's own defaults beneath and every range checked."""

import hashlib
from typing import Protocol

from headgate.backends.embedded_prompt import GenerationDefaults
from headgate.core.call import Call
from headgate.core.errors import BadCall
from headgate.core.request import COMPLETION_TOKENS, ChatRequest, CompletionRequest, EmbeddingRequest, Sampling
from headgate.engine.limits import Limits
from headgate.engine.plan import SamplingParams

MAX_CHOICES = 128
MAX_BIASES = 1024
"""Tokens with a bias of their own: all are looked up for every token drawn."""
MAX_STOP_CHARS = 1024
"""Of one stop text: what may be its beginning is compared, and held back, at every token."""
_NOT_HERE = {
    "bad_words": "forbid single tokens with logit_bias, or say with structured_outputs.regex what may be written",
    "allowed_token_ids": "say with structured_outputs what may be written",
    "prompt_logprobs": "leave it out",
    "use_beam_search": "leave it out; temperature 0 takes the most likely token each time",
}
"""Fields of vLLM's that would change the answer, and what to do instead."""


class _HasStop(Protocol):
    @property
    def stop(self) -> str | list[str] | None: ...


def sampling_params(
    request: ChatRequest | CompletionRequest,
    defaults: GenerationDefaults,
    *,
    call_id: str,
    eos_ids: tuple[int, ...],
    vocabulary: int,
) -> SamplingParams:
    """Raises `BadCall` naming the field. A call without a seed draws from its own id."""
    for field, remedy in _NOT_HERE.items():
        given = getattr(request, field)
        if given is not None and given is not False and given != []:
            raise BadCall(f"{field} is not supported by Headgate's own engine: {remedy}.", param=field)
    own = defaults.temperature if defaults.do_sample else 0.0
    extra = tuple(request.stop_token_ids or ())
    if any(token >= vocabulary for token in extra):
        raise BadCall(f"stop_token_ids: token ids are 0 to {vocabulary - 1}.", param="stop_token_ids")
    ignored = bool(request.ignore_eos)
    return SamplingParams(
        temperature=_first(request.temperature, _within(own, 0.0, 2.0), 1.0),
        top_k=min(max(0, int(_first(request.top_k, _within(defaults.top_k, -1, vocabulary), 0))), vocabulary),
        top_p=_first(request.top_p, _within(defaults.top_p, 0.0, 1.0), 1.0),
        min_p=_first(request.min_p, _within(defaults.min_p, 0.0, 1.0), 0.0),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=_first(request.repetition_penalty, _within(defaults.repetition_penalty, 0.01, 10.0), 1.0),
        logit_bias=_logit_bias(request, vocabulary),
        seed=_seed(call_id) if request.seed is None else request.seed,
        seeded=request.seed is not None,
        logprobs=_logprobs(request),
        stop_ids=extra if ignored and extra else tuple(dict.fromkeys((*eos_ids, *extra))),
        ignore_eos=ignored and not extra,
        min_tokens=request.min_tokens or 0,
    )


def ends(request: Sampling, eos_ids: tuple[int, ...]) -> frozenset[int]:
    """Tokens that, where they end an answer, are no part of it."""
    return frozenset((*eos_ids, *(request.stop_token_ids or ())))


def stops(request: _HasStop) -> list[str]:
    """Raises `BadCall` for one that is too long."""
    if request.stop is None:
        return []
    wanted = [request.stop] if isinstance(request.stop, str) else request.stop
    if any(len(stop) > MAX_STOP_CHARS for stop in wanted):
        raise BadCall(f"A stop text may have {MAX_STOP_CHARS} characters at most.", param="stop")
    return wanted


def max_tokens(call: Call, defaults: GenerationDefaults, limits: Limits, prompt: int) -> int:
    """How many tokens may be generated after `prompt` tokens. Raises `BadCall` where they do not fit."""
    request = call.body
    if isinstance(request, EmbeddingRequest):
        return 0
    param = "messages" if isinstance(request, ChatRequest) else "prompt"
    asked = request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        if asked is not None:
            raise BadCall("Set max_tokens or max_completion_tokens, not both.", param="max_tokens")
        asked = request.max_completion_tokens
    room = limits.longest - prompt
    if room < 1:
        raise BadCall(
            f"This model's maximum context length is {limits.longest} tokens, but the prompt alone has {prompt}. "
            f"Shorten it.",
            code="context_length_exceeded",
            param=param,
        )
    most = room if asked is None else asked
    if request.min_tokens is not None and request.min_tokens > most:
        raise BadCall(
            f"min_tokens is {request.min_tokens}, but {most} tokens may be generated. "
            f"Lower it{'' if asked is None else ', or raise max_tokens'}.",
            param="min_tokens",
        )
    if asked is None:
        usual = defaults.max_new_tokens if isinstance(request, ChatRequest) else COMPLETION_TOKENS
        return min(room, usual or room, call.output_cap or room)
    if asked > room:
        raise BadCall(
            f"This model's maximum context length is {limits.longest} tokens, but {prompt + asked} were requested: "
            f"{prompt} in the {param} and {asked} to generate. Shorten the {param} or ask for fewer.",
            code="context_length_exceeded",
            param=param,
        )
    return asked


def choices(request: Sampling, prompts: int) -> int:
    """How many answers to each prompt."""
    count = request.n or 1
    if count * prompts > MAX_CHOICES:
        raise BadCall(f"n x prompts may be {MAX_CHOICES} at most, not {count * prompts}.", param="n")
    return count


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _within(value: float | None, low: float, high: float) -> float | None:
    """A model's own default, unless it makes no sense (nor does NaN)."""
    return value if value is not None and low <= value <= high else None


def _logprobs(request: ChatRequest | CompletionRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise BadCall("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return None


def _logit_bias(request: Sampling, vocabulary: int) -> dict[int, float]:
    out: dict[int, float] = {}
    if request.logit_bias is not None and len(request.logit_bias) > MAX_BIASES:
        raise BadCall(f"logit_bias may name {MAX_BIASES} tokens at most.", param="logit_bias")
    for key, bias in (request.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit()) or len(key) > 9 or int(key) >= vocabulary:
            raise BadCall(
                f"logit_bias: {key[:40]!r} is no token id; they are 0 to {vocabulary - 1}.", param="logit_bias"
            )
        out[int(key)] = bias
    return out


def _seed(call_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(call_id.encode(), digest_size=7).digest(), "big")
