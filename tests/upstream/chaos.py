"""The hostile upstream (`headgate chaos-upstream`) in a process of its own, and what a test does with it.

with chaos() as up:                                   # up.base_url is http://127.0.0.1:N/v1
    up.set("cut,after=3", share=0.3, seed=7)          # by schedule; or by request: model `chaos:cut,after=3`,
    ...                                               # or the header `x-chaos: cut,after=3`
    assert up.stats()["faults"] == {"cut": 12}
    assert text == said(messages)                     # what every undisturbed chaos upstream answers
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate.bench.chaos.answer import Answer, answer
from headgate.bench.chaos.asked import read

ROOT = Path(__file__).parents[2]
START = (sys.executable, "-m", "headgate.cli.chaos")


def ask(url: str, body: Any = None) -> Any:
    """GET, or POST of JSON; the JSON answered. Raises `urllib.error.HTTPError` for a refusal."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


@dataclass(frozen=True)
class Chaos:
    """A running chaos upstream."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def _ask(self, path: str, body: Any = None) -> Any:
        return ask(self.root + path, body)

    def set(self, fault: str, **more: Any) -> None:
        """Replaces all rules by this one: `share`, `seed`, `first`, `from_s`, `to_s`, `on`."""
        self._ask("/chaos", {"fault": fault, **more})

    def rules(self, rules: list[dict[str, Any]]) -> None:
        """Replaces all rules; none: honest again."""
        self._ask("/chaos", rules)

    def calm(self) -> None:
        """Honest again; what was counted stays."""
        self.rules([])

    def reset(self) -> None:
        """Honest again, counts at zero."""
        self._ask("/chaos/reset", {})

    def gauges(self, **values: float) -> None:
        """What `/metrics` says in place of the truth: `running`, `waiting`, `kv_usage`."""
        self._ask("/chaos/metrics", values)

    def refuse(self, seconds: float) -> None:
        """Takes no connection for so long."""
        self._ask("/chaos/refuse", {"s": seconds})

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("/chaos/stats")
        return found

    def last(self) -> dict[str, Any]:
        """The last request: `path`, `headers` (names in small letters), `body` (text)."""
        found: dict[str, Any] = self._ask("/chaos/last")
        return found

    def idle(self, seconds: float = 10.0) -> dict[str, Any]:
        """The stats, as soon as no request is open."""
        return self.until(lambda stats: stats["open"] == 0, seconds)

    def until(self, good: Any, seconds: float = 10.0) -> dict[str, Any]:
        """The stats, as soon as they are good."""
        end = time.monotonic() + seconds
        while not good(stats := self.stats()):
            assert time.monotonic() < end, f"not within {seconds} s: {stats}"
            time.sleep(0.02)
        return stats

    def freeze(self) -> None:
        """SIGSTOP: the kernel still takes connections, nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def chaos(*arguments: str, port: int = 0) -> Iterator[Chaos]:
    """Starts it; `arguments` as of the command, such as `"--rate", "50"`. Ends with the test, whatever happens."""
    with started([*START, "chaos-upstream", "--with-stdin", "--port", str(port), *arguments]) as (first, process):
        yield Chaos(first["port"], process)


@dataclass(frozen=True)
class Proxy:
    """A running chaos proxy."""

    port: int
    control: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def set(self, **weather: Any) -> None:
        """Replaces the weather (`headgate.bench.chaos.weather.Weather`); nothing: fair."""
        ask(f"http://127.0.0.1:{self.control}/", weather)

    def drop(self) -> None:
        """Resets all connections."""
        ask(f"http://127.0.0.1:{self.control}/drop", {})

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = ask(f"http://127.0.0.1:{self.control}/")["counts"]
        return found


@contextlib.contextmanager
def proxied(port: int, **weather: Any) -> Iterator[Proxy]:
    """A TCP proxy before that port of this machine: any server may stand there."""
    command = [*START, "chaos-proxy", "--with-stdin", "--to", f"127.0.0.1:{port}", "--weather", json.dumps(weather)]
    with started(command) as (first, _):
        yield Proxy(first["port"], first["control"])


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[tuple[dict[str, Any], "subprocess.Popen[bytes]"]]:
    """A process that says JSON on its first line, and that line."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), process
    finally:
        process.kill()
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def honest(messages: list[dict[str, Any]], **body: Any) -> Answer:
    """What an undisturbed upstream answers to these messages: words, finish, counts."""
    options: dict[str, str] = {name: str(body.pop(name)) for name in ("tokens", "salt", "tools") if name in body}
    asked = read({"model": "chaos", "messages": messages, **body}, "chat", "continue")
    return answer(asked, options)


def said(messages: list[dict[str, Any]], **body: Any) -> str:
    """The text of the first choice, as every undisturbed upstream says it."""
    return honest(messages, **body).choices[0].text


@dataclass(frozen=True)
class Heard:
    """What came over a raw connection, and how it ended: fin, rst, or open (nothing more within the time)."""

    data: bytes
    end: str

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def rest(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        """The body without its chunks' framing, as far as it came."""
        if b"transfer-encoding: chunked" not in self.head:
            return self.rest
        rest, out = self.rest, b""
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            if length == 0:
                break
            out, rest = out + rest[:length], rest[length + 2 :]
        return out

    @property
    def events(self) -> list[bytes]:
        """Whole events, without their blank lines."""
        return self.body.split(b"\n\n")[:-1]


def listen(peer: socket.socket, seconds: float = 2.0, most: int = 1 << 24) -> Heard:
    """Reads until the connection ends, or nothing comes for `seconds`."""
    peer.settimeout(seconds)
    data = bytearray()
    try:
        while len(data) < most:
            part = peer.recv(1 << 16)
            if not part:
                return Heard(bytes(data), "fin")
            data += part
    except TimeoutError:
        return Heard(bytes(data), "open")
    except ConnectionResetError:
        return Heard(bytes(data), "rst")
    return Heard(bytes(data), "open")


def post(
    body: Any, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None, *, close: bool = True
) -> bytes:
    """A request as it stands on the wire; the server closes after it, where `close`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: chaos", f"content-length: {len(data)}"]
    lines += ["connection: close"] if close else []
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + data
