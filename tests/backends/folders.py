"""Model folders with random weights and real tokenizers, for tests of the embedded backend."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.engine import tiny

SAMPLE = [
    'the weather in Bern is fine, tea costs 42 francs; {"name": "get_weather", "arguments": {"city": "Bern"}}',
    "naïve café, Zürich, 東京, Привет, 🙂🙃 and the answer is: yes, no, perhaps. " * 3,
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if response_schema %}{{ response_schema | tojson }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(SAMPLE, trainer)
    made.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("</tool_call>", special=False)])
    return made


def sentencepiece(*, legacy: bool) -> Tokenizer:
    """As Llama 2 (`legacy`) and Mistral have it: spaces are letters, rare characters fall back to bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, show_progress=False, initial_alphabet=list("abcdefghijklmnopqrstuvwxyz")
    )
    made.train_from_iterator(SAMPLE[:1], trainer)
    state = json.loads(made.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary.update({f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)})
    state["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    made = Tokenizer.from_str(json.dumps(state))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    if legacy:
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    made.add_special_tokens(["[INST]", "[/INST]", "[TOOL_CALLS]"])
    return made


def write_text_side(folder: Path, made: Tokenizer, template: str) -> Path:
    """What a folder needs for prompts: no weights."""
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def write(folder: Path, *, template: str | None = TEMPLATE) -> Tokenizer:
    made = tokenizer()
    tiny.write(folder, tiny.config(vocab_size=made.get_vocab_size(), max_position_embeddings=1024), seed=3)
    made.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return made
