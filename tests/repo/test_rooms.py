"""The house as it is drawn and the house as it stands."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "src" / "headgate"
ROOMS = sorted(path.parent for path in HOUSE.glob("*/__init__.py"))


def _names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def _statements(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text()).body


def test_every_folder_of_the_house_is_a_room() -> None:
    folders = {path.name for path in HOUSE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(_names(ROOMS))


def test_architecture_lists_exactly_the_rooms_there_are() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == _names(ROOMS), "ARCHITECTURE.md: one row per room, beginning with | `room` |"


def test_every_source_file_that_architecture_names_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    prose = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    named = set(re.findall(r"`(\w+/[\w/]+\.py)\b", prose))
    for room, row in re.findall(r"^\| `(\w+)` \|(.*)$", text, re.MULTILINE):
        named |= {f"{room}/{path}" for path in re.findall(r"`([\w/]+\.py)`", row)}
    assert [path for path in sorted(named) if not (HOUSE / path).exists()] == []


@pytest.mark.parametrize("room", ROOMS, ids=_names(ROOMS))
def test_a_room_introduces_itself_in_three_sentences_and_does_nothing_else(room: Path) -> None:
    """What it is, what comes in, what goes out."""
    path = room / "__init__.py"
    statements = _statements(path)
    assert len(statements) == 1, f"{path}: only a docstring belongs here"
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no docstring"
    sentences = re.findall(r"[.!?](?=\s|$)", docstring)
    assert len(sentences) == 3, f"{path}: {len(sentences)} sentences, three wanted"


def test_packages_inside_rooms_do_nothing_on_import_either() -> None:
    busy = [
        path.relative_to(ROOT).as_posix()
        for path in HOUSE.rglob("*/__init__.py")
        if path.parent not in ROOMS and any(not isinstance(statement, ast.Expr) for statement in _statements(path))
    ]
    assert busy == []


def test_the_ground_floor_imports_nothing_but_msgspec_and_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"headgate", "msgspec"}
    imported = set()
    for path in (HOUSE / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported - allowed == set()


def test_every_folder_of_tests_is_a_package_so_that_equal_names_do_not_clash() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in path.parts}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
