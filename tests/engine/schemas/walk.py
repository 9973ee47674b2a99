"""What a model of random weights would answer under a grammar, and whether a given answer could be one."""

import itertools
import json
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import numpy as np
from jsonschema.validators import validator_for

from headgate.backends.embedded_grammar import Held, blame, completion_held_to
from headgate.core.errors import BadCall
from headgate.core.request import CompletionRequest, StructuredOutputs
from headgate.engine.grammars.grammar import Grammars, Matcher
from tests.backends import folders

TOKENIZER = folders.tokenizer()
SIZE = TOKENIZER.get_vocab_size()
END = TOKENIZER.get_vocab()["<|im_end|>"]
PATIENCE = 150
"""After so many tokens the model wants to come to an end."""
MOST_TOKENS = 1500
ORDERS = 24
"""Orders of keys tried; a grammar knows one."""


@cache
def grammars() -> Grammars:
    return Grammars(TOKENIZER.to_str(), vocabulary=SIZE, eos_ids=(END,))


def _held(schema: Any, *, closed: bool) -> Held:
    """`closed`: as it is; else properties that the schema does not name are let through at the top, as it says."""
    if not closed and "properties" in schema:
        schema = {**schema, "additionalProperties": schema.get("additionalProperties", True)}
    request = CompletionRequest(model="m", prompt="", structured_outputs=StructuredOutputs(json=schema))
    wanted = completion_held_to(request)
    assert wanted is not None
    return wanted


def held(schema: Any, *, closed: bool = True) -> Matcher:
    """A matcher at the beginning. Raises `BadCall` as a request would, where the schema cannot be enforced."""
    wanted = _held(schema, closed=closed)
    try:
        return grammars().start(wanted.grammar)
    except BadCall as error:
        raise blame(error.message, wanted) from error


def answer(matcher: Matcher, rng: random.Random) -> str | None:
    """Random tokens of those allowed, with a wish to end. None where it came to none."""
    tokens: list[int] = []
    text = ""
    while not matcher.ended and len(tokens) < MOST_TOKENS:
        (mask,) = matcher.masks()
        allowed = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[:SIZE]).tolist()
        if END in allowed and (len(allowed) == 1 or rng.random() < 0.5):
            return str(TOKENIZER.decode(tokens))
        wish = '"' if _in_string(text) else "]}"
        closing = [token for token in allowed if _letters(token)[:1] in wish]
        if closing and rng.random() < (0.3 if len(tokens) < PATIENCE else 0.95):
            allowed = closing
        token = rng.choice([token for token in allowed if token != END])
        matcher.consume((token,))
        assert not matcher.failed
        tokens.append(token)
        text += _letters(token)
    return str(TOKENIZER.decode(tokens)) if matcher.ended else None


def _in_string(text: str) -> bool:
    return (text.replace("\\\\", "").replace('\\"', "").count('"') % 2) == 1


@cache
def _letters(token: int) -> str:
    """ASCII as it is; the rest does not matter here."""
    return TOKENIZER.id_to_token(token) or "x"


def accepts(schema: Any, instance: Any) -> bool:
    """Whether the instance is let through, in some order of its keys."""
    return any(_passes(held(schema, closed=False), one) for one in _orders(instance))


def _passes(matcher: Matcher, instance: Any) -> bool:
    tokens = tuple(TOKENIZER.encode(json.dumps(instance, ensure_ascii=False)).ids)
    return matcher.fits((*tokens, END)) == len(tokens) + 1


def _orders(instance: Any) -> Iterator[Any]:
    """Of the keys of all objects, a few."""
    yield from itertools.islice(_reordered(instance), ORDERS)


def _reordered(instance: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for keys in itertools.permutations(instance):
            for values in itertools.product(*(list(itertools.islice(_reordered(instance[key]), 6)) for key in keys)):
                yield dict(zip(keys, values, strict=True))
    elif isinstance(instance, list):
        for values in itertools.product(*(list(itertools.islice(_reordered(one), 6)) for one in instance)):
            yield list(values)
    else:
        yield instance


def wrong(schema: Any, text: str) -> str | None:
    """What another validator finds wrong with an answer."""
    value = json.loads(text)
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    error = next(kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(value), None)
    return None if error is None else f"{error.message} at {list(error.path)} in {text}"
