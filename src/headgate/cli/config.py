"""`headgate config`: check the settings file, show what is in force, print the schema."""

import argparse
import json

from headgate.app.config import find_file, load, schema, show
from headgate.cli.common import Commands, add


def add_parser(commands: Commands) -> None:
    group = add(commands, "config", "check, show or describe the settings file", "headgate config check")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = add(actions, "check", "say whether the file is valid, and where not", "headgate config check my.yaml")
    showing = add(actions, "show", "print the settings in force, defaults included", "headgate config show")
    for command in (check, showing):
        command.add_argument("file", nargs="?", help="settings file (default: headgate.yaml here)")
    describe = add(
        actions, "schema", "print the JSON Schema of the file", "headgate config schema > headgate.schema.json"
    )
    check.set_defaults(run=_check)
    showing.set_defaults(run=_show)
    describe.set_defaults(run=_schema)


def _check(options: argparse.Namespace) -> int:
    path = find_file(options.file)
    load(path)
    print(f"{path}: valid" if path else "no headgate.yaml here: the defaults are in force, and valid")
    return 0


def _show(options: argparse.Namespace) -> int:
    print(json.dumps(show(load(find_file(options.file))), indent=2))
    return 0


def _schema(options: argparse.Namespace) -> int:
    print(json.dumps(schema(), indent=2))
    return 0
