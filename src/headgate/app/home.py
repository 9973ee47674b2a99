"""The home folder: everything this server keeps. One server at a time may use it."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from headgate.app.yamlfile import ConfigError

SECRET_LENGTH_MIN = 16


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
        """In place of an earlier one."""
        (self.folder / "api-key").unlink(missing_ok=True)
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
    """The given one, else that of the folder, made where there is none. Raises `ConfigError`."""
    if given is not None:
        if len(given) < SECRET_LENGTH_MIN:
            raise ConfigError(
                f"HEADGATE_SECRET must have at least {SECRET_LENGTH_MIN} characters. "
                "Make one: python3 -c 'import secrets; print(secrets.token_hex(32))'"
            )
        return given.encode("utf-8", "surrogateescape")
    return _kept(folder / "secret", lambda: secrets.token_hex(32)).encode()


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The file's text, written once with mode 0600 if it is not there. Raises `ConfigError`.

    Written beside and then linked: of two that start together one wins, and none ever reads half a file.
    """
    try:
        if not path.exists():
            draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(fd, "w") as file:
                    file.write(make() + "\n")
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
            finally:
                draft.unlink()
        text = path.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be used: {error.strerror}. Mend its permissions, or free some space."
        ) from error
    if not text:
        raise ConfigError(f"{path}: is empty. Restore it from a backup; without one, delete it and make new keys.")
    return text
