"""Endpoints other than chat: completions, embeddings, models, keys, health, the description."""

import json
from collections.abc import Iterator

import pytest

from headgate.api.build import ROUTES
from headgate.core.events import Finish, Text, TokenLogprob
from headgate.core.usage import Usage
from tests.api.house import ADMIN, House, script


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        yield house


def complete(house: House, model: str = "hello", **fields: object) -> object:
    return house.ask("POST", "/v1/completions", {"model": model, "prompt": "a", **fields})


def test_a_completion_has_the_documented_shape(house: House) -> None:
    body = house.ask("POST", "/v1/completions", {"model": "hello", "prompt": "a"}).json()
    assert (body["object"], body["model"]) == ("text_completion", "hello")
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"]["total_tokens"] == 5


def test_a_completion_streams(house: House) -> None:
    answer = house.ask(
        "POST",
        "/v1/completions",
        {"model": "hello", "prompt": "a", "stream": True, "stream_options": {"include_usage": True}},
    )
    assert answer.frames[-1] == "[DONE]"
    assert [c["choices"][0]["text"] for c in answer.chunks[:-1]] == ["Hel", "lo", ""]
    assert [c["choices"][0]["finish_reason"] for c in answer.chunks[:-1]] == [None, None, "stop"]
    assert {c["object"] for c in answer.chunks} == {"text_completion"}
    assert [c["usage"] is None for c in answer.chunks] == [True, True, True, False]


def test_the_log_probabilities_of_a_completion_say_where_each_token_stands(house: House) -> None:
    def token(text: str, *top: TokenLogprob) -> TokenLogprob:
        return TokenLogprob(text, -1.0, tuple(text.encode()), top)

    house.gateway.answers["logs"] = script(
        Text("ab", 0, (token("a", token("a"), token("z")), token("b"))), Text("c", 0, (token("c"),)), Finish("stop")
    )
    body = house.ask("POST", "/v1/completions", {"model": "logs", "prompt": "a", "logprobs": 2}).json()
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [-1.0, -1.0, -1.0],
        "top_logprobs": [{"a": -1.0, "z": -1.0}, {}, {}],
        "text_offset": [0, 1, 2],
    }
    chunks = house.ask("POST", "/v1/completions", {"model": "logs", "prompt": "a", "stream": True}).chunks
    assert [c["choices"][0]["logprobs"] and c["choices"][0]["logprobs"]["text_offset"] for c in chunks] == [
        [0, 1],
        [2],
        None,
    ]


def test_tokens_that_share_a_character_stand_at_its_place(house: House) -> None:
    def part(*given: int) -> TokenLogprob:
        return TokenLogprob(bytes(given).decode("utf-8", "replace"), -1.0, given)

    smile = (part(0xF0, 0x9F), part(0x99), part(0x82))
    house.gateway.answers["smile"] = script(
        Text("a", 0, (part(0x61),)), Text("🙂b", 0, (*smile, part(0x62))), Text("c", 0, (part(0x63),)), Finish("stop")
    )
    body = {"model": "smile", "prompt": "a", "logprobs": 0}
    (whole,) = house.ask("POST", "/v1/completions", body).json()["choices"]
    assert whole["logprobs"]["text_offset"] == [0, 1, 1, 1, 2, 3]
    chunks = house.ask("POST", "/v1/completions", {**body, "stream": True}).chunks
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [at for one in streamed if one for at in one["text_offset"]] == [0, 1, 1, 1, 2, 3]


def test_an_embedding_passes_as_the_backend_gave_it(house: House) -> None:
    house.gateway.answers["vectors"] = b'{"object":"list","data":[]}'
    answer = house.ask("POST", "/v1/embeddings", {"model": "vectors", "input": ["a"]})
    assert (answer.status, answer.body) == (200, b'{"object":"list","data":[]}')
    assert house.gateway.calls[-1].operation == "embedding"
    # a chat model's stream is no embedding
    assert house.ask("POST", "/v1/embeddings", {"model": "hello", "input": "a"}).status == 500


