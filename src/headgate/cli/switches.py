"""`headgate switches`: models, backends, tenants and features turned off on every running server, and on again."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from headgate.app.config import find_file, load, read_environment
from headgate.app.offline import open_switches
from headgate.cli.common import Commands, add, place_options, table
from headgate.cli.tenants import later, project_id, shown_time, tell
from headgate.core.errors import BadCall
from headgate.core.switches import KINDS, Switch, is_glob
from headgate.release.switches import WAIT_SECONDS, WAIT_SECONDS_MAX, Force, KillSwitches, Spec
from headgate.tenancy.records import CLI
from headgate.tenancy.tenancy import Tenancy

Run = Callable[[argparse.Namespace, KillSwitches, Tenancy], Awaitable[int]]


def add_parser(commands: Commands) -> None:
    example = 'headgate switches on model gpt-4o --fallback gpt-4o-mini --for 2h --reason "It answers nonsense."'
    group = add(commands, "switches", "turn off models, backends, tenants and features on every server", example)
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    on = add(actions, "on", "turn on a kill switch: what it names is off, or replaced", example)
    on.add_argument("kind", choices=KINDS)
    on.add_argument("name", help="a name, or a pattern such as 'gpt-*'; of a feature, the value of the tag 'feature'")
    on.add_argument("--reason", required=True, metavar="TEXT", help="for the log; callers do not see it")
    on.add_argument("--message", metavar="TEXT", help="what callers are told")
    on.add_argument("--fallback", metavar="MODEL", help="calls get this model instead; else they are refused with 503")
    on.add_argument("--for", dest="span", metavar="TIME", help="for how long, such as 30m or 2h (default: until off)")
    off = add(
        actions, "off", "turn off a kill switch: what it named is served again", "headgate switches off switch_01k"
    )  # fmt: skip
    off.add_argument("id", help="as `headgate switches list` shows it")
    for changing in (on, off):
        changing.add_argument(
            "--wait", type=float, default=WAIT_SECONDS, metavar="SECONDS",
            help=f"for every running server to have it in force (default: {WAIT_SECONDS:g})",
        )  # fmt: skip
    listing = add(actions, "list", "show the kill switches in force, and where", "headgate switches list")
    for command, run in ((on, _on), (off, _off), (listing, _list)):
        place_options(command)
        command.add_argument("--json", action="store_true", help="print JSON")
        _runs(command, run)


def _runs(command: argparse.ArgumentParser, run: Run) -> None:
    command.set_defaults(run=lambda options: asyncio.run(_with_switches(options, run)))


async def _with_switches(options: argparse.Namespace, run: Run) -> int:
    config = load(find_file(options.config))
    async with open_switches(config, read_environment(options.home)) as (switches, tenancy):
        return await run(options, switches, tenancy)


async def _on(options: argparse.Namespace, switches: KillSwitches, tenancy: Tenancy) -> int:
    name = options.name
    if options.kind == "tenant" and not is_glob(name):
        name = await project_id(tenancy, name)
    spec = Spec(
        kind=options.kind,
        name=name,
        reason=options.reason,
        fallback_model=options.fallback,
        message=options.message,
        expires_at=None if options.span is None else later(options.span),
    )
    switch, force = await switches.turn_on(spec, CLI, _wait(options))
    instead = "refused with 503" if switch.fallback_model is None else f"given {switch.fallback_model}"
    if switch.kind == "backend":
        instead = "sent to other backends"
    until = "until it is turned off" if switch.expires_at is None else f"until {shown_time(switch.expires_at)} UTC"
    return _told(
        options, switch, force, f"{switch.id}: {switch.kind} '{switch.name}' is off, {until}. Calls are {instead}."
    )


async def _off(options: argparse.Namespace, switches: KillSwitches, _: Tenancy) -> int:
    switch, force = await switches.turn_off(options.id, CLI, _wait(options))
    return _told(options, switch, force, f"{switch.id}: {switch.kind} '{switch.name}' is served again.")


async def _list(options: argparse.Namespace, switches: KillSwitches, _: Tenancy) -> int:
    found, force = await switches.all(), await switches.force()
    head = ["ID", "KIND", "NAME", "FALLBACK", "UNTIL", "SINCE", "BY", "REASON"]
    rows = [
        [
            switch.id,
            switch.kind,
            switch.name,
            switch.fallback_model or "-",
            "-" if switch.expires_at is None else shown_time(switch.expires_at),
            shown_time(switch.created_at),
            switch.created_by,
            switch.reason,
        ]
        for switch in found
    ]
    text = table(head, rows) if rows else "Nothing is switched off."
    return tell(options, {"switches": found, **_state(force)}, f"{text}\n{_where(force)}")


def _wait(options: argparse.Namespace) -> float:
    seconds: float = options.wait
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise BadCall(f"--wait lies between 0 and {WAIT_SECONDS_MAX:g} seconds.")
    return seconds


def _told(options: argparse.Namespace, switch: Switch, force: Force, text: str) -> int:
    """1 where the change is made and not everywhere in force."""
    tell(options, {"switch": switch, **_state(force)}, f"{text}\n{_where(force)}")
    return 0 if force.everywhere else 1


def _state(force: Force) -> dict[str, object]:
    return {"in_force": force.everywhere, "replicas": force.replicas}


def _where(force: Force) -> str:
    if not force.known:
        return "Not known whether it is in force: the database does not answer. headgate switches list shows it later."
    if not force.replicas:
        return "No server is running on this database; one that starts has it in force from its first call."
    if force.everywhere:
        return f"In force on every running server ({len(force.replicas)})."
    late = [
        f"{replica.host} ({replica.instance}), {replica.state}, last heard of {replica.silent_s:g} s ago"
        for replica in force.replicas
        if replica.state != "in_force"
    ]
    return "NOT in force on: " + "; ".join(late) + ". One that is silent is dead, or cut off from the database."
