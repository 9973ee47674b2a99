"""What must not stand in the sources, and what must stand in the pinned requirements."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.repo.dangers import dangers

ROOT = Path(__file__).parents[2]
SANDBOX: frozenset[str] = frozenset()
"""Files that may run code they were given, by name: none so far."""
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
TEXT = {".py", ".sql", ".jinja", ".toml", ".yaml", ".json", ".md", ".html", ".css", ".js", ".txt"}
PINNED = sorted((ROOT / "requirements").glob("*.txt"))


def _sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in TEXT and path.is_file())


def test_nothing_in_the_package_is_marked_as_unfinished() -> None:
    marked = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _sources("src")
        if path.name != "tokenizer.json"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert marked == []


def test_nothing_in_the_package_turns_data_into_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {danger}"
        for path in _sources("src")
        if path.suffix == ".py" and path.relative_to(ROOT).as_posix() not in SANDBOX
        for line, danger in dangers(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import marshal as m",
        "import shelve",
        "from dill import load",
        "__import__('pickle')",
        "import importlib; importlib.import_module('shelve')",
        "eval('1')",
        "exec('x = 1')",
        "import yaml; yaml.load(text)",
        "import yaml; yaml.load(text, Loader=yaml.FullLoader)",
        "from yaml import load as read, Loader; read(text, Loader)",
        "import yaml; yaml.unsafe_load(text)",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import jinja2; jinja2.Environment()",
        "from jinja2 import Template; Template(text)",
        "import subprocess; subprocess.run(text, shell=True)",
        "import os; os.system(text)",
    ],
)
def test_the_gate_sees_each_danger(code: str) -> None:
    assert dangers(code)


@pytest.mark.parametrize(
    "code",
    [
        "import yaml; yaml.safe_load(text)",
        "import yaml; yaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nclass Strict(yaml.SafeLoader): ...\nyaml.load(text, Strict)",
        "import torch; torch.load(path, weights_only=True)",
        "import numpy as np; np.load(path)",
        "from jinja2.sandbox import ImmutableSandboxedEnvironment; ImmutableSandboxedEnvironment()",
        "model.eval()",
        "import subprocess; subprocess.run(['true'])",
        "# import pickle\nx = 'eval(1)'",
    ],
)
def test_the_gate_lets_safe_code_through(code: str) -> None:
    assert dangers(code) == []


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_each_requirement_is_pinned_with_hashes_and_names_no_address(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?:|--(extra-)?index-url|--find-links|--trusted-host| @ ", text)
    requirements = re.split(r"\n(?=\w)", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).strip())
    for requirement in requirements:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_every_dependency_of_the_project_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run = project["project"]["dependencies"]
    develop = run + project["dependency-groups"]["dev"] + project["project"]["optional-dependencies"]["postgres"]
    encode = project["project"]["optional-dependencies"]["embeddings"]
    for wanted, name in ((run, "base.txt"), (develop, "dev.txt"), (encode, "embeddings.txt")):
        text = (ROOT / "requirements" / name).read_text().lower()
        pinned = {re.sub(r"[-_.]+", "-", found) for found in re.findall(r"^([\w.-]+)", text, re.MULTILINE)}
        names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ]", entry)[0].lower()) for entry in wanted}
        assert names - pinned == set(), f"run `make lock`: {name} is behind pyproject.toml"


def test_ci_runs_the_command_that_the_readme_names() -> None:
    assert re.search(r"^\s*make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert re.search(r"\bmake test\b", (ROOT / ".ci" / "run").read_text())
