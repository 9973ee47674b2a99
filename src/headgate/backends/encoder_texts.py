"""An encoder's text side: texts and pairs become token ids, with the special tokens that the model was trained with.

Special tokens written out in a text (such as `[SEP]`) are read as plain text: nobody can end a query early.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import msgspec
from msgspec import Struct
from tokenizers import Encoding, Tokenizer

from headgate.core.errors import BadCall
from headgate.core.request import EmbeddingRequest, RerankRequest, prompts
from headgate.engine.encoder_wire import Text


class _Prompts(Struct):
    """Of `config_sentence_transformers.json`: what stands before every text."""

    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None


class EncoderTexts:
    """The tokenizer of one folder, read by `load` or when it is needed first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> None:
        """Raises `ValueError` where the folder's files cannot be used."""
        _ = self._tokenizer, self._prefix

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{path} is missing: the engine needs the tokenizer in this form")
        try:
            found = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise ValueError(f"{path}: {error}") from error
        found.no_padding()
        found.no_truncation()
        found.encode_special_tokens = True
        return found

    @cached_property
    def _single(self) -> int:
        """Special tokens around a text."""
        return self._tokenizer.num_special_tokens_to_add(is_pair=False)

    @cached_property
    def _pair(self) -> int:
        """Special tokens around and between two."""
        return self._tokenizer.num_special_tokens_to_add(is_pair=True)

    @cached_property
    def _prefix(self) -> str:
        return _prefix(self._folder)

    def embedded(self, request: EmbeddingRequest, longest: int) -> list[Text]:
        """One for each text or list of ids, which are taken as they are. Texts are cut only where that is asked for."""
        given = prompts(request.input, "input")
        cut = request.truncate_prompt_tokens
        most = None if cut is None else longest if cut == -1 else min(cut, longest)
        if most is not None and most <= self._single:
            raise BadCall(
                f"truncate_prompt_tokens must leave room for a token: at least {self._single + 1}.",
                param="truncate_prompt_tokens",
            )
        if "" in given:
            raise BadCall("There is nothing to embed: a text is empty.", param="input", code="invalid_value")
        texts = [self._prefix + text for text in given if isinstance(text, str)]
        found = iter(self._tokenizer.encode_batch(texts, add_special_tokens=most is None))
        out = []
        for item in given:
            if isinstance(item, list):
                out.append(Text(tuple(item[:most])))
                continue
            encoding = next(found)
            if most is not None:
                encoding.truncate(most - self._single)
                encoding = self._tokenizer.post_process(encoding)
            out.append(Text(tuple(encoding.ids)))
        return out

    def pairs(self, request: RerankRequest, longest: int) -> list[Text]:
        """The query with each document, which is cut where both do not fit. Raises `BadCall` for too long a query."""
        query = self._tokenizer.encode(request.query, add_special_tokens=False)
        room = longest - self._pair - len(query.ids)
        if room < 1:
            raise _too_long(len(query.ids), longest - self._pair - 1)
        return [_pair(self._tokenizer.post_process(query, document)) for document in self._documents(request, room)]

    def apart(self, request: RerankRequest, longest: int) -> list[Text]:
        """The query, then each document, which is cut where it does not fit: for models that make vectors."""
        query = self._tokenizer.encode(self._prefix + request.query)
        if len(query.ids) > longest:
            raise _too_long(len(query.ids) - self._single, longest - self._single)
        documents = self._documents(request, longest - self._single, self._prefix)
        return [Text(tuple(query.ids)), *(Text(tuple(self._tokenizer.post_process(one).ids)) for one in documents)]

    def _documents(self, request: RerankRequest, room: int, prefix: str = "") -> list[Encoding]:
        texts = [prefix + text for text in request.texts]
        found: list[Encoding] = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        for encoding in found:
            encoding.truncate(min(room, request.max_tokens_per_doc or room))
        return found


def _pair(encoding: Encoding) -> Text:
    types: Sequence[int] = encoding.type_ids
    return Text(tuple(encoding.ids), types.index(1) if 1 in types else None)


def _too_long(query: int, room: int) -> BadCall:
    return BadCall(
        f"The query has {query} tokens; this model takes {room}. Shorten it.",
        code="context_length_exceeded",
        param="query",
    )


def _prefix(folder: Path) -> str:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return ""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_Prompts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    if config.default_prompt_name is None:
        return ""
    if config.default_prompt_name not in config.prompts:
        raise ValueError(f"{path}: default_prompt_name {config.default_prompt_name!r} is none of its prompts")
    return config.prompts[config.default_prompt_name]
