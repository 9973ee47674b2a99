"""What callers may ask of the sampler: every field arrives, every range is checked, no default of a model can harm."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.embedded_params import MAX_BIASES, choices, ends, max_tokens, sampling_params, stops
from headgate.backends.embedded_prompt import GenerationDefaults
from headgate.core.call import Call
from headgate.core.clock import SystemClock
from headgate.core.deadline import Deadline
from headgate.core.errors import BadCall
from headgate.core.request import ChatRequest, CompletionRequest
from headgate.engine.limits import Limits
from headgate.engine.plan import SamplingParams

CLOCK = SystemClock()
LIMITS = Limits(
    context_length=100, vocabulary=50, blocks=64, block_size=8, max_batch_tokens=32, max_sequences=8, max_waiting=10
)


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}
    return msgspec.json.decode(msgspec.json.encode(body), type=ChatRequest)


def completion(**fields: Any) -> CompletionRequest:
    return msgspec.convert({"model": "tiny", "prompt": "hi", **fields}, CompletionRequest)


def params(
    request: ChatRequest | CompletionRequest, defaults: GenerationDefaults | None = None, call_id: str = "req_1"
) -> SamplingParams:
    return sampling_params(
        request, defaults or GenerationDefaults(), call_id=call_id, eos_ids=(2, 0), vocabulary=LIMITS.vocabulary
    )


def allowed(request: ChatRequest, defaults: GenerationDefaults | None = None, cap: int | None = None) -> int:
    call = Call(
        id="req_1", operation="chat", dialect="openai", model="tiny", body=request, raw=b"", stream=False,
        include_usage=True, deadline=Deadline.after(CLOCK, 1), received=0.0, output_cap=cap,
    )  # fmt: skip
    return max_tokens(call, defaults or GenerationDefaults(), LIMITS, 10)


def test_without_wishes_the_whole_distribution_is_drawn_from() -> None:
    assert params(chat()) == SamplingParams(seed=params(chat()).seed, stop_ids=(2, 0))


def test_every_wish_arrives() -> None:
    asked = chat(
        temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, presence_penalty=-1.0, frequency_penalty=0.5,
        repetition_penalty=1.2, logit_bias={"7": -100}, seed=-3, logprobs=True, top_logprobs=4, stop_token_ids=[9, 2],
        min_tokens=6,
    )  # fmt: skip
    assert params(asked) == SamplingParams(
        temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, presence_penalty=-1.0, frequency_penalty=0.5,
        repetition_penalty=1.2, logit_bias={7: -100.0}, seed=-3, seeded=True, logprobs=4, stop_ids=(2, 0, 9),
        min_tokens=6,
    )  # fmt: skip


def test_only_a_callers_own_seed_binds_speculation() -> None:
    assert params(chat(seed=0)).seeded
    unseeded = params(chat())
    assert not unseeded.seeded
    assert unseeded.seed == params(chat()).seed != params(chat(), call_id="req_2").seed


def test_what_the_caller_says_goes_before_what_the_model_says() -> None:
    defaults = GenerationDefaults(temperature=0.6, top_p=0.95, top_k=20, min_p=0.02, repetition_penalty=1.05)
    of_model = params(chat(), defaults)
    assert (of_model.temperature, of_model.top_p, of_model.top_k) == (0.6, 0.95, 20)
    assert (of_model.min_p, of_model.repetition_penalty) == (0.02, 1.05)
    own = params(chat(temperature=0, top_p=1, top_k=-1, min_p=0, repetition_penalty=1), defaults)
    assert (own.temperature, own.top_p, own.top_k, own.min_p, own.repetition_penalty) == (0.0, 1.0, 0, 0.0, 1.0)
    assert params(chat(), GenerationDefaults(do_sample=False, temperature=0.6)).temperature == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_a_models_default_that_makes_no_sense_is_none(value: float) -> None:
    defaults = GenerationDefaults(temperature=value, top_p=value, min_p=value, repetition_penalty=value)
    made = params(chat(), defaults)
    assert (made.temperature, made.top_p, made.min_p, made.repetition_penalty) == (1.0, 1.0, 0.0, 1.0)
    assert params(chat(), GenerationDefaults(repetition_penalty=0.0)).repetition_penalty == 1.0


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats() | st.integers(),
            "top_k": st.integers(),
            "top_p": st.floats(),
            "min_p": st.floats(),
            "presence_penalty": st.floats(),
            "frequency_penalty": st.floats(),
            "repetition_penalty": st.floats(),
            "seed": st.integers(),
            "min_tokens": st.integers(),
            "top_logprobs": st.integers(),
            "logit_bias": st.dictionaries(st.text(max_size=3) | st.integers().map(str), st.floats(), max_size=3),
            "stop_token_ids": st.lists(st.integers(), max_size=3),
        },
    )
)
def test_whatever_is_asked_either_is_refused_or_can_be_drawn_with(fields: dict[str, Any]) -> None:
    try:
        made = params(chat(logprobs=True, **fields))
    except (BadCall, msgspec.ValidationError):
        return
    assert 0 <= made.temperature <= 2
    assert 0 <= made.top_k <= LIMITS.vocabulary
    assert 0 <= made.top_p <= 1
    assert 0 <= made.min_p <= 1
    assert made.repetition_penalty > 0
    assert all(0 <= token < LIMITS.vocabulary for token in (*made.logit_bias, *made.stop_ids))
    assert all(math.isfinite(bias) for bias in made.logit_bias.values())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=SamplingParams) == made


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"logit_bias": {"50": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(MAX_BIASES + 1)}}, "logit_bias"),
        ({"stop_token_ids": [50]}, "stop_token_ids"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadCall) as refused:
        params(chat(**fields))
    assert refused.value.param == field


@pytest.mark.parametrize("field", ["bad_words", "allowed_token_ids", "prompt_logprobs", "use_beam_search"])
def test_what_would_change_the_answer_is_not_ignored(field: str) -> None:
    for wish in (["a"], 1, 0, True):
        with pytest.raises(BadCall, match=f"{field} is not supported .*: ") as refused:
            params(chat(**{field: wish}))
        assert refused.value.param == field
    without: list[Any] = [None, False, []]
    for nothing in without:
        params(chat(**{field: nothing}))


def test_a_top_k_of_any_size_keeps_everything() -> None:
    assert params(chat(top_k=2**62)).top_k == LIMITS.vocabulary


def test_stop_tokens_end_an_answer_also_where_the_models_own_are_ignored() -> None:
    both = params(chat(stop_token_ids=[9], ignore_eos=True))
    assert (both.stop_ids, both.ignore_eos) == ((9,), False)
    assert params(chat(ignore_eos=True)).ignore_eos
    assert ends(chat(stop_token_ids=[9]), (2, 0)) == {9, 2, 0}


def test_more_tokens_than_may_come_cannot_be_the_least() -> None:
    assert allowed(chat(max_tokens=5, min_tokens=5)) == 5
    for fields in ({"max_tokens": 5, "min_tokens": 6}, {"min_tokens": 91}):
        with pytest.raises(BadCall, match="min_tokens") as refused:
            allowed(chat(**fields))
        assert refused.value.param == "min_tokens"
    assert allowed(chat(min_tokens=40), cap=20) == 20  # a budget is stronger than a wish


def test_completions_have_their_own_logprobs_and_choices_are_bounded() -> None:
    assert params(completion(logprobs=3)).logprobs == 3
    assert params(completion()).logprobs is None
    assert choices(completion(n=4), 3) == 4  # to each prompt
    with pytest.raises(BadCall, match="n x prompts"):
        choices(completion(n=100), 2)


def test_stops_are_a_text_or_several_and_bounded() -> None:
    assert stops(chat(stop="x")) == ["x"]
    assert stops(chat(stop=["x", "y"])) == ["x", "y"]
    assert stops(chat()) == []
    with pytest.raises(BadCall) as refused:
        stops(chat(stop=["x" * 2000]))
    assert refused.value.param == "stop"
