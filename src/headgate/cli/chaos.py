"""`headgate chaos-upstream` and `headgate chaos-proxy`: a model server that misbehaves, and a network that does.

`python -m headgate.cli.chaos` starts the same without the rest of the house: in a fifth of the time, for tests.
"""

import argparse
import sys
from pathlib import Path

import msgspec
import uvloop

from headgate.bench.chaos.asked import PREFILL
from headgate.bench.chaos.faults import listed, parse
from headgate.bench.chaos.run import Place, proxy, upstream
from headgate.bench.chaos.schedule import Rule
from headgate.bench.chaos.server import Tuning
from headgate.bench.chaos.weather import Weather
from headgate.cli.common import Commands, add


def add_parser(commands: Commands) -> None:
    _add_upstream(commands)
    _add_proxy(commands)


def _add_proxy(commands: Commands) -> None:
    command = add(
        commands,
        "chaos-proxy",
        "pass TCP connections on through bad weather, for tests",
        """headgate chaos-proxy --to 127.0.0.1:8000 --weather '{"latency_ms": 50, "reset_after": 1000}'""",
    )
    command.add_argument("--to", required=True, metavar="HOST:PORT", help="where the bytes go")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    command.add_argument("--control", type=int, default=0, help="port that takes orders (default: any free one)")
    command.add_argument("--weather", default="{}", metavar="JSON", help="the weather to begin with (default: fair)")
    command.add_argument("--seed", type=int, default=0, help="of all chance (default: 0)")
    command.add_argument("--with-stdin", action="store_true", help="end when standard input does")
    command.set_defaults(run=_proxy)


def _proxy(options: argparse.Namespace) -> int:
    host, _, port = options.to.rpartition(":")
    place = Place(options.host, options.port, control=options.control, with_stdin=options.with_stdin)
    try:
        weather = msgspec.json.decode(options.weather, type=Weather)
        uvloop.run(proxy(place, (host.strip("[]"), int(port)), weather, options.seed, _say))
    except (OSError, ValueError, msgspec.DecodeError) as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 2
    return 0


def _add_upstream(commands: Commands) -> None:
    command = add(
        commands,
        "chaos-upstream",
        "serve a model server that fails as ordered, for tests",
        "headgate chaos-upstream --port 9000 --fault cut,after=3 --share 0.3",
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    command.add_argument("--model", action="append", help="a model to list, repeatable (default: chaos)")
    command.add_argument("--fault", help="what goes wrong, such as cut,after=3 (default: nothing)")
    command.add_argument("--share", type=float, default=1.0, help="of the requests, 0 to 1 (default: 1)")
    command.add_argument("--first", type=int, help="only the first so many requests")
    command.add_argument("--seed", type=int, default=0, help="of all chance (default: 0)")
    command.add_argument("--rate", type=float, help="tokens per second of each stream (default: all at once)")
    command.add_argument("--first-ms", type=float, help="milliseconds until the first token (default: 0)")
    command.add_argument("--tokens", type=int, help="tokens of each answer (default: 16 to 39, by its messages)")
    command.add_argument("--salt", help="another answer to the same messages, as of another model")
    command.add_argument("--prefill", choices=PREFILL, default="ignore", help="a last assistant message (ignore)")
    command.add_argument("--deaf", action="store_true", help="take no orders from requests, only from the schedule")
    command.add_argument("--tls-cert", type=Path, metavar="FILE", help="speak TLS with this certificate")
    command.add_argument("--tls-key", type=Path, metavar="FILE", help="and its key")
    command.add_argument("--with-stdin", action="store_true", help="end when standard input does")
    command.add_argument("--faults", action="store_true", help="list all faults and their options")
    command.set_defaults(run=_upstream)


def _upstream(options: argparse.Namespace) -> int:
    if options.faults:
        print(listed())
        return 0
    place = Place(options.host, options.port, options.tls_cert, options.tls_key, with_stdin=options.with_stdin)
    shaped = {"rate": options.rate, "first_ms": options.first_ms, "tokens": options.tokens, "salt": options.salt}
    given = {name: str(value) for name, value in shaped.items() if value is not None}
    rules = []
    if options.fault:
        rules = [Rule(fault=options.fault, share=options.share, first=options.first, seed=options.seed)]
    try:
        parse(",".join(f"{name}={value}" for name, value in given.items()))
        tuning = Tuning(tuple(options.model or ["chaos"]), options.prefill, given, options.deaf)
        uvloop.run(upstream(place, tuning, rules, options.seed, _say))
    except (OSError, ValueError) as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 2
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command alone."""
    top = argparse.ArgumentParser(prog="headgate")
    add_parser(top.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    options = top.parse_args(arguments)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
