"""`headgate limits`: how much a project, user, key or the organization may do. Works beside a running server."""

import argparse

from msgspec import structs

from headgate.cli.common import Commands, add, table
from headgate.cli.tenants import command, owner, owner_options, tell
from headgate.core.errors import BadCall, NotFound
from headgate.core.policy import Limit, Period, Policy, Unit
from headgate.tenancy import edits
from headgate.tenancy.policies import Owner
from headgate.tenancy.records import CLI
from headgate.tenancy.tenancy import Tenancy

_AMOUNTS: dict[str, tuple[Unit, Period]] = {
    "requests_per_second": ("requests", "second"),
    "requests_per_minute": ("requests", "minute"),
    "requests_per_day": ("requests", "day"),
    "tokens_per_minute": ("tokens", "minute"),
    "tokens_per_day": ("tokens", "day"),
    "concurrency": ("concurrency", "minute"),
}
_EACH = ("project", "user", "key", "model", "address", "session")
_ALGORITHMS = ("token_bucket", "sliding_log", "sliding_counter", "leaky_bucket")


def add_parser(commands: Commands) -> None:
    example = "headgate limits set --project acme --requests-per-minute 100"
    group = add(commands, "limits", "set and show limits of rate and concurrency, and lists of models", example)
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    setting = add(actions, "set", "set limits, each in place of the one of its kind", example + " --model 'gpt-*'")
    for name in _AMOUNTS:
        setting.add_argument("--" + name.replace("_", "-"), type=int, metavar="N")
    setting.add_argument("--model", default="*", metavar="PATTERN", help="only calls for these models (default: *)")
    setting.add_argument("--each", choices=_EACH, default="", help="each of these by itself (default: all together)")
    setting.add_argument("--algorithm", choices=_ALGORITHMS, default="token_bucket")
    setting.add_argument("--burst", type=int, metavar="N", help="what a token bucket holds when full")
    setting.add_argument("--on-loss", choices=["local_share", "fail_open", "fail_closed"], default="local_share",
                         help="while the counter store is away (default: this server's share)")  # fmt: skip
    setting.add_argument("--leased", action="store_true", help="cheaper over Redis, up to 5 %% off")
    showing = add(actions, "show", "show limits and lists of models", "headgate limits show --project acme")
    removing = add(
        actions, "remove", "remove a limit by the name that show prints",
        "headgate limits remove --project acme 'requests/minute/all/gpt-*'",
    )  # fmt: skip
    removing.add_argument("name")
    models = add(
        actions, "models", "say which models may be used", "headgate limits models --project acme --deny 'gpt-4*'"
    )
    models.add_argument("--allow", action="append", metavar="PATTERN", help="only these; may be repeated")
    models.add_argument("--deny", action="append", metavar="PATTERN", help="not these; may be repeated")
    models.add_argument("--all", action="store_true", help="every one: no lists any more")
    for parser, run in ((setting, _set), (showing, _show), (removing, _remove), (models, _models)):
        owner_options(parser)
        command(parser, run)


async def _set(options: argparse.Namespace, tenancy: Tenancy) -> int:
    if all(getattr(options, name) is None for name in _AMOUNTS):
        raise BadCall(f"Give at least one of: {', '.join('--' + name.replace('_', '-') for name in _AMOUNTS)}.")
    limits = [
        Limit(
            unit=unit,
            amount=amount,
            per=per,
            each=options.each,
            model=options.model,
            algorithm=options.algorithm,
            burst=options.burst,
            leased=options.leased,
            on_loss=options.on_loss,
        )
        for name, (unit, per) in _AMOUNTS.items()
        if (amount := getattr(options, name)) is not None
    ]

    def edit(policy: Policy) -> Policy:
        for limit in limits:
            policy = edits.with_limit(policy, limit)
        return policy

    whose = await owner(options, tenancy)
    return _told(options, whose, await tenancy.policies.edit(whose, "rate_limit.updated", edit, CLI))


async def _show(options: argparse.Namespace, tenancy: Tenancy) -> int:
    whose = await owner(options, tenancy)
    return _told(options, whose, await tenancy.policies.get(whose))


async def _remove(options: argparse.Namespace, tenancy: Tenancy) -> int:
    def edit(policy: Policy) -> Policy:
        if all(limit.name != options.name for limit in policy.limits):
            names = ", ".join(limit.name for limit in policy.limits) or "none"
            raise NotFound(f"There is no limit '{options.name}' here. There are: {names}.")
        return edits.without_limit(policy, options.name)

    whose = await owner(options, tenancy)
    return _told(options, whose, await tenancy.policies.edit(whose, "rate_limit.deleted", edit, CLI))


async def _models(options: argparse.Namespace, tenancy: Tenancy) -> int:
    """What is given replaces both lists; giving nothing by mistake must not lift them."""
    if options.all is bool(options.allow or options.deny):
        raise BadCall("Give --allow and --deny, or --all to lift both lists. To see them: headgate limits show.")

    def edit(policy: Policy) -> Policy:
        allowed = tuple(options.allow) if options.allow else None
        return structs.replace(policy, models=allowed, denied_models=tuple(options.deny or ()))

    whose = await owner(options, tenancy)
    return _told(options, whose, await tenancy.policies.edit(whose, "model_permissions.updated", edit, CLI))


def _told(options: argparse.Namespace, whose: Owner, policy: Policy) -> int:
    rows = [_row(limit) for limit in policy.limits]
    lines = [table(["LIMIT", "AMOUNT", "ALGORITHM", "BURST", "ON LOSS"], rows)] if rows else []
    if policy.models is not None:
        lines.append(f"Only the models: {', '.join(policy.models) or 'none'}")
    if policy.denied_models:
        lines.append(f"Not the models: {', '.join(policy.denied_models)}")
    return tell(options, policy, "\n".join(lines) or f"The {whose.level} {whose.id} has no limits of its own.")


def _row(limit: Limit) -> list[str]:
    burst = "-" if limit.burst is None else str(limit.burst)
    return [limit.name, str(limit.amount), limit.algorithm + (" leased" if limit.leased else ""), burst, limit.on_loss]
