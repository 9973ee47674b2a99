"""The first key: the one in `HEADGATE_BOOTSTRAP_KEY`, or one made and remembered at the first start."""

from headgate.app.home import Home
from headgate.app.yamlfile import ConfigError
from headgate.core.principal import Scope
from headgate.tenancy.keyring import KeySpec
from headgate.tenancy.keys import Keys

BOOTSTRAP_ID = "key_bootstrap"
LENGTH_MIN = 16
_SCOPES: tuple[Scope, ...] = ("inference", "admin")


async def first_key(keys: Keys, home: Home, bootstrap: str | None) -> str | None:
    """The key to show in the welcome, or None where it is the administrator's own.

    A key of the environment is registered anew at each start, so changing the variable changes the key; if it was made
    as another key before, that one's name and limits go. Otherwise a home without keys gets one, kept readable by its
    owner until that file is deleted or the key is revoked.
    """
    if bootstrap is not None:
        if len(bootstrap) < LENGTH_MIN or not bootstrap.isascii() or not bootstrap.isprintable() or " " in bootstrap:
            raise ConfigError(
                f"HEADGATE_BOOTSTRAP_KEY must have at least {LENGTH_MIN} printable ASCII characters and no spaces. "
                "Make one: python3 -c 'import secrets; print(\"hg-\" + secrets.token_urlsafe(32))'"
            )
        await keys.create(KeySpec(name="bootstrap", scopes=_SCOPES), bootstrap, BOOTSTRAP_ID)
        return None
    remembered = home.remembered_key()
    records = await keys.list()
    if records:
        return remembered if remembered is not None and keys.knows(remembered) else None
    created = await keys.create(KeySpec(name="first", scopes=_SCOPES))
    home.remember_key(created.key)
    return created.key
