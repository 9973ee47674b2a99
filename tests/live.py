"""Runs real `headgate serve` processes for tests: own home, free port, ended with the test."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import postgres_database

ADMIN_KEY = "hg-test-bootstrap-key-0123456789abcdef"
START_SECONDS = 60.0


WORK_GAUGES = {
    "headgate_calls_in_flight",
    "headgate_calls_waiting",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
}


def until(check: Callable[[], bool], seconds: float = 10.0, tell: Callable[[], object] = lambda: "") -> None:
    """Polls until `check` holds; fails with what `tell` gives."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"not within {seconds} s: {tell()}"
        time.sleep(0.02)


class Live:
    """A running server: where it is, its key, its process, its log."""

    def __init__(self, process: "subprocess.Popen[bytes]", home: Path, log: Path) -> None:
        self.process = process
        self.home = home
        self.log_path = log
        self.key = ADMIN_KEY
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        return self.url + "/v1"

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log's lines so far."""
        lines = [json.loads(line) for line in self.log_path.read_text().split("\n") if line.startswith("{")]
        return [line for line in lines if name is None or line["event"] == name]

    def get(self, path: str, key: str | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path)
        if key is not None:
            request.add_header("authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def post(self, path: str, body: object, key: str | None = ADMIN_KEY, timeout: float = 30.0) -> tuple[int, bytes]:
        """A JSON body (`bytes` go as they are)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        if key is not None:
            request.add_header("authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def put(self, path: str, body: object) -> Any:
        """As the administrator; the answer's JSON."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def delete(self, path: str) -> int:
        """As the administrator; the status."""
        headers = {"authorization": f"Bearer {self.key}"}
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, headers=headers, method="DELETE")
        ) as answer:
            status: int = answer.status
            return status

    def rss_mb(self, what: str = "VmRSS") -> float:
        """Resident memory of the gateway process (the engine is another); `VmHWM` is its peak."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"no {what} in the process's status")

    def busy(self) -> dict[str, float]:
        """The gauges of work in progress that are not zero."""
        found: dict[str, float] = {}
        for line in self.get("/metrics")[1].decode().splitlines():
            name, value = line.partition("{")[0].partition(" ")[0], line.rpartition(" ")[2]
            if name in WORK_GAUGES and float(value):
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def settle(self, seconds: float = 10.0) -> None:
        """Waits until no call is in progress or waiting and the engine computes nothing."""
        until(lambda: not self.busy(), seconds, self.busy)

    def gauge(self, name: str) -> float:
        """A metric without labels, as /metrics shows it."""
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 40.0) -> int:
        self.process.send_signal(sig)
        return self.process.wait(timeout)


def start(home: Path, config: str | None = None, environment: dict[str, str] | None = None, port: int = 0) -> Live:
    """Starts a server without waiting for it. `config` is the text of its headgate.yaml."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "test.log"
    arguments = [sys.executable, "-m", "headgate.cli.main", "serve", "--home", str(home), "--port", str(port)]
    if config is not None:
        (home / "headgate.yaml").write_text(config)
        arguments += ["--config", str(home / "headgate.yaml")]
    given = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    given |= {"HEADGATE_BOOTSTRAP_KEY": ADMIN_KEY, **(environment or {})}
    with log.open("ab") as file:
        process = subprocess.Popen(arguments, cwd=home, env=given, stdout=file, stderr=file)
    return Live(process, home, log)


def wait_ready(live: Live, seconds: float = START_SECONDS) -> Live:
    """Waits until /readyz says 200."""
    end = time.monotonic() + seconds
    started = len(live.events("server.started"))
    while time.monotonic() < end:
        if live.process.poll() is not None:
            raise AssertionError(f"the server ended with {live.process.returncode}:\n{live.log_path.read_text()}")
        events = [event for event in live.events("server.started") if event["pid"] == live.process.pid]
        if events:
            live.port = events[-1]["port"]
            if live.get("/readyz")[0] == 200:
                return live
        time.sleep(0.05)
    raise AssertionError(f"not ready within {seconds} s ({started} starts):\n{live.log_path.read_text()}")


SHARED_SECRET = {"HEADGATE_SECRET": "the-same-secret-on-both-of-them"}
"""Under which the servers of one deployment hash their keys."""


@contextmanager
def serving(home: Path, config: str | None = None, environment: dict[str, str] | None = None) -> Iterator[Live]:
    """A ready server, stopped and reaped at the end."""
    live = start(home, config, environment)
    try:
        yield wait_ready(live)
    finally:
        if live.process.poll() is None:
            live.process.terminate()
            try:
                live.process.wait(45)
            except subprocess.TimeoutExpired:
                live.process.kill()
                live.process.wait(10)


@contextmanager
def serving_two(folder: Path, config: str) -> Iterator[tuple[Live, Live]]:
    """Two ready servers of one deployment: they share a PostgreSQL, whose address takes the place of `{url}`."""
    with postgres_database() as url:
        both = config.format(url=url)
        with serving(folder / "one", both, SHARED_SECRET) as one, serving(folder / "two", both, SHARED_SECRET) as two:
            yield one, two
