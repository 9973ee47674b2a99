"""`headgate keys`: make, list and revoke API keys. Works with and without a running server."""

import argparse

from headgate.cli.common import Commands, add, table
from headgate.cli.tenants import command, later, shown_time, tell, user_id
from headgate.core.principal import KeyLimits
from headgate.tenancy.keyring import KeyRecord, KeySpec
from headgate.tenancy.records import CLI
from headgate.tenancy.tenancy import Tenancy


def add_parser(commands: Commands) -> None:
    group = add(commands, "keys", "make, list and revoke API keys", "headgate keys create --name app --tenant acme")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = add(
        actions, "create", "make an API key and print it, this once", "headgate keys create --name ci --expires-in 30d"
    )
    create.add_argument("--name", default="", help="what it is for")
    create.add_argument(
        "--tenant", default="default", help="its project's id; made if there is none (default: default)"
    )
    create.add_argument("--user", metavar="ID", help="the user whose key it is, by id or e-mail address")
    create.add_argument("--scope", action="append", choices=["inference", "admin"], help="may be repeated")
    create.add_argument("--model", action="append", metavar="PATTERN", help="only these models; may be repeated")
    create.add_argument("--expires-in", metavar="TIME", help="such as 12h or 30d (default: never)")
    create.add_argument("--requests-per-minute", type=int, metavar="N")
    create.add_argument("--tokens-per-minute", type=int, metavar="N")
    create.add_argument("--concurrency", type=int, metavar="N")
    listing = add(actions, "list", "list the keys, newest first", "headgate keys list")
    revoke = add(actions, "revoke", "revoke a key by its id", "headgate keys revoke key_01k9...")
    revoke.add_argument("id")
    for parser, run in ((create, _create), (listing, _list), (revoke, _revoke)):
        command(parser, run)


async def _create(options: argparse.Namespace, tenancy: Tenancy) -> int:
    spec = KeySpec(
        name=options.name,
        tenant=options.tenant,
        scopes=tuple(dict.fromkeys(options.scope or ["inference"])),
        models=tuple(options.model) if options.model else None,
        expires_at=later(options.expires_in) if options.expires_in is not None else None,
        limits=KeyLimits(options.requests_per_minute, options.tokens_per_minute, options.concurrency),
        user_id=await user_id(tenancy, options.user) if options.user is not None else None,
    )
    created = await tenancy.keys.create(spec, by=CLI)
    text = f"{created.key}\n\nKeep it: it is stored hashed and cannot be shown again. Its id is {created.record.id}."
    return tell(options, created, text)


async def _list(options: argparse.Namespace, tenancy: Tenancy) -> int:
    records = await tenancy.keys.list()
    if not records:
        return tell(options, records, "There are no keys yet. Make one: headgate keys create --name app")
    head = ["ID", "KEY", "NAME", "TENANT", "OWNER", "SCOPES", "CREATED", "STATE"]
    return tell(options, records, table(head, [_row(record) for record in records]))


async def _revoke(options: argparse.Namespace, tenancy: Tenancy) -> int:
    record = await tenancy.keys.revoke(options.id, CLI)
    return tell(options, record, f"Revoked {record.id} ({record.prefix}…).")


def _row(record: KeyRecord) -> list[str]:
    if record.revoked_at is not None:
        state = "revoked"
    elif record.expires_at is not None:
        state = f"until {shown_time(record.expires_at)}"
    else:
        state = "valid"
    owner = record.user_id or record.account_id or "-"
    scopes = ",".join(record.scopes)
    made = shown_time(record.created_at)
    return [record.id, record.prefix + "…", record.name, record.tenant, owner, scopes, made, state]
