"""Runs the storms at their full size and prints what each showed, one line of JSON a storm.

python -m tests.storms                       # all but the hour: some 17 minutes
python -m tests.storms frozen --plot docs/images/frozen.svg
python -m tests.storms chaos --seconds 3600  # R10 as it was set
"""

import argparse
import tempfile
from pathlib import Path

from tests.storms.figures import line
from tests.storms.full import STORMS, Wish
from tests.storms.plot import plot


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.storms", description=__doc__.splitlines()[0])
    parser.add_argument("storms", nargs="*", choices=[*STORMS, []], help="all of them by default")
    parser.add_argument("--rate", type=float, help="calls a second, instead of the storm's own")
    parser.add_argument("--seconds", type=float, help="how long, instead of the storm's own time")
    parser.add_argument("--plot", type=Path, help="write the picture of the storm `frozen` to this SVG")
    options = parser.parse_args()
    for name in options.storms or STORMS:
        with tempfile.TemporaryDirectory(prefix="headgate-storm-") as folder:
            figures, heard = STORMS[name](Path(folder), Wish(options.rate, options.seconds))
        print(line(name, figures), flush=True)
        if name == "frozen" and options.plot is not None:
            plot(heard, figures, options.plot)


if __name__ == "__main__":
    main()
