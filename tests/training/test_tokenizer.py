"""Tokenizer and packing: nothing is lost between text and ids, and only what the assistant says is learnt."""

import random
from itertools import islice

import pytest
from tokenizers import Tokenizer

from headgate.training import bpe
from headgate.training.mixture import SKILLS, draw, stream
from headgate.training.packing import LONGEST, Packer
from headgate.training.template import render_prompt, render_whole


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bpe.build(seed=3, vocabulary=900, examples=600)


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def test_the_same_seed_builds_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    assert bpe.build(seed=3, vocabulary=900, examples=600).to_str() == tokenizer.to_str()
    assert tokenizer.get_vocab_size() == 900


@pytest.mark.parametrize("skill", sorted(SKILLS))
def test_every_example_comes_back_from_its_ids_unchanged(tokenizer: Tokenizer, skill: str) -> None:
    rng = random.Random(8)
    for _ in range(60):
        text = render_whole(draw(skill, rng, "train"))
        assert tokenizer.decode(plain(tokenizer, text), skip_special_tokens=False) == text


def test_any_unicode_text_comes_back_from_its_ids_unchanged(tokenizer: Tokenizer) -> None:
    for text in (
        "naïve café",
        "日本語のテキスト",
        "👩‍👩‍👧 🇪🇺",
        "\t tabs \r\n and  spaces ",
        "مرحبا",
        "\x00\x7f",
        "Ωμέγα ﬁ ǅ",
        "1234567890",
    ):
        assert tokenizer.decode(plain(tokenizer, text), skip_special_tokens=False) == text


def test_digits_stand_alone_and_a_word_is_the_same_tokens_in_a_sentence_and_in_json(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([token]) for token in plain(tokenizer, "2026")] == list("2026")
    word = plain(tokenizer, "Brodalo")
    assert plain(tokenizer, "in Brodalo?")[-1 - len(word) : -1] == word
    quoted = plain(tokenizer, '{"city": "Brodalo"}')
    assert any(quoted[at : at + len(word)] == word for at in range(len(quoted)))


def test_marks_of_the_template_are_one_token_each(tokenizer: Tokenizer) -> None:
    for mark in (*bpe.SPECIALS, *bpe.MARKS):
        assert plain(tokenizer, mark) == [tokenizer.token_to_id(mark)]


def test_what_is_learnt_is_every_assistant_turn_with_its_end_and_nothing_else(tokenizer: Tokenizer) -> None:
    packer = Packer(tokenizer)
    for example in islice(stream(6), 80):
        row = packer.row(example)
        learnt = tokenizer.decode(
            [token for token, yes in zip(row.ids, row.learnt, strict=True) if yes], skip_special_tokens=False
        )
        said = [turn for turn in (*example.turns, example.answer) if turn.role == "assistant"]
        text = "".join(render_whole(example.__class__("", (), turn)) for turn in said)
        assert learnt == text.replace("<|im_start|>assistant\n", "").replace("<|im_end|>\n", "<|im_end|>")


def test_the_prompt_is_the_beginning_of_the_training_text_in_ids_too(tokenizer: Tokenizer) -> None:
    for example in islice(stream(9), 80):
        prompt, whole = plain(tokenizer, render_prompt(example)), plain(tokenizer, render_whole(example))
        assert whole[: len(prompt)] == prompt


def test_batches_hold_every_target_and_no_more_tokens_than_asked_for(tokenizer: Tokenizer) -> None:
    packer = Packer(tokenizer)
    steps = list(islice(packer.steps(stream(2), random.Random(1), micro=LONGEST, batches=3), 4))
    assert all(len(batches) == 3 for batches in steps)
    for batch in (batch for batches in steps for batch in batches):
        assert sum(map(len, batch.ids)) <= LONGEST
        for ids, targets, said, asked in zip(batch.ids, batch.targets, batch.said, batch.asked, strict=True):
            real = sum(said) + sum(asked)
            assert targets[: real - 1] == ids[1:real]
            assert any(said)
            assert [one + other for one, other in zip(said, asked, strict=True)] == [1] * real + [0] * (len(ids) - real)
