"""Grammars: masks let through what fits and nothing else; what is hostile costs little and is refused or ended."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headgate.backends.detokenize import Vocabulary
from headgate.core.errors import BadCall
from headgate.engine.grammars.grammar import CACHED_GRAMMARS, Grammars, Matcher
from headgate.engine.plan import Masks, SampleSpec, SamplingParams, StepPlan, StepResult
from headgate.engine.scheduling.sequence import Sequence
from tests.backends import folders
from tests.engine.drive import Engine, limits

TOKENIZER = folders.tokenizer()
END = TOKENIZER.get_vocab()["<|im_end|>"]
SIZE = TOKENIZER.get_vocab_size()
VOCABULARY = Vocabulary(TOKENIZER)


def grammars() -> Grammars:
    return Grammars(TOKENIZER.to_str(), vocabulary=SIZE, eos_ids=(END,))


def allowed(mask: bytes) -> set[int]:
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
    return set(np.flatnonzero(bits[:SIZE]).tolist())


def mask(matcher: Matcher) -> bytes:
    (only,) = matcher.masks()
    return only


def test_a_mask_allows_the_tokens_of_a_fitting_text_and_then_only_the_end() -> None:
    matcher = grammars().start('start: %json {"type": "object", "properties": {"n": {"type": "integer"}}}')
    for token in TOKENIZER.encode('{"n":').ids:
        assert token in allowed(mask(matcher))
        matcher.consume((token,))
    assert not allowed(mask(matcher)) & set(TOKENIZER.encode("x").ids)
    for token in TOKENIZER.encode("7}").ids:
        matcher.consume((token,))
    assert matcher.ended
    assert not matcher.failed
    assert allowed(mask(matcher)) == {END}


def test_a_token_that_does_not_fit_fails_the_matcher_for_good() -> None:
    matcher = grammars().start('start: "yes" | "no"')
    matcher.consume((TOKENIZER.encode("x").ids[0],))
    assert matcher.failed
    assert not matcher.ended


def test_matchers_of_one_grammar_are_independent() -> None:
    made = grammars()
    first, second = made.start('start: "ab"'), made.start('start: "ab"')
    first.consume((TOKENIZER.encode("a").ids[0],))
    assert allowed(mask(first)) != allowed(mask(second))


def test_what_is_wrong_or_too_large_is_refused() -> None:
    made = grammars()
    for grammar in ("", "no grammar", 'start: %json {"type": "elephant"}'):
        with pytest.raises(BadCall, match="cannot be enforced"):
            made.start(grammar)
    with pytest.raises(BadCall, match="too large"):
        made.start("start: %json " + json.dumps({"enum": ["x" * 100 + str(index) for index in range(3000)]}))


@pytest.mark.parametrize("text", ["<|im_end|>", "a<|im_start|>b", "<tool_call><|im_end|>"])
def test_a_form_may_hold_the_text_of_special_tokens(text: str) -> None:
    for grammar in (f"start: {json.dumps(text)}", f"start: A\nA: {json.dumps(text)}"):
        matcher, written = grammars().start(grammar), b""
        while not matcher.ended:
            tokens = matcher.forced() or (min(allowed(mask(matcher))),)
            matcher.consume(tokens)
            assert not matcher.failed
            written += b"".join(VOCABULARY.text(token) for token in tokens)
        assert written.decode() == text


def test_only_the_latest_grammars_are_kept() -> None:
    made = grammars()
    for index in range(CACHED_GRAMMARS + 10):
        made.start(f'start: "{index}"')
    assert len(made._kept) == CACHED_GRAMMARS


def test_a_folder_without_a_usable_tokenizer_has_no_grammars(tmp_path: Path) -> None:
    assert Grammars.read(tmp_path, vocabulary=SIZE, eos_ids=(END,)) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert Grammars.read(tmp_path, vocabulary=SIZE, eos_ids=(END,)) is None
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_str())
    assert Grammars.read(tmp_path, vocabulary=SIZE, eos_ids=()) is None
    assert Grammars.read(tmp_path, vocabulary=SIZE, eos_ids=(END,)) is not None


def chained(by: str) -> dict[str, Any]:
    """Many patterns that one string must all match."""
    patterns = [f".*{letter}.*" for letter in string.ascii_letters[:30]]
    if by == "allOf":
        return {"allOf": [{"type": "string", "pattern": pattern} for pattern in patterns]}
    if by == "anyOf":
        schema: dict[str, Any] = {"type": "string"}
        for pattern in patterns:
            schema = {"type": "string", "pattern": pattern, "anyOf": [schema]}
        return schema
    definitions = {
        f"d{index}": {"type": "string", "pattern": pattern, "$ref": f"#/$defs/d{index + 1}"}
        for index, pattern in enumerate(patterns)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{len(patterns)}": {"type": "string"}}}


@pytest.mark.parametrize("by", ["allOf", "anyOf", "$ref"])
def test_a_schema_that_would_compile_for_days_is_refused(by: str) -> None:
    """Left alone, the engine's process would be lost to everyone: the test would not end."""
    made = grammars()
    for _ in range(2):
        with pytest.raises(BadCall, match="does not compile within"):
            made.start("start: %json " + json.dumps(chained(by)))
    assert made.start('start: "yes"')


class Stubborn:
    """A runner that wants one text whatever it is told."""

    def forward(self, plan: StepPlan) -> None: ...

    def sample(self, logits: None, samples: tuple[SampleSpec, ...], masks: Masks) -> StepResult:
        return StepResult(((TOKENIZER.encode("x").ids[0],),) * len(samples), (None,) * len(samples))


@pytest.mark.parametrize(("least", "length"), [(0, 1), (1, 1), (3, 3)])
def test_a_stop_token_ends_an_answer_that_has_a_form_too(least: int, length: int) -> None:
    engine = Engine(Stubborn(), limits(vocabulary=SIZE))
    params = SamplingParams(stop_ids=(END, TOKENIZER.encode("x").ids[0]), min_tokens=least)
    engine.add(Sequence(0, (5, 6), params, max_tokens=9, constraint=grammars().start("start: /x+/")))
    engine.run()
    assert (engine.finished, len(engine.texts[0])) == ({0: "stop"}, length)


def test_a_sequence_whose_grammar_failed_ends_as_failed_and_frees_its_blocks() -> None:
    engine = Engine(Stubborn(), limits(vocabulary=SIZE))
    params = SamplingParams(stop_ids=(END,))
    engine.texts[0] = []
    constraint = grammars().start('start: "yes"')
    engine.add(Sequence(0, (5, 6), params, max_tokens=9, constraint=constraint))
    engine.run()
    assert engine.finished == {0: "failed"}
    assert engine.scheduler.pool.used == 0
