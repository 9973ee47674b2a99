"""The commands: what is wrong is said at start, and the processes end when told."""

import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.upstream.chaos import ROOT, START, chaos, proxied, started

TLS = Path(__file__).parents[1] / "upstream" / "tls"


def told(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*START, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("chaos-upstream", "--fault", "explode"), "no fault is called 'explode'"),
        (("chaos-upstream", "--fault", "cut", "--share", "3"), "share: 3.0"),
        (("chaos-upstream", "--tokens", "-4"), "option tokens"),
        (("chaos-proxy", "--to", "nowhere"), "invalid literal"),
        (("chaos-proxy", "--to", "127.0.0.1:1", "--weather", '{"rain": 1}'), "rain"),
        (("chaos-proxy", "--to", "127.0.0.1:1", "--weather", '{"slice": -1}'), "slice"),
    ],
)
def test_what_is_wrong_is_said_at_start(arguments: tuple[str, ...], complaint: str) -> None:
    done = told(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_port_that_is_taken_is_said_at_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = told("chaos-upstream", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "in use" in done.stderr


def test_the_servers_end_with_their_input_and_with_a_signal() -> None:
    for command in (["chaos-upstream"], ["chaos-proxy", "--to", "127.0.0.1:1"]):
        with started([*START, *command, "--with-stdin"]) as (_, process):
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 0
        with started([*START, *command]) as (_, process):
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def test_a_frozen_server_answers_nothing_until_it_is_thawed() -> None:
    with chaos() as up, proxied(up.port) as line:
        up.freeze()
        with socket.create_connection(("127.0.0.1", line.port), timeout=0.3) as peer:
            peer.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            with pytest.raises(TimeoutError):
                peer.recv(100)
            up.thaw()
            peer.settimeout(10)
            assert peer.recv(100).startswith(b"HTTP/1.1 200")


def test_a_whole_command_line_knows_both() -> None:
    command = [sys.executable, "-m", "headgate.cli.main", "chaos-upstream", "--faults"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "gzip_bomb" in done.stdout


def test_tls_is_spoken_with_a_certificate_and_a_key() -> None:
    context = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    with chaos("--tls-cert", str(TLS / "cert.pem"), "--tls-key", str(TLS / "key.pem")) as up:
        with socket.create_connection(("127.0.0.1", up.port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as peer:
                peer.sendall(b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n")
                assert peer.recv(100).startswith(b"HTTP/1.1 200")
