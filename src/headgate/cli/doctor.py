"""`headgate doctor`: looks at this machine, the settings and every backend, and says what to mend."""

import argparse
import asyncio

import msgspec

from headgate.app.config import find_file, load, read_environment
from headgate.app.offline import examine
from headgate.cli.common import Commands, add, place_options


def add_parser(commands: Commands) -> None:
    command = add(commands, "doctor", "check this machine, the settings and every backend", "headgate doctor")
    place_options(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    findings = asyncio.run(examine(load(find_file(options.config)), read_environment(options.home)))
    if options.json:
        print(msgspec.json.encode(findings).decode())
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.seen}")
            if not finding.ok:
                print(f"      → {finding.remedy}")
    return 0 if all(finding.ok for finding in findings) else 1
