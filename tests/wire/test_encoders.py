"""The model of the extra `embeddings` behind a real server without settings: OpenAI's own client, and rerankers'."""

import json
from collections.abc import Iterator

import openai
import pytest

from tests.live import Live, serving
from tests.upstream.process import upstream

MODEL = "all-minilm-l6-v2"
TEXTS = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again in March."]
CONFIG = """
discover: false
engine: {{enabled: false}}
backends: [{{name: up, base_url: "{upstream}"}}]
routes: [{{model: "*", targets: [{{backend: up}}]}}]
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("encoders"), "discover: false\n") as live:
        yield live


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live.api, api_key=live.key, max_retries=0) as client:
        yield client


def likeness(one: list[float], other: list[float]) -> float:
    return sum(map(float.__mul__, one, other))


def test_the_model_is_offered_and_sleeps_until_it_is_asked(live: Live, client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    engines = json.loads(live.get("/readyz")[1])["detail"]["embedded"]
    assert engines[MODEL]["state"] == "asleep"
    client.embeddings.create(model=MODEL, input="wake up")
    engines = json.loads(live.get("/readyz")[1])["detail"]["embedded"]
    assert engines[MODEL]["state"] == "ready"


def test_openais_client_gets_vectors_whose_nearness_is_that_of_the_meanings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS)  # the SDK asks for base64 and unpacks it
    vectors = [entry.embedding for entry in answer.data]
    assert [len(vector) for vector in vectors] == [384] * 3
    assert likeness(vectors[0], vectors[0]) == pytest.approx(1.0, abs=1e-4)
    assert likeness(vectors[0], vectors[1]) > 0.4 > likeness(vectors[0], vectors[2])
    plain = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert plain.data[2].embedding == pytest.approx(vectors[2], abs=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == plain.usage.total_tokens == 27
    short = client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=64).data[0].embedding
    assert len(short) == 64
    assert likeness(short, short) == pytest.approx(1.0, abs=1e-4)


def test_openais_client_reads_what_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model=MODEL, input="word " * 300)
    assert refused.value.code == "context_length_exceeded"
    assert "256 tokens" in refused.value.message
    assert "302" in refused.value.message
    for empty in ("", ["a", ""]):
        with pytest.raises(openai.BadRequestError, match="empty"):
            client.embeddings.create(model=MODEL, input=empty)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="text-embedding-3-small", input="no such name is pretended")


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_are_put_in_order(live: Live, path: str) -> None:
    body = {"model": MODEL, "query": "small feline animal", "documents": TEXTS, "top_n": 2, "return_documents": True}
    status, answer = live.post(path, body)
    found = json.loads(answer)
    assert status == 200, answer
    assert sorted(item["index"] for item in found["results"]) == [0, 1]
    assert all(item["document"]["text"] == TEXTS[item["index"]] for item in found["results"])
    assert found["results"][0]["relevance_score"] >= found["results"][1]["relevance_score"] > 0
    assert found["usage"]["total_tokens"] > 27


def test_a_ranking_of_an_upstream_passes_and_is_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    with upstream(models="ok") as url:
        with serving(tmp_path_factory.mktemp("forward"), CONFIG.format(upstream=url)) as live:
            status, answer = live.post("/v1/rerank", {"model": "ok", "query": "q", "documents": ["a", {"text": "b"}]})
            assert (status, [item["index"] for item in json.loads(answer)["results"]]) == (200, [1, 0])
            page = live.get("/metrics")[1].decode()
            assert 'operation="rerank"' in page
            assert 'headgate_tokens_total{kind="input",model="ok",tenant="default"} 6.0' in page
            for bad in ({"query": " ", "documents": ["a"]}, {"query": "q", "documents": []}, {"query": "q"}):
                status, answer = live.post("/v1/rerank", {"model": "ok", **bad})
                assert (status, json.loads(answer)["error"]["param"] in {"query", "documents"}) == (400, True)