def test_models_are_listed_and_found_even_with_a_slash(house: House) -> None:
    listed = house.ask("GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert listed["data"][0] == {"id": "hello", "object": "model", "created": 5, "owned_by": "headgate"}
    for path in ("/v1/models/org/model", "/v1/models/org%2Fmodel"):
        assert house.ask("GET", path).json()["id"] == "org/model"
    missing = house.ask("GET", "/v1/models/none")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")
    assert house.ask("GET", "/v1/models", key=None).status == 401


def test_a_key_is_made_shown_once_listed_and_revoked(house: House) -> None:
    spec = {"name": "ci", "tenant": "a", "models": ["gpt-*"], "limits": {"requests_per_minute": 5}}
    made = house.ask("POST", "/admin/keys", spec, ADMIN).json()
    assert (made["object"], made["key"], made["name"]) == ("headgate.key", "hg-abc-whole-key", "ci")
    assert made["limits"] == {"requests_per_minute": 5, "tokens_per_minute": None, "concurrency": None}
    shown = house.ask("GET", f"/admin/keys/{made['id']}", key=ADMIN).json()
    assert "key" not in shown
    assert {**shown, "key": made["key"]} == made
    assert house.ask("GET", "/admin/keys", key=ADMIN).json() == {"object": "list", "data": [shown]}
    deleted = house.ask("DELETE", f"/admin/keys/{made['id']}", key=ADMIN).json()
    assert deleted == {"id": made["id"], "object": "headgate.key.deleted", "deleted": True}
    for method in ("GET", "DELETE"):
        assert house.ask(method, f"/admin/keys/{made['id']}", key=ADMIN).status == 404


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        ({"name": 5}, "name"),
        ({"scopes": ["root"]}, "scopes[0]"),
        ({"limits": {"requests_per_minute": "many"}}, "limits.requests_per_minute"),
    ],
)
def test_a_bad_key_is_refused_by_field(house: House, spec: object, param: str) -> None:
    answer = house.ask("POST", "/admin/keys", spec, ADMIN)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_an_unknown_field_of_a_key_is_refused(house: House) -> None:
    answer = house.ask("POST", "/admin/keys", {"role": "owner"}, ADMIN)
    assert answer.status == 400
    assert "role" in answer.error["message"]


def test_health_needs_no_key(house: House) -> None:
    assert house.ask("GET", "/livez", key=None).json() == {"status": "live"}
    assert house.ask("GET", "/readyz", key=None).json() == {"status": "ready", "detail": {"engine": "ok"}}
    house.ready = (False, {"engine": "loading"})
    answer = house.ask("GET", "/readyz", key=None)
    house.ready = (True, {})
    assert (answer.status, answer.json()["status"]) == (503, "not ready")
    metrics = house.ask("GET", "/metrics", key=None)
    assert metrics.headers["content-type"].startswith("text/plain")
    assert metrics.body == b"up 1\n"


def test_the_description_lists_every_route_and_resolves(house: House) -> None:
    description = house.ask("GET", "/openapi.json", key=None).json()
    listed = {(method, path) for path, methods in description["paths"].items() for method in methods}
    assert listed == {(route.method.lower(), route.path) for route in ROUTES} | {("get", "/openapi.json")}
    text = json.dumps(description)
    schemas = description["components"]["schemas"]
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas
    chat = description["paths"]["/v1/chat/completions"]["post"]
    assert chat["security"] == [{"key": []}]
    assert "text/event-stream" in chat["responses"]["200"]["content"]
    assert description["paths"]["/livez"]["get"]["security"] == []


def test_every_route_asks_for_the_key_it_says(house: House) -> None:
    for route in ROUTES:
        path = route.path.replace("{id}", "hello")
        nobody = house.ask(route.method, path, {} if route.takes else None, None)
        assert nobody.status == 401 or route.scope is None
        user = house.ask(route.method, path, {} if route.takes else None)
        assert (user.status == 403) == (route.scope == "admin")


def test_cached_and_reasoning_tokens_are_shown(house: House) -> None:
    house.gateway.answers["count"] = script(Text("a"), Finish("stop"), Usage(input=9, cached=4, output=7, reasoning=5))
    usage = house.chat("count").json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 5}
