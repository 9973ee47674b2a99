"""Lists of models as servers give them: OpenAI, vLLM, llama.cpp, Ollama, LM Studio, Groq, Mistral, Together, Google."""

from typing import Any

import msgspec

from headgate.backends.openai_answer import Undecodable
from headgate.core.errors import Upstream
from headgate.core.ports import ModelInfo

MODELS_MAX = 10_000
_CONTEXT_NAMES = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx_train")


def read_models(body: bytes) -> list[ModelInfo]:
    """Raises `Upstream` where the body is no list of models."""
    try:
        found = msgspec.json.decode(body)
    except Undecodable as error:
        raise Upstream("the model server's list of models is not JSON", code="upstream_bad_answer") from error
    entries = found
    if isinstance(found, dict):
        entries = found.get("data", found.get("models"))
        if entries is None and found.get("object") == "list":
            entries = []  # a server without any model says null
    if not isinstance(entries, list):
        raise Upstream("the model server's list of models is not one", code="upstream_bad_answer")
    models = [_model(entry) for entry in entries[:MODELS_MAX] if isinstance(entry, dict)]
    return [model for model in models if model is not None]


def _model(entry: dict[str, Any]) -> ModelInfo | None:
    names = (entry.get(key) for key in ("id", "name", "model"))
    name = next((name for name in names if isinstance(name, str) and name), None)
    if name is None or len(name) > 256 or not name.isprintable():
        return None
    created = entry.get("created")
    owner = entry.get("owned_by")
    return ModelInfo(
        id=name.removeprefix("models/"),
        created=int(created) if isinstance(created, int | float) and 0 <= created < 2**40 else 0,
        owned_by=owner[:100] if isinstance(owner, str) else "",
        context_length=_context(entry),
    )


def _context(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    for place in (entry, meta if isinstance(meta, dict) else {}):
        for name in _CONTEXT_NAMES:
            value = place.get(name)
            if type(value) is int and value > 0:
                return value
    return None
