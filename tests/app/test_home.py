"""The home folder: one server at a time, secrets for the owner's eyes, never half a file; and the first key."""

import asyncio
import random
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from headgate.app.first_key import BOOTSTRAP_ID, first_key
from headgate.app.home import Home, server_secret
from headgate.app.yamlfile import ConfigError
from headgate.core.clock import SystemClock
from headgate.core.ids import Ids
from headgate.storage.sql.open import open_sql
from headgate.telemetry.log import Log
from headgate.tenancy.keyring import KeySpec
from headgate.tenancy.keys import Keys
from headgate.tenancy.store import Store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_second_server_is_refused_with_what_to_do_and_may_follow_the_first(tmp_path: Path) -> None:
    first = Home(tmp_path / "home")
    with pytest.raises(ConfigError, match=r"another headgate server.*--home"):
        Home(tmp_path / "home")
    first.close()
    Home(tmp_path / "home").close()


def test_what_is_secret_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.secret(None)
    home.remember_key("hg-x")
    home.instance()
    assert mode(home.folder) == 0o700
    assert {mode(home.folder / name) for name in ("secret", "api-key", "instance")} == {0o600}
    assert not list(home.folder.glob(".*"))
    home.close()


def test_the_secret_is_made_once_and_a_given_one_wins(tmp_path: Path) -> None:
    assert server_secret(tmp_path, None) == server_secret(tmp_path, None)
    assert server_secret(tmp_path, "given" * 4) == b"given" * 4
    with pytest.raises(ConfigError, match="at least 16"):
        server_secret(tmp_path, "short")


def test_many_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(server_secret(tmp_path, None))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert len(found[0]) == 64


def test_an_empty_secret_file_is_refused_rather_than_used(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        server_secret(tmp_path, None)


def test_a_folder_that_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/home.*--home"):
        Home(tmp_path / "file" / "home")


def with_keys(folder: Path, main: Callable[[Keys, Home], Awaitable[None]]) -> None:
    async def inside() -> None:
        sql, clock = await open_sql(f"sqlite:///{folder}/keys.db"), SystemClock()
        home = Home(folder / "home")
        try:
            ids = Ids(clock, random.Random(1))
            await main(Keys(Store(sql), b"s" * 16, clock, ids, lambda _: None, Log(clock, "error")), home)
        finally:
            home.close()
            await sql.aclose()

    asyncio.run(inside())


def test_a_home_without_keys_gets_one_that_is_shown_until_it_is_revoked(tmp_path: Path) -> None:
    async def main(keys: Keys, home: Home) -> None:
        key = await first_key(keys, home, None)
        assert key is not None
        assert keys.knows(key)
        assert await first_key(keys, home, None) == key
        (record,) = await keys.list()
        assert set(record.scopes) == {"inference", "admin"}
        await keys.revoke(record.id)
        assert await first_key(keys, home, None) is None
        assert len(await keys.list()) == 1

    with_keys(tmp_path, main)


def test_a_home_whose_database_was_lost_gets_a_new_key(tmp_path: Path) -> None:
    async def main(keys: Keys, home: Home) -> None:
        home.remember_key("hg-of-a-database-that-is-gone")
        key = await first_key(keys, home, None)
        assert key is not None
        assert keys.knows(key)
        assert home.remembered_key() == key

    with_keys(tmp_path, main)


def test_keys_of_an_administrator_need_no_first_key(tmp_path: Path) -> None:
    async def main(keys: Keys, home: Home) -> None:
        await keys.create(KeySpec())
        assert await first_key(keys, home, None) is None

    with_keys(tmp_path, main)


def test_the_environments_key_is_registered_and_replaced_and_never_shown(tmp_path: Path) -> None:
    async def main(keys: Keys, home: Home) -> None:
        assert await first_key(keys, home, "hg-bootstrap-number-one") is None
        assert await first_key(keys, home, "hg-bootstrap-number-two") is None
        assert not keys.knows("hg-bootstrap-number-one")
        assert keys.knows("hg-bootstrap-number-two")
        assert [record.id for record in await keys.list()] == [BOOTSTRAP_ID]

    with_keys(tmp_path, main)


@pytest.mark.parametrize("key", ["short", "with a space in it here", "ünïcode-key-0123456789", "tab\tin-the-key-0123"])
def test_a_bootstrap_key_nobody_could_send_is_refused_with_how_to_make_one(tmp_path: Path, key: str) -> None:
    async def main(keys: Keys, home: Home) -> None:
        with pytest.raises(ConfigError, match="token_urlsafe"):
            await first_key(keys, home, key)

    with_keys(tmp_path, main)
