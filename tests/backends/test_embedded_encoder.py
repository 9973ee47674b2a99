"""Our own encoders answer as OpenAI's and Cohere's endpoints do: numbers, orders, refusals in words."""

import asyncio
import base64
import json
import random
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from headgate.backends.embedded_encoder import EncoderBackend
from headgate.backends.encoder_drift import Drift, distance
from headgate.backends.encoder_texts import EncoderTexts
from headgate.core.call import Body, Call, Operation
from headgate.core.clock import SystemClock
from headgate.core.deadline import Deadline
from headgate.core.errors import BadCall, NotFound, UpstreamTimeout
from headgate.core.ids import Ids
from headgate.core.ports import Answer
from headgate.core.request import ChatRequest, EmbeddingRequest, RerankRequest
from headgate.core.target import Target
from headgate.engine.encoding.client import EncoderClient
from tests.engine import encoders

CLOCK = SystemClock()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "paris", "is", "the", "capital", "of", "france", "bananas", "are", "what"]


def write(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """A random encoder whose tokenizer knows a few words, as BERT's are published."""
    encoders.write(folder, config)
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(WORDS[:4])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=32)  # as folders have it; it must not matter
    made.enable_truncation(8)
    made.save(str(folder / "tokenizer.json"))
    return folder


class House:
    """A backend and the loop it lives in."""

    def __init__(self, loop: asyncio.Runner, backend: EncoderBackend) -> None:
        self.loop = loop
        self.backend = backend

    def open(self, kind: type[Body], operation: Operation, seconds: float = 20.0, **body: Any) -> Answer:
        raw = json.dumps({"model": "asked", **body}).encode()
        call = Call(
            id="req_1",
            operation=operation,
            dialect="openai",
            model="asked",
            body=msgspec.json.decode(raw, type=kind),
            raw=raw,
            stream=False,
            include_usage=False,
            deadline=Deadline.after(CLOCK, seconds),
            received=CLOCK.monotonic(),
        )
        return self.loop.run(self.backend.open(call, Target("embedded", self.backend.model)))

    def embed(self, **body: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.open(EmbeddingRequest, "embedding", **body).body or b"")
        return found

    def rank(self, query: str, documents: list[Any], **body: Any) -> dict[str, Any]:
        answer = self.open(RerankRequest, "rerank", query=query, documents=documents, **body)
        found: dict[str, Any] = json.loads(answer.body or b"")
        assert answer.usage is not None
        assert answer.usage.input == found["usage"]["total_tokens"]
        return found

    def vectors(self, **body: Any) -> list[list[float]]:
        return [entry["embedding"] for entry in self.embed(**body)["data"]]


