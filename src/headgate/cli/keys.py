"""`headgate keys`: make, list and revoke API keys. Works with and without a running server."""

import argparse
import asyncio
import re
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

import msgspec

from headgate.app.config import find_file, load, read_environment
from headgate.app.offline import open_keys
from headgate.cli.common import Commands, add, place_options, table
from headgate.core.errors import BadCall
from headgate.core.principal import KeyLimits
from headgate.tenancy.keyring import KeyRecord, KeySpec
from headgate.tenancy.keys import Keys

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def add_parser(commands: Commands) -> None:
    group = add(commands, "keys", "make, list and revoke API keys", "headgate keys create --name app --tenant acme")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = add(
        actions, "create", "make an API key and print it, this once", "headgate keys create --name ci --expires-in 30d"
    )
    create.add_argument("--name", default="", help="what it is for")
    create.add_argument("--tenant", default="default", help="whose usage it counts as (default: default)")
    create.add_argument("--scope", action="append", choices=["inference", "admin"], help="may be repeated")
    create.add_argument("--model", action="append", metavar="PATTERN", help="only these models; may be repeated")
    create.add_argument("--expires-in", metavar="TIME", help="such as 12h or 30d (default: never)")
    create.add_argument("--requests-per-minute", type=int, metavar="N")
    create.add_argument("--tokens-per-minute", type=int, metavar="N")
    create.add_argument("--concurrency", type=int, metavar="N")
    listing = add(actions, "list", "list the keys, newest first", "headgate keys list")
    revoke = add(actions, "revoke", "revoke a key by its id", "headgate keys revoke key_01k9...")
    revoke.add_argument("id")
    for command, run in ((create, _create), (listing, _list), (revoke, _revoke)):
        place_options(command)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=lambda options, run=run: asyncio.run(run(options)))


async def _create(options: argparse.Namespace) -> int:
    spec = KeySpec(
        name=options.name,
        tenant=options.tenant,
        scopes=tuple(dict.fromkeys(options.scope or ["inference"])),
        models=tuple(options.model) if options.model else None,
        expires_at=_expiry(options.expires_in),
        limits=KeyLimits(options.requests_per_minute, options.tokens_per_minute, options.concurrency),
    )
    async with _keys(options) as keys:
        created = await keys.create(spec)
    if options.json:
        print(msgspec.json.encode(created).decode())
    else:
        print(
            f"{created.key}\n\nKeep it: it is stored hashed and cannot be shown again. Its id is {created.record.id}."
        )
    return 0


async def _list(options: argparse.Namespace) -> int:
    async with _keys(options) as keys:
        records = await keys.list()
    if options.json:
        print(msgspec.json.encode(records).decode())
    elif not records:
        print("There are no keys yet. Make one: headgate keys create --name app")
    else:
        head = ["ID", "KEY", "NAME", "TENANT", "SCOPES", "CREATED", "STATE"]
        print(table(head, [_row(record) for record in records]))
    return 0


async def _revoke(options: argparse.Namespace) -> int:
    async with _keys(options) as keys:
        record = await keys.revoke(options.id)
    print(msgspec.json.encode(record).decode() if options.json else f"Revoked {record.id} ({record.prefix}…).")
    return 0


def _keys(options: argparse.Namespace) -> AbstractAsyncContextManager[Keys]:
    return open_keys(load(find_file(options.config)), read_environment(options.home))


def _row(record: KeyRecord) -> list[str]:
    if record.revoked_at is not None:
        state = "revoked"
    elif record.expires_at is not None:
        state = f"until {_time(record.expires_at)}"
    else:
        state = "valid"
    scopes = ",".join(record.scopes)
    return [record.id, record.prefix + "…", record.name, record.tenant, scopes, _time(record.created_at), state]


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _expiry(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match is None:
        raise BadCall(f"'{text}' is no time span. Write a number and s, m, h or d: 12h, 30d.")
    return datetime.now(UTC).timestamp() + int(match.group(1)) * _UNITS[match.group(2)]  # noqa: TID251 the edge
