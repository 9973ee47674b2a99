"""How fast the NumPy engine computes, beside `transformers` on torch and beside what the memory can deliver.

`python -m bench.engine_speed --models demo,qwen --batches 1,8,32 --threads 1,2 --rounds 3 --json FILE`

Each subject is a process of its own that has loaded the same folder; within a round they are asked in turns, so that
ratios are of one mood of the machine. `demo` is the bundled model; `qwen` has the shape of Qwen2.5-0.5B and random
weights, written to a temporary folder as bfloat16. The limit is that of reading as many bytes as the weights take, once
per step, at the speed measured in the same round with as many threads.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine_parts import CHUNK
from bench.report import Row, facts
from headgate.engine.models.spec import read_spec
from headgate.engine.models.weights import expected, footprint

DEMO = Path(__file__).parents[1] / "src" / "headgate" / "engine" / "bundled" / "headgate-demo"
QWEN: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896,
    "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "max_position_embeddings": 32768, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
STEPS = {"demo": 100, "qwen": 8}
SUBJECTS = ("ours", "float32", "bfloat16", "memory")


class Child:
    """A subject's process."""

    def __init__(self, subject: str, threads: int, folder: Path) -> None:
        command = [sys.executable, "-m", "bench.engine_parts", subject, str(threads), str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._answer()

    def ask(self, **question: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")
        return json.loads(line)


@contextmanager
def folder_of(model: str) -> Iterator[Path]:
    if model == "demo":
        yield DEMO
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(QWEN))
        write_random(folder)
        yield folder


def write_random(folder: Path) -> None:
    """Weights of the right shapes, bfloat16, all cut from one pool of random numbers."""
    shapes = expected(read_spec(folder))
    pool = np.random.default_rng(0).standard_normal(2**22, dtype=np.float32) * np.float32(0.02)
    halves = (pool.view(np.uint32) >> np.uint32(16)).astype("<u2")
    ones = np.uint16(np.float32(1.0).view(np.uint32) >> np.uint32(16))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for index, (name, shape) in enumerate(shapes.items()):
            count = int(np.prod(shape))
            values = np.resize(np.roll(halves, 4097 * index), count)
            file.write((np.full(count, ones, dtype="<u2") if "norm" in name else values).tobytes())


def measure(model: str, threads: int, batches: Sequence[int], rounds: int, subjects: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    with folder_of(model) as folder, ExitStack() as stack:
        size = footprint(folder).weights
        children = {}
        for subject in subjects:
            children[subject] = Child(subject, threads, folder)
            stack.callback(children[subject].close)
        for number in range(rounds):
            common = {"model": model, "threads": threads, "round": number}
            limit = children["memory"].ask(do="read", bytes=size)
            rows.append({**common, "subject": "memory", "test": "read", "bytes": size, "bytes_per_s": limit})
            for batch in batches:
                for subject, child in children.items():
                    if subject == "memory":
                        continue
                    steps = child.ask(do="decode", batch=batch, steps=STEPS[model])
                    step = statistics.median(steps[1:])
                    row = {**common, "subject": subject, "test": f"decode{batch}", "step_ms": 1000 * step}
                    rows.append({**row, "best_ms": 1000 * min(steps), "tokens_per_s": batch / step})
            for subject, child in children.items():
                if subject != "memory":
                    taken = child.ask(do="prefill")
                    rows.append({**common, "subject": subject, "test": "prefill", "tokens_per_s": CHUNK / taken})
    return rows


def summary(rows: Sequence[Row]) -> list[Row]:
    """For each measure the medians of the rounds, and the medians of each round's ratios."""
    lines: list[Row] = []
    cases = dict.fromkeys((row["model"], row["threads"], row["test"]) for row in rows if row["test"] != "read")
    for model, threads, test in cases:
        found = {
            (row["subject"], row["round"]): row
            for row in rows
            if (row["model"], row["threads"]) == (model, threads) and row["test"] in {test, "read"}
        }
        line: Row = {"model": model, "threads": threads, "test": test}
        numbers = [number for subject, number in found if subject == "ours"]
        for subject in SUBJECTS[:-1]:
            speeds = [found[subject, number]["tokens_per_s"] for number in numbers if (subject, number) in found]
            if speeds:
                line[subject] = statistics.median(speeds)
        for rival in ("float32", "bfloat16"):
            ratios = [
                found["ours", number]["tokens_per_s"] / found[rival, number]["tokens_per_s"]
                for number in numbers
                if (rival, number) in found
            ]
            if ratios:
                line[f"ours/{rival}"] = statistics.median(ratios)
        if test.startswith("decode"):
            line["step_ms"] = statistics.median(found["ours", number]["step_ms"] for number in numbers)
            reads = [found["memory", number] for number in numbers]
            line["read_gb_s"] = statistics.median(read["bytes_per_s"] / 1e9 for read in reads)
            line["share_of_limit"] = statistics.median(
                read["bytes"] / read["bytes_per_s"] / (found["ours", read["round"]]["step_ms"] / 1000) for read in reads
            )
        lines.append(line)
    return lines


def table(lines: Sequence[Row]) -> str:
    """Markdown."""
    titles = "model threads test ours float32 bfloat16 ours/float32 ours/bfloat16 step_ms read_gb_s share_of_limit"
    columns = titles.split()
    cells = [columns, ["---"] * len(columns)]
    cells.extend([_cell(line.get(column)) for column in columns] for line in lines)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return "-" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_speed", description=__doc__)
    parser.add_argument("--models", default="demo,qwen")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subjects", default="ours,float32,bfloat16", help="`memory` is always one")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    subjects = (*arguments.subjects.split(","), "memory")
    batches = [int(batch) for batch in arguments.batches.split(",")]
    for model in arguments.models.split(","):
        for threads in arguments.threads.split(","):
            rows += measure(model, int(threads), batches, arguments.rounds, subjects)
            print(table(summary(rows)), flush=True)
    if arguments.json is not None:
        found = {"facts": facts({"numpy": np.__version__}), "summary": summary(rows), "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
