"""Plants one violation at a time in a copy of the source; the contract meant for it must catch it, by name."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("cli", "app", "api", "ops", "pipeline", "training", "backends", "engine", "storage", "telemetry", "core")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source alone, without the data files that lie in it."""
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT / "src",
        copy / "src",
        ignore=lambda folder, names: [n for n in names if not n.endswith(".py") and not (Path(folder) / n).is_dir()],
    )
    for path in (*(f"{room}/__init__.py" for room in ROOMS), "app/build.py"):  # a contract about nothing is an error
        (copy / "src" / "headgate" / path).parent.mkdir(exist_ok=True)
        (copy / "src" / "headgate" / path).touch()
    shutil.copy(ROOT / ".importlinter", copy)
    return copy


@pytest.fixture
def house(source: Path, tmp_path: Path) -> Path:
    shutil.copytree(source, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    return tmp_path


def _plant(house: Path, module: str, code: str) -> None:
    path = house / "src" / "headgate" / f"{module.replace('.', '/')}.py"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # what stands there is everybody's
    path.write_text(code + "\n")


def _lint(house: Path, contract: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--contract", contract]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(house / "src"), "COLUMNS": "200"}
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, timeout=60)


def _name(contract: str) -> str:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser[f"importlinter:contract:{contract}"]["name"]


VIOLATIONS = [
    ("rooms", "telemetry.planted", "import headgate.api"),
    ("rooms", "core.planted", "import headgate.telemetry"),
    ("rooms", "pipeline.planted", "import headgate.training"),
    ("rooms", "backends.planted", "def hidden():\n    from headgate import pipeline"),
    ("rooms", "planted.__init__", '"""A room without a floor."""'),
    ("cycles", "core.planted", "def hidden():\n    import headgate.core.planted2"),
    ("stores", "pipeline.planted", "import headgate.storage"),
    ("stores", "api.planted", "def hidden():\n    import headgate.storage"),
    ("stores", "ledger.accounts.planted", "import headgate.storage"),
    ("bench", "bench.planted", "def hidden():\n    import headgate.backends"),
    ("bench", "bench.chaos.planted", "from headgate import pipeline"),
    ("engine", "engine.planted", "from headgate.core.reply import Reply"),
    ("engine", "engine.planted", "from headgate.core.ports import Ask"),
    ("sql", "pipeline.planted", "def hidden():\n    import sqlalchemy.orm"),
    ("sql", "engine.planted", "import redis.asyncio"),
    ("sql", "ledger.accounts.planted", "import sqlalchemy"),
    ("brokers", "ledger.planted", "def hidden():\n    import nats.js"),
    ("brokers", "pipeline.planted", "import confluent_kafka"),
    ("arrays", "backends.planted", "def hidden():\n    import numpy as np"),
    ("torch", "engine.planted", "def hidden():\n    import torch.nn"),
    ("server", "app.planted", "def hidden():\n    import uvicorn"),
    ("http", "api.planted", "def hidden():\n    import httptools"),
    ("http", "backends.http_planted", "import httpx"),
    ("text", "engine.planted", "def hidden():\n    import tokenizers"),
    ("text", "api.planted", "from jinja2.sandbox import SandboxedEnvironment"),
    ("metrics", "api.planted", "def hidden():\n    import prometheus_client"),
    ("yaml", "core.planted", "def hidden():\n    import yaml"),
]


@pytest.mark.parametrize(("contract", "module", "code"), VIOLATIONS)
def test_a_violation_is_caught_by_the_contract_meant_for_it(house: Path, contract: str, module: str, code: str) -> None:
    _plant(house, "core.planted2", "import headgate.core.planted" if contract == "cycles" else "")
    _plant(house, module, code)
    outcome = _lint(house, contract)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert f"{_name(contract)} BROKEN" in outcome.stdout
    assert "planted" in outcome.stdout.partition("Broken contracts")[2]


ALLOWED = [
    ("stores", "tenancy.store", "import headgate.storage"),
    ("stores", "ledger.accounts.store", "import headgate.storage"),
    ("stores", "app.build", "import headgate.storage"),
    ("sql", "tenancy.store", "import sqlalchemy"),
    ("sql", "storage.planted", "import sqlalchemy, redis, psycopg, alembic"),
    ("arrays", "engine.planted", "import numpy"),
    ("torch", "training.planted", "import torch"),
    ("server", "api.planted", "import uvicorn"),
    ("http", "api.server", "import httptools"),
    ("text", "backends.planted", "import tokenizers, jinja2"),
    ("metrics", "telemetry.planted", "import prometheus_client"),
    ("yaml", "app.planted", "import yaml"),
]


@pytest.mark.parametrize(("contract", "module", "code"), ALLOWED)
def test_the_room_a_package_belongs_to_may_import_it(house: Path, contract: str, module: str, code: str) -> None:
    _plant(house, module, code)
    outcome = _lint(house, contract)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert f"{_name(contract)} KEPT" in outcome.stdout


def test_every_contract_has_a_violation_planted_here() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    contracts = {section.rpartition(":")[2] for section in parser.sections() if ":contract:" in section}
    assert contracts == {contract for contract, _, _ in VIOLATIONS}
