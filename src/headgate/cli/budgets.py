"""`headgate budgets`: how much a project, user, key or the organization may spend; stops, and their release."""

import argparse
from typing import Literal

from msgspec import structs

from headgate.cli.common import Commands, add, table
from headgate.cli.tenants import command, later, owner, owner_options, project_id, shown_time, tell
from headgate.core.errors import BadCall, NotFound
from headgate.core.policy import Budget, Policy, Velocity
from headgate.tenancy import edits
from headgate.tenancy.policies import Owner
from headgate.tenancy.records import CLI
from headgate.tenancy.tenancy import Tenancy

_PERIODS = ("request", "session", "day", "month", "total")
_EACH = ("project", "user", "key", "model", "session")


def add_parser(commands: Commands) -> None:
    example = "headgate budgets set --project acme --usd 100 --per month"
    group = add(commands, "budgets", "set, raise and show budgets; stop and release projects", example)
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    setting = add(
        actions, "set", "set a budget, in place of the one of its kind",
        example + " --soft 80 --at-limit downgrade --downgrade-to gpt-4o-mini",
    )  # fmt: skip
    setting.add_argument("--soft", type=float, metavar="AMOUNT", help="from here on there is an alert")
    setting.add_argument("--at-soft", choices=["notify", "downgrade"], default="notify")
    setting.add_argument("--at-limit", choices=["refuse", "downgrade", "notify"], default="refuse")
    setting.add_argument("--downgrade-to", metavar="MODEL", help="the cheaper model to use instead")
    raising = add(
        actions, "raise", "raise a budget for some time", "headgate budgets raise --project acme --usd 50 --until 2d"
    )
    raising.add_argument("--until", required=True, metavar="TIME", help="for how long, such as 12h or 2d")
    removing = add(actions, "remove", "remove a budget", "headgate budgets remove --project acme --per month")
    removing.add_argument("--tokens", action="store_true", help="one of tokens, rather than of dollars")
    for parser in (setting, raising):
        amount = parser.add_mutually_exclusive_group(required=True)
        amount.add_argument("--usd", type=float, metavar="DOLLARS")
        amount.add_argument("--tokens", type=float, metavar="N")
    for parser in (setting, raising, removing):
        parser.add_argument("--per", choices=_PERIODS, default="month", help="default: month, of UTC")
        parser.add_argument("--each", choices=_EACH, default="", help="each of these by itself")
        parser.add_argument("--model", default="*", metavar="PATTERN", help="only calls for these models (default: *)")
    showing = add(actions, "show", "show budgets", "headgate budgets show --project acme")
    velocity = add(
        actions, "velocity", "stop whoever spends many times as fast as usual",
        "headgate budgets velocity --project acme --times 10 --window 300",
    )  # fmt: skip
    velocity.add_argument("--times", type=float, default=10.0, metavar="N")
    velocity.add_argument(
        "--window", type=int, default=300, metavar="SECONDS", help="what counts as now (default: 300)"
    )
    velocity.add_argument("--floor", type=float, default=1.0, metavar="DOLLARS", help="below this nothing is stopped")
    velocity.add_argument("--stop", type=int, default=3_600, metavar="SECONDS", help="how long (default: 3600)")
    velocity.add_argument("--off", action="store_true", help="stop watching")
    for parser, run in (
        (setting, _set),
        (raising, _raise),
        (removing, _remove),
        (showing, _show),
        (velocity, _velocity),
    ):
        owner_options(parser)
        command(parser, run)
    _add_stops(actions)


def _add_stops(actions: Commands) -> None:
    stopping = add(
        actions, "stop", "refuse a project's calls for some time", "headgate budgets stop acme --until 1h --reason leak"
    )
    stopping.add_argument("project", help="its id or name")
    stopping.add_argument("--until", required=True, metavar="TIME", help="for how long, such as 1h")
    stopping.add_argument("--reason", default="An administrator stopped them.", help="what callers are told")
    command(stopping, _stop)
    releasing = add(actions, "release", "let a stopped project's calls go on", "headgate budgets release acme")
    releasing.add_argument("project", help="its id or name")
    command(releasing, _release)
    stopped = add(actions, "stopped", "list the projects that are stopped", "headgate budgets stopped")
    command(stopped, _stopped)


def _unit(options: argparse.Namespace) -> Literal["usd", "tokens"]:
    return "tokens" if options.tokens else "usd"


def _amount(options: argparse.Namespace) -> float:
    amount: float = options.usd if options.tokens is None else options.tokens
    if not amount >= 0:
        raise BadCall("An amount is a number of 0 or more.", param="amount")
    return amount


