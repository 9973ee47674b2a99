"""A model folder with random weights and a real byte-level tokenizer, for tests of the embedded backend."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

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


def write(folder: Path, *, template: str | None = TEMPLATE) -> Tokenizer:
    made = tokenizer()
    tiny.write(folder, tiny.config(vocab_size=made.get_vocab_size(), max_position_embeddings=1024), seed=3)
    made.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return made
