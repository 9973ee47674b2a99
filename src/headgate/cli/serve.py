"""`headgate serve`: the gateway, the engine and every backend found, in one process."""

import argparse

from headgate.app.run import ServeOptions, serve
from headgate.cli.common import Commands, add, place_options


def add_parser(commands: Commands) -> None:
    command = add(
        commands,
        "serve",
        "serve the bundled model and every backend found or configured",
        "headgate serve --port 8080 --home ./state",
    )
    place_options(command)
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, help="port to listen on (default: 4000; 0 takes any free one)")
    command.add_argument("--quiet", action="store_true", help="do not print the welcome text")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return serve(
        ServeOptions(
            config=options.config, home=options.home, host=options.host, port=options.port, quiet=options.quiet
        )
    )