def _name(options: argparse.Namespace) -> str:
    return Budget(amount=0, unit=_unit(options), per=options.per, each=options.each, model=options.model).name


async def _set(options: argparse.Namespace, tenancy: Tenancy) -> int:
    budget = Budget(
        amount=_amount(options),
        unit=_unit(options),
        per=options.per,
        each=options.each,
        model=options.model,
        at_limit=options.at_limit,
        downgrade_to=options.downgrade_to,
        soft=options.soft,
        at_soft=options.at_soft,
    )
    whose = await owner(options, tenancy)
    edit = tenancy.policies.edit(whose, "budget.updated", lambda policy: edits.with_budget(policy, budget), CLI)
    return _told(options, whose, await edit)


async def _raise(options: argparse.Namespace, tenancy: Tenancy) -> int:
    until, amount = later(options.until), _amount(options)

    def edit(policy: Policy) -> Policy:
        return edits.raised(policy, _name(options), amount, until) or _missing(options, policy)

    whose = await owner(options, tenancy)
    return _told(options, whose, await tenancy.policies.edit(whose, "budget.raised", edit, CLI))


async def _remove(options: argparse.Namespace, tenancy: Tenancy) -> int:
    def edit(policy: Policy) -> Policy:
        if edits.budget_of(policy, _name(options)) is None:
            return _missing(options, policy)
        return edits.without_budget(policy, _name(options))

    whose = await owner(options, tenancy)
    return _told(options, whose, await tenancy.policies.edit(whose, "budget.deleted", edit, CLI))


def _missing(options: argparse.Namespace, policy: Policy) -> Policy:
    names = ", ".join(budget.name for budget in policy.budgets) or "none"
    raise NotFound(f"There is no budget '{_name(options)}' here. There are: {names}. Make one: headgate budgets set.")


async def _show(options: argparse.Namespace, tenancy: Tenancy) -> int:
    whose = await owner(options, tenancy)
    return _told(options, whose, await tenancy.policies.get(whose))


async def _velocity(options: argparse.Namespace, tenancy: Tenancy) -> int:
    watch = None if options.off else Velocity(
        times=options.times, window_s=options.window, floor_usd=options.floor, stop_s=options.stop
    )  # fmt: skip
    whose = await owner(options, tenancy)
    edit = tenancy.policies.edit(whose, "velocity.updated", lambda policy: structs.replace(policy, velocity=watch), CLI)
    return _told(options, whose, await edit)


async def _stop(options: argparse.Namespace, tenancy: Tenancy) -> int:
    found = await project_id(tenancy, options.project)
    until = later(options.until)
    await tenancy.stops.stop(found, options.reason, until, CLI)
    return tell(options, {"project": found, "until": until}, f"Stopped {found} until {shown_time(until)} UTC.")


async def _release(options: argparse.Namespace, tenancy: Tenancy) -> int:
    stop = await tenancy.stops.release(await project_id(tenancy, options.project), CLI)
    return tell(options, stop, f"Released {stop.project}, which was stopped: {stop.reason}")


async def _stopped(options: argparse.Namespace, tenancy: Tenancy) -> int:
    stops = await tenancy.stops.all()
    rows = [[stop.project, shown_time(stop.since), shown_time(stop.until), stop.reason] for stop in stops]
    return tell(options, stops, table(["PROJECT", "SINCE", "UNTIL", "REASON"], rows) if rows else "None is stopped.")


def _told(options: argparse.Namespace, whose: Owner, policy: Policy) -> int:
    head = ["BUDGET", "AMOUNT", "SOFT", "AT LIMIT", "RAISED"]
    lines = [table(head, [_row(budget) for budget in policy.budgets])] if policy.budgets else []
    if policy.velocity is not None:
        watch = policy.velocity
        lines.append(
            f"Watched: whoever spends more than {watch.times:g} times as fast as usual over {watch.window_s} s "
            f"is stopped for {watch.stop_s} s."
        )
    return tell(options, policy, "\n".join(lines) or f"The {whose.level} {whose.id} has no budgets of its own.")


def _row(budget: Budget) -> list[str]:
    soft = "-" if budget.soft is None else f"{budget.soft:g}"
    end = budget.at_limit + (f" to {budget.downgrade_to}" if budget.downgrade_to else "")
    raised = "-"
    if budget.raised_until is not None:
        raised = f"by {budget.raised_by:g} until {shown_time(budget.raised_until)}"
    return [budget.name, f"{budget.amount:g}", soft, end, raised]
