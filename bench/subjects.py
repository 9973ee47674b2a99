"""What is measured: Headgate as it is run, nginx as the yardstick, and the upstream asked directly."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.process import GATEWAY_CORE, LOAD_CORE, start, stop, tree

KEY = "hg-bench-bootstrap-key-0123456789abcdef"
START_SECONDS = 60.0

_HEADGATE = """
engine: {{enabled: false}}
storage: {{counters: "{counters}"}}
discover: false
prices: {folder}/prices.toml
admission: {{key_requests_per_minute: 100000000, key_tokens_per_minute: 10000000000}}
backends:
  - {{name: mock, base_url: "http://127.0.0.1:{port}/v1", pool: {{max_connections: 4000}}}}
routes:
  - {{model: "*", targets: [{{backend: mock}}]}}
"""
"""Everything that is on by default stays on; limits are kept and counted, only too high to be reached."""

_PRICES = """
version = "bench"
[[price]]
model = "mock*"
effective = 2020-01-01
input = 1.0
output = 2.0
"""

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  client_body_buffer_size 256k;
  upstream mock {{ server 127.0.0.1:{port}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{own} backlog=4096;
    location / {{
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


class Subject:
    """A running server: where it is, and whose CPU time is its own."""

    key = KEY

    def __init__(self, name: str, port: int, process: "subprocess.Popen[bytes]", version: str) -> None:
        self.name = name
        self.port = port
        self.process = process
        self.version = version

    @property
    def pids(self) -> list[int]:
        return tree(self.process.pid)

    def close(self) -> None:
        stop(self.process)


def upstream(folder: Path) -> Subject:
    """The mock, which is also the subject `direct`: its own CPU time is what the others' times are not."""
    log = folder / "upstream.log"
    process = start([sys.executable, "-m", "bench.upstream"], LOAD_CORE, log)
    subject = Subject("direct", 0, process, "-")

    def ready() -> bool:
        text = log.read_text()
        if text.endswith("\n"):
            subject.port = json.loads(text)["port"]
        return subject.port > 0

    _until(ready, subject, log)
    return subject


def headgate(
    folder: Path, upstream_port: int, profile: Path | None = None, *, name: str = "headgate", counters: str = "memory"
) -> Subject:
    """`headgate serve` without the engine; under cProfile where `profile` names the file for it."""
    folder.mkdir(parents=True)
    (folder / "prices.toml").write_text(_PRICES)
    config = folder / "headgate.yaml"
    config.write_text(_HEADGATE.format(folder=folder, port=upstream_port, counters=counters))
    log = folder / "log"
    under = ["-m", "cProfile", "-o", str(profile)] if profile else []
    command = [sys.executable, *under, "-m", "headgate.cli.main", "serve", "--port", "0"]
    command += ["--home", str(folder), "--config", str(config)]
    process = start(command, GATEWAY_CORE, log, {"HEADGATE_BOOTSTRAP_KEY": KEY})
    return await_ready(Subject(name, 0, process, _version()), log)


def await_ready(subject: Subject, log: Path) -> Subject:
    """When `headgate serve`, which logs to `log`, can be called. Raises `RuntimeError` where it does not come up."""

    def ready() -> bool:
        for line in log.read_text().splitlines():
            if '"server.started"' in line:
                subject.port = json.loads(line)["port"]
        return subject.port > 0 and _answers(subject.port, "/readyz")

    _until(ready, subject, log)
    return subject


def govern(subject: Subject) -> None:
    """From now on the subject's key falls under six limits and four budgets, on all four levels; none is reached."""
    pair = [{"unit": "requests", "amount": 10**12}, {"unit": "tokens", "amount": 10**12}]
    user = _admin(subject, "POST", "/v1/organization/users", {"email": "bench@example.com"})
    made = _admin(
        subject, "POST", "/admin/keys",
        {"tenant": "bench", "user_id": user["id"],
         "policy": {"limits": pair, "budgets": [{"amount": 8_000_000, "per": "total"}]}},
    )  # fmt: skip
    for owner in ("", "/projects/bench"):
        policy = {"limits": pair, "budgets": [{"amount": 8_000_000}]}
        _admin(subject, "PUT", f"/v1/organization{owner}/policy", policy)
    _admin(subject, "PUT", f"/v1/organization/users/{user['id']}/policy", {"budgets": [{"amount": 8e6, "per": "day"}]})
    subject.key = made["key"]


def _admin(subject: Subject, method: str, path: str, body: object) -> Any:
    """Raises `RuntimeError` with what the server says."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{subject.port}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(f"{method} {path}: {error.read().decode()}") from error


def nginx(folder: Path, upstream_port: int) -> Subject | None:
    """A reverse proxy and nothing more: no keys, limits, ledger or log. None where nginx is not installed."""
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        return None
    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=upstream_port, own=own))
    log = folder / "log"
    process = start([binary, "-p", str(folder), "-c", str(config), "-e", str(log)], GATEWAY_CORE, log)
    told = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr
    subject = Subject("nginx", own, process, told.strip().rpartition("/")[2])
    _until(lambda: _answers(own, "/v1/models"), subject, log)
    return subject


def _version() -> str:
    told = subprocess.run([sys.executable, "-c", "import headgate; print(headgate.__version__)"], capture_output=True)
    return told.stdout.decode().strip()


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def _until(ready: Callable[[], bool], subject: Subject, log: Path) -> None:
    """Raises `RuntimeError` with the log where it does not come up; it is ended then."""
    end = time.monotonic() + START_SECONDS
    while not ready():
        if subject.process.poll() is not None or time.monotonic() > end:
            subject.close()
            raise RuntimeError(f"{subject.name} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
