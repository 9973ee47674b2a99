"""Which form a request asks its answer to have: OpenAI's `response_format`, or vLLM's fields, in both spellings."""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from headgate.core.errors import BadCall
from headgate.core.request import ChatRequest, CompletionRequest, StructuredOutputs

Kind = Literal["json", "regex", "choice", "grammar"]
VLLM = "structured_outputs"


class Wish(Struct, frozen=True):
    """One form that was asked for."""

    kind: Kind
    value: Any
    """A schema, a pattern, a list of texts, or a grammar's text."""
    param: str
    """The field that it came from."""
    strict: bool
    """The caller wants an error rather than an answer that is not held to all of it."""


def wish(request: ChatRequest | CompletionRequest) -> Wish | None:
    """None where the answer is free. Raises `BadCall` for a form that is incomplete, and for more than one."""
    wishes = list(_wishes(request))
    if len(wishes) > 1:
        first, second, *_ = (one.param for one in wishes)
        raise BadCall(f"An answer has one form: set {first} or {second}, not both.", param=second)
    return wishes[0] if wishes else None


def _wishes(request: ChatRequest | CompletionRequest) -> Iterator[Wish]:
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_object":
        yield Wish("json", {"type": "object"}, "response_format", False)
    elif wanted is not None and wanted.type == "json_schema":
        given = wanted.json_schema
        if given is None:
            raise BadCall("response_format.json_schema is missing.", param="response_format.json_schema")
        schema = {"type": "object"} if given.schema_ is None else given.schema_
        yield Wish("json", schema, "response_format.json_schema.schema", bool(given.strict))
    if request.structured_outputs is not None:
        given_forms = list(_vllm(request.structured_outputs))
        if not given_forms:
            raise BadCall(f"{VLLM} needs one of json, regex, choice, grammar and json_object.", param=VLLM)
        yield from given_forms
    if request.guided_json is not None:
        yield Wish("json", _schema(request.guided_json, "guided_json"), "guided_json", True)
    if request.guided_regex is not None:
        yield Wish("regex", request.guided_regex, "guided_regex", True)
    if request.guided_choice is not None:
        yield Wish("choice", _choice(request.guided_choice, "guided_choice"), "guided_choice", True)
    if request.guided_grammar is not None:
        yield Wish("grammar", request.guided_grammar, "guided_grammar", True)


def _vllm(given: StructuredOutputs) -> Iterator[Wish]:
    if given.structural_tag is not None:
        raise BadCall(
            f"{VLLM}.structural_tag is not supported: use tools, or {VLLM}.grammar.", param=f"{VLLM}.structural_tag"
        )
    if given.json is not None:
        yield Wish("json", _schema(given.json, f"{VLLM}.json"), f"{VLLM}.json", True)
    if given.regex is not None:
        yield Wish("regex", given.regex, f"{VLLM}.regex", True)
    if given.choice is not None:
        yield Wish("choice", _choice(given.choice, f"{VLLM}.choice"), f"{VLLM}.choice", True)
    if given.grammar is not None:
        yield Wish("grammar", given.grammar, f"{VLLM}.grammar", True)
    if given.json_object:
        yield Wish("json", {"type": "object"}, f"{VLLM}.json_object", True)


def _schema(given: dict[str, Any] | str, param: str) -> dict[str, Any]:
    if isinstance(given, dict):
        return given
    try:
        return msgspec.json.decode(given, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadCall(f"{param} is no JSON object: {error}.", param=param) from error


def _choice(given: list[str], param: str) -> list[str]:
    if not given:
        raise BadCall(f"{param} is empty: it lists the texts to choose from.", param=param)
    return given
