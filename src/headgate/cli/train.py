"""`headgate train`: retrain the bundled model from its recipe."""

import argparse

import msgspec

from headgate.cli.common import Commands, add
from headgate.training.run import TorchMissing, TrainSettings, main


def add_parser(commands: Commands) -> None:
    command = add(commands, "train", "retrain the bundled model (needs headgate[train])", "headgate train --minutes 10")
    for field in msgspec.structs.fields(TrainSettings):
        option = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            command.add_argument(
                option, dest=field.name, action=argparse.BooleanOptionalAction, default=field.default, help=" "
            )
        else:
            kind = type(field.default)
            command.add_argument(
                option, dest=field.name, type=kind, default=field.default, metavar=kind.__name__.upper(),
                help=f"default: {field.default}",
            )  # fmt: skip
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    settings = TrainSettings(**{name: getattr(options, name) for name in TrainSettings.__struct_fields__})
    try:
        folder = main(settings, print)
    except TorchMissing as error:
        print(f"headgate: {error}")
        return 1
    print(f"The model is in {folder}. Serve it: engine.model in headgate.yaml, then 'headgate serve'.")
    return 0
