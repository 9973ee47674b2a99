"""Writes the model folder in the layout of Hugging Face."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from headgate.training.bpe import END, END_OF_TEXT, MARKS, SPECIALS, START
from headgate.training.shape import Shape
from headgate.training.template import SOURCE


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A safetensors file of (type, size, little-endian bytes) by name; the header is padded to eight bytes.

    Format: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, size, body) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(size), "data_offsets": [at, at + len(body)]}
        at += len(body)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(body for _, _, body in tensors.values())


def write(
    folder: Path, shape: Shape, tokenizer: Tokenizer, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]
) -> None:
    """The whole folder but its model card."""
    ids = tokenizer.get_vocab()
    begin, end, pad = ids[START], ids[END], ids[END_OF_TEXT]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    _json(folder / "config.json", shape.config(begin=begin, end=end, pad=pad))
    _json(
        folder / "generation_config.json",
        {
            "bos_token_id": begin,
            "do_sample": True,
            "eos_token_id": [end, pad],
            "max_new_tokens": 512,
            "pad_token_id": pad,
            "temperature": 0.3,
            "top_p": 0.95,
        },
    )
    added = {
        str(tokenizer.token_to_id(token)): {"content": token, "lstrip": False, "normalized": False, "rstrip": False,
                                            "single_word": False, "special": token in SPECIALS}
        for token in (*SPECIALS, *MARKS)
    }  # fmt: skip
    _json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "added_tokens_decoder": added,
            "bos_token": None,
            "chat_template": SOURCE,
            "clean_up_tokenization_spaces": False,
            "eos_token": END,
            "model_max_length": shape.max_position_embeddings,
            "pad_token": END_OF_TEXT,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def _json(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
