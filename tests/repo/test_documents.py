"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "src" / "headgate"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_source_files_that_a_document_names_exist(path: Path) -> None:
    rooms = "|".join(room.name for room in HOUSE.iterdir() if room.is_dir())
    named = re.findall(rf"`(?:src/headgate/)?((?:{rooms})/[\w/]*\w(?:\.py)?)`", path.read_text())
    places = (HOUSE, ROOT)  # there is a folder bench in both
    assert [name for name in sorted(set(named)) if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_make_targets_that_a_document_names_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^\s*|`)make ([a-z-]+)", path.read_text(), re.MULTILINE)) - targets == set()


def test_decisions_are_numbered_without_gaps_and_have_their_three_parts() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(len(pages)))
    for page in pages:
        headings = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences"], page.name
        assert len(page.read_text().splitlines()) <= 60, f"{page.name}: one page"