def housed(folder: Path) -> Iterator[House]:
    with asyncio.Runner() as loop:
        engine = loop.run(EncoderClient.start(folder, clock=CLOCK))
        backend = EncoderBackend("embedded", engine, clock=CLOCK, ids=Ids(CLOCK, random.Random(1)))
        yield House(loop, backend)
        loop.run(backend.aclose())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from housed(write(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from housed(write(tmp_path_factory.mktemp("ranker"), encoders.BERT_RANKER))


def test_each_kind_of_input_gives_one_vector_per_text(house: House) -> None:
    one = house.vectors(input="paris is")
    assert len(one) == 1
    assert len(one[0]) == 32
    assert sum(number**2 for number in one[0]) == pytest.approx(1.0, abs=1e-5)
    assert house.vectors(input=["paris is", "bananas"])[0] == pytest.approx(one[0], abs=1e-5)
    assert house.vectors(input=[2, 4, 5, 3])[0] == pytest.approx(one[0], abs=1e-5)  # ids as they are
    assert house.vectors(input=[[2, 4, 5, 3], [2, 3]])[0] == pytest.approx(one[0], abs=1e-5)


def test_the_answer_is_openais_list_with_usage(house: House) -> None:
    answer = house.embed(input=["paris", "bananas are"])
    assert (answer["object"], answer["model"]) == ("list", "asked")
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_base64_holds_the_same_numbers(house: House) -> None:
    packed = house.embed(input="paris", encoding_format="base64")["data"][0]["embedding"]
    assert array("f", base64.b64decode(packed)).tolist() == house.vectors(input="paris")[0]


def test_fewer_dimensions_are_the_first_ones_made_one_long_again(house: House) -> None:
    (whole,), (cut,) = house.vectors(input="paris"), house.vectors(input="paris", dimensions=4)
    length = sum(number**2 for number in whole[:4]) ** 0.5
    assert cut == pytest.approx([number / length for number in whole[:4]], abs=1e-6)


@pytest.mark.parametrize(
    ("body", "words", "param"),
    [
        ({"input": "is " * 63}, "64 tokens, but an input has 65", "input"),
        ({"input": ["is", ""]}, "a text is empty", "input"),
        ({"input": [1, 101]}, "between 0 and 100", "input"),
        ({"input": "is", "dimensions": 33}, "32 dimensions; 33", "dimensions"),
        ({"input": ["is"] * 2049}, "2049 texts; 2048", "input"),
        ({"input": "is", "truncate_prompt_tokens": 2}, "at least 3", "truncate_prompt_tokens"),
    ],
)
def test_what_the_model_cannot_take_is_refused_with_the_numbers(
    house: House, body: dict[str, Any], words: str, param: str
) -> None:
    with pytest.raises(BadCall, match=words) as refused:
        house.embed(**body)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_long_texts_are_cut_where_that_is_asked_for(house: House) -> None:
    answer = house.embed(input=["is " * 200, "paris"], truncate_prompt_tokens=-1)
    assert answer["usage"]["prompt_tokens"] == 64 + 3
    assert house.vectors(input="paris the of", truncate_prompt_tokens=4) == house.vectors(input="paris the")
    assert house.vectors(input=[2, 4, 5, 3], truncate_prompt_tokens=3) == house.vectors(input=[2, 4, 5])


def test_special_tokens_written_in_a_text_are_plain_text(house: House) -> None:
    assert house.embed(input="[SEP]")["usage"]["prompt_tokens"] > 3
    assert house.vectors(input="[SEP]") != house.vectors(input=[2, 3, 3])


def test_many_texts_come_back_in_their_order(house: House) -> None:
    texts = [" ".join(random.Random(seed).choices(WORDS[4:], k=1 + seed % 9)) for seed in range(300)]
    found = house.vectors(input=texts)
    assert found[7] == pytest.approx(house.vectors(input=texts[7])[0], abs=1e-5)
    assert found[299] == pytest.approx(house.vectors(input=texts[299])[0], abs=1e-5)


def test_documents_are_ranked_by_likeness_where_there_is_no_cross_encoder(house: House) -> None:
    documents = ["bananas are", {"text": "paris is the capital"}, "the capital of france is paris"]
    answer = house.rank("paris is the capital", documents, return_documents=True)
    assert answer["results"][0]["index"] == 1
    assert answer["results"][0]["relevance_score"] == pytest.approx(1.0, abs=1e-5)
    assert answer["results"][0]["document"] == {"text": "paris is the capital"}
    scores = [item["relevance_score"] for item in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    (query, *texts) = house.vectors(input=["paris is the capital", "bananas are"])
    bananas = next(item for item in answer["results"] if item["index"] == 0)
    assert bananas["relevance_score"] == pytest.approx(sum(map(float.__mul__, query, texts[0])), abs=1e-5)


def test_a_cross_encoder_reads_query_and_document_together(ranker: House) -> None:
    documents = ["bananas are", "paris is the capital", "of " * 500]
    answer = ranker.rank("what is the capital", documents)
    assert len(answer["results"]) == 3
    assert all(0 <= item["relevance_score"] <= 1 and "document" not in item for item in answer["results"])
    assert answer["id"].startswith("rank_")
    top = ranker.rank("what is the capital", documents, top_n=1)["results"]
    assert top == answer["results"][:1]
    short = ranker.rank("what is", ["the " * 40], max_tokens_per_doc=5)
    assert short["usage"]["total_tokens"] == 3 + 2 + 5
    with pytest.raises(BadCall, match=r"query has 100 tokens; this model takes 60") as refused:
        ranker.rank("what " * 100, ["a"])
    assert refused.value.param == "query"


def test_a_pair_is_told_apart_by_its_segments(tmp_path: Path) -> None:
    texts = EncoderTexts(write(tmp_path))
    request = RerankRequest(model="m", query="what is", documents=["paris", "the the the the"])
    pairs = texts.pairs(request, 9)
    assert [(pair.tokens, pair.second) for pair in pairs] == [
        ((2, 12, 5, 3, 4, 3), 4),
        ((2, 12, 5, 3, 6, 6, 6, 6, 3), 4),
    ]
    assert [len(pair.tokens) for pair in texts.pairs(request, 7)] == [6, 7]


def test_what_a_model_is_not_made_for_is_refused_in_words(house: House, ranker: House) -> None:
    with pytest.raises(BadCall, match="use /v1/rerank"):
        ranker.embed(input="paris")
    with pytest.raises(BadCall, match="cannot write text"):
        house.open(ChatRequest, "chat", messages=[{"role": "user", "content": "hi"}])
    house.backend.model, kept = "other", house.backend.model
    call = Call(
        id="r", operation="embedding", dialect="openai", model="m", raw=b"",
        body=EmbeddingRequest(model="m", input="a"),
        stream=False, include_usage=False, deadline=Deadline.after(CLOCK, 5), received=0.0,
    )  # fmt: skip
    try:
        with pytest.raises(NotFound):
            house.loop.run(house.backend.open(call, Target("embedded", kept)))
    finally:
        house.backend.model = kept


def test_a_call_whose_time_is_up_ends_and_takes_its_work_along(house: House) -> None:
    with pytest.raises(UpstreamTimeout):
        house.open(EmbeddingRequest, "embedding", 0.001, input=["is the capital of france"] * 2000)
    assert house.backend.engine.in_flight == 0


def test_probes_prove_that_the_numbers_are_still_the_same(house: House) -> None:
    health = house.loop.run(house.backend.probe())
    assert health.ok, health.detail
    assert house.loop.run(house.backend.probe()).ok
    other = Drift()
    other.seen(array("f", [1.0] * 32).tobytes())
    house.backend.drift, kept = other, house.backend.drift
    health = house.loop.run(house.backend.probe())
    house.backend.drift = kept
    assert not health.ok
    assert "other numbers" in health.detail


def test_rankers_are_probed_too(ranker: House) -> None:
    assert ranker.loop.run(ranker.backend.probe()).ok
    (info,) = ranker.loop.run(ranker.backend.models())
    assert info.context_length == 64


# Drift


def numbers(*values: float) -> bytes:
    return array("f", values).tobytes()


def test_a_model_that_changed_since_the_last_start_is_told_of_until_the_record_is_taken_away(tmp_path: Path) -> None:
    record, told = tmp_path / "deep" / "vectors.json", list[float]()
    for vector, distances in ((numbers(0.6, 0.8), 0), (numbers(0.6001, 0.8), 0), (numbers(0.8, 0.6), 1)):
        Drift(record, told.append).seen(vector)
        assert len(told) == distances
    assert told[0] == pytest.approx(0.2828, abs=1e-3)
    again = Drift(record, told.append)
    again.seen(numbers(0.8, 0.6))
    assert (len(told), again.distance > 0.01) == (2, True)
    record.unlink()
    Drift(record, told.append).seen(numbers(0.8, 0.6))
    assert len(told) == 2


def test_a_damaged_record_is_written_anew(tmp_path: Path) -> None:
    record, told = tmp_path / "vectors.json", list[float]()
    for content in (b"", b"{", b"[]", b'{"vector": "!"}', b"\xff" * 10):
        record.write_bytes(content)
        Drift(record, told.append).seen(numbers(1.0, 0.0))
        Drift(record, told.append).seen(numbers(1.0, 0.0))
    assert told == []


def test_where_the_record_cannot_be_kept_that_is_told_and_the_encoder_serves(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = list[OSError]()
    drift = Drift(tmp_path / "file" / "vectors.json", unkept=told.append)
    assert drift.seen(numbers(1.0, 0.0)), "it is the first"
    assert drift.seen(numbers(1.0, 0.0))
    assert not drift.seen(numbers(0.0, 1.0))
    assert len(told) == 1


def test_vectors_of_other_sizes_are_infinitely_far() -> None:
    assert distance(array("f", [1]), array("f", [1, 2])) == float("inf")
    assert distance(array("f", [0]), array("f", [0])) == 0.0


# Folders


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (lambda f: (f / "config_sentence_transformers.json").write_text("["), "config_sentence_transformers"),
        (
            lambda f: (f / "config_sentence_transformers.json").write_text('{"default_prompt_name": "q"}'),
            "default_prompt_name 'q'",
        ),
    ],
)
def test_a_text_side_that_cannot_be_used_is_named(tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(write(tmp_path))
    with pytest.raises(ValueError, match=words):
        EncoderTexts(tmp_path).load()


def test_the_folders_own_prompt_stands_before_every_text(tmp_path: Path) -> None:
    write(tmp_path)
    config = {"prompts": {"q": "paris is "}, "default_prompt_name": "q"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(config))
    texts = EncoderTexts(tmp_path)
    assert texts.embedded(EmbeddingRequest(model="m", input="the"), 64)[0].tokens == (2, 4, 5, 6, 3)
