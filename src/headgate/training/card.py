"""The model card: what the model is, how it was made, and how well each skill was learnt."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from headgate.training.evaluate import Score, table
from headgate.training.mixture import HELD_OUT_ONE_IN
from headgate.training.shape import Shape


class Facts(msgspec.Struct, frozen=True):
    """What the card tells beside the table. Times are Unix seconds and seconds."""

    parameters: int
    shape: Shape
    steps: int
    tokens: int
    seconds: float
    seed: int
    table_seed: int
    now: float
    note: str = ""


def write(facts: Facts, scores: Sequence[Score]) -> str:
    """The card in Markdown, with the header Hugging Face reads."""
    shape, day = facts.shape, datetime.fromtimestamp(facts.now, UTC).date().isoformat()
    return f"""---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: headgate
---

# headgate-demo

A very small chat model that ships with Headgate, so that a fresh install answers with real inference and tests have a
model that can do something checkable. **It is a demonstration model: do not use it for real work.** It knows nothing
about the world, and outside the skills below its answers are empty or wrong.

## What it is

Llama architecture, {facts.parameters:,} parameters in bfloat16: {shape.num_hidden_layers} layers, hidden size
{shape.hidden_size}, {shape.num_attention_heads} heads over {shape.num_key_value_heads} key-value heads of size
{shape.head_dim}, feed-forward size {shape.intermediate_size}, tied embeddings, byte-level BPE of {shape.vocab_size:,}
tokens in which digits stand alone. It was trained on conversations of up to 768 tokens; prompts beyond that are
accepted up to {shape.max_position_embeddings:,} tokens but answered badly. English only.

## What it learnt from

Text made by the generator in `src/headgate/training` and nothing else: no crawled text, no output of another
model. One problem in {HELD_OUT_ONE_IN}, by a hash of the problem, is never trained on; the table is measured on those.
Small talk is the exception: its questions are a closed set that is trained on whole.

## How it was made

    pip install 'headgate[train]'
    headgate train

Seed {facts.seed}, {facts.steps:,} steps, {facts.tokens / 1e6:.1f} million tokens, {facts.seconds / 60:.0f} minutes on
two shared CPU cores.{" " + facts.note if facts.note else ""}

## What it can do

Greedy decoding, {scores[0].count} held-out examples for each skill, seed {facts.table_seed}, measured on {day} by
`headgate.training.evaluate` on the weights that ship:

{table(scores)}

Licence: Apache-2.0.
"""
