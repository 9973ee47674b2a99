"""`pip install headgate` brings everything that `headgate serve` needs, and little else."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZE_MAX = 25 * 1024 * 1024


def test_the_wheel_holds_the_model_the_prices_the_migrations_and_no_tests(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    wheel = next(tmp_path.glob("headgate-*.whl"))
    assert wheel.stat().st_size <= SIZE_MAX
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "headgate/engine/bundled/headgate-demo/model.safetensors",
        "headgate/engine/bundled/headgate-demo/tokenizer.json",
        "headgate/ledger/prices.toml",
        "headgate/storage/sql/migrations/env.py",
        "headgate/py.typed",
    } <= names
    assert {name.split("/")[0] for name in names if not name.startswith("headgate-")} == {"headgate"}
