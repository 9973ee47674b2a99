"""A request too large for the room that is left is refused alone: smaller ones of others go on."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.backends.test_embedded_encoder import write
from tests.live import Live, serving

CONFIG = """
discover: false
engine:
  models:
  - {{name: enc, model: {folder}, settings: {{encoder: {{max_waiting: 60, max_batch_tokens: 1, cache_mib: 0}}}}}}
"""


def ask(live: Live, texts: int) -> str:
    status, answer = live.post("/v1/embeddings", {"model": "enc", "input": ["paris is in france"] * texts})
    return "answered" if status == 200 else str(json.loads(answer)["error"]["code"])


def test_whoever_overfills_an_encoders_queue_does_not_shut_others_out(tmp_path: Path) -> None:
    with serving(tmp_path / "home", CONFIG.format(folder=write(tmp_path / "model"))) as live:
        with ThreadPoolExecutor(40) as pool:
            found = set(pool.map(partial(ask, live), range(1500, 1540)))
        assert found <= {"answered", "engine_queue_full"}
        assert [state["state"] for state in live.events("replica.state")] == []
