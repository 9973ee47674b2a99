"""The tokenizer as grammars need it: where a form holds the text of a special token, that is text like any other.

llguidance encodes the text that a form forces with the tokenizer itself, which makes one special token of `<|im_end|>`
or `<s>`; that token is not the text, so nothing could follow. Here special tokens have names that no text contains.
"""

import json
import re
from typing import Any

_MARK = "\ufdd0"
"""Unicode reserves it for internal use; prompts cannot contain it either."""
_MARKUP = re.compile(r"<.*>", re.DOTALL)
"""What was added to a vocabulary under such a name is special to llguidance whatever the tokenizer says."""


def without_special_text(tokenizer_json: str) -> str:
    """The same tokenizer with the same ids, which finds no special tokens in texts. Raises `ValueError` for no JSON."""
    made: Any = json.loads(tokenizer_json)
    added = made.get("added_tokens") if isinstance(made, dict) else None
    apart = [one for one in added or () if one["special"] or _MARKUP.fullmatch(one["content"])]
    if not apart:
        return tokenizer_json
    names = {one["content"]: _MARK + one["content"] for one in apart}
    for one in apart:
        one["content"], one["special"] = names[one["content"]], True
    model = made["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(name, name): index for name, index in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(name, name), *score] for name, *score in vocabulary]
    unknown = model.get("unk_token")
    if unknown is not None:
        model["unk_token"] = names.get(unknown, unknown)
    return json.dumps(made, ensure_ascii=False)
