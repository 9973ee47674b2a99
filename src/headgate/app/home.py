"""The home folder: everything this server keeps. One server at a time may use it."""

import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from headgate.app.yamlfile import ConfigError


class Home:
    """Opened at start and locked until closed; readable by its owner only."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        try:
            self.lock_file = (folder / "lock").open("a+")
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be used as home folder: {error}. Choose another with --home."
            ) from error
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.lock_file.close()
            raise ConfigError(
                f"{folder}: another headgate server is using this home folder. Stop it, or choose another with --home."
            ) from error
        self.folder = folder

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def secret(self, given: str | None) -> bytes:
        """The server-side secret under which keys are hashed: from the environment, else made once and kept."""
        return server_secret(self.folder, given)

    def instance(self) -> str:
        """This home's own name among replicas on a shared database."""
        return _kept(self.folder / "instance", lambda: secrets.token_hex(8))

    def remembered_key(self) -> str | None:
        """The key made at the first start, kept readable by the owner only so that `serve` can show it again."""
        path = self.folder / "api-key"
        return path.read_text().strip() if path.is_file() else None

    def remember_key(self, key: str) -> None:
        _kept(self.folder / "api-key", lambda: key)

    def close(self) -> None:
        self.lock_file.close()


def make_folder(folder: Path) -> None:
    """For its owner only. Raises `ConfigError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used as home folder: {error}. Choose another with --home.") from error


def server_secret(folder: Path, given: str | None) -> bytes:
    if given is not None:
        return given.encode()
    return _kept(folder / "secret", lambda: secrets.token_hex(32)).encode()


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The file's text, written once with mode 0600 if it is not there."""
    if not path.is_file():
        value = make()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(value + "\n")
    return path.read_text().strip()
