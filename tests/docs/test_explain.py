"""The story that the guide shows is what the command prints."""

import asyncio
import re
from pathlib import Path

import pytest

from headgate.cli.main import main
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from tests.cli.stories import CALL, RESCUED

GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "explain.md"


def test_the_guide_shows_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill() -> None:
        sql = await open_sql(f"sqlite:///{tmp_path}/headgate.db")
        try:
            await Store(sql).add_receipts(RESCUED, "log", 1)
        finally:
            await sql.aclose()

    asyncio.run(fill())
    found = re.search(r"^```text\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    assert main(["explain", CALL, "--home", str(tmp_path)]) == 0
    assert capsys.readouterr().out == found.group(1)
