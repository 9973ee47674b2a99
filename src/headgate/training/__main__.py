"""`python -m headgate.training [name=value ...]`: trains with the settings named."""

import sys

import msgspec

from headgate.training.run import TrainSettings, main


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(msgspec.convert(given, TrainSettings, strict=False), _say)
