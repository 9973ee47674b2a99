"""Opens the bus that a setting describes."""

import re
from collections.abc import Mapping

from headgate.core.bus import Bus, BusSettings, NatsSettings
from headgate.storage.errors import StorageError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def open_bus(settings: BusSettings, variables: Mapping[str, str]) -> Bus:
    """Connects on first use: a broker that is away holds up no start.

    Raises `StorageError` with the remedy where the client is not installed or a setting cannot work.
    """
    secrets = {
        field: _secret(settings.name, field, variable, variables)
        for field, variable in settings.secrets.items()
        if variable is not None
    }
    try:
        # Here and not above: the clients are extras, and whoever has no broker need not have them.
        if isinstance(settings, NatsSettings):
            from headgate.storage.bus.nats import NatsBus

            return NatsBus(settings, secrets)
        from headgate.storage.bus.kafka import KafkaBus

        return KafkaBus(settings, secrets)
    except ModuleNotFoundError as error:
        extra = "nats" if isinstance(settings, NatsSettings) else "kafka"
        raise StorageError(
            f"events: '{settings.name}' needs a client that is not installed; run: pip install 'headgate[{extra}]'"
        ) from error
    except (ValueError, OSError) as error:
        raise StorageError(f"events: '{settings.name}' cannot be used: {error}") from error


def _secret(name: str, field: str, variable: str, variables: Mapping[str, str]) -> str:
    value = variables.get(variable, "").strip()
    if value:
        return value
    if not _VARIABLE.fullmatch(variable):  # most likely the secret itself: it may not be repeated
        raise StorageError(
            f"events: '{name}': {field} takes the name of an environment variable, not the secret; no such one is set"
        )
    raise StorageError(f"events: '{name}': the environment variable {variable} that {field} names is not set")
