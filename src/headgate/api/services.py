"""What the endpoints are handed at start: everything below the api that they may call."""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from headgate.api.resume import Streams
from headgate.api.runs import Runs
from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.hosting import EngineView, LoadSpec, Memory
from headgate.core.ids import Ids
from headgate.core.ports import ModelInfo
from headgate.core.principal import Principal, Scope
from headgate.core.reply import Reply
from headgate.core.target import RouteTable
from headgate.ledger.accounts.questions import Answers
from headgate.ledger.billing.cashier import Invoices
from headgate.release.switches import KillSwitches
from headgate.tenancy.keyring import CreatedKey, KeyRecord, KeySpec
from headgate.tenancy.records import Actor
from headgate.tenancy.tenancy import Tenancy


class Gateway(Protocol):
    async def handle(self, call: Call) -> Reply:
        """Raises `HeadgateError` before the first byte. The caller closes the reply."""

    async def replay(self, call: Call) -> Reply:
        """Admits a call whose answer is there already, without cost: an empty reply. The caller closes it."""


class Auth(Protocol):
    def check(self, credential: str | None, scope: Scope) -> Principal:
        """Raises `Unauthorized` or `Forbidden`."""


class Keys(Protocol):
    async def create(self, spec: KeySpec, *, by: Actor) -> CreatedKey: ...

    async def get(self, key_id: str) -> KeyRecord:
        """Raises `NotFound`."""

    async def list(self) -> list[KeyRecord]: ...

    async def revoke(self, key_id: str, by: Actor) -> KeyRecord:
        """Raises `NotFound`."""


class RefusedRequest(Struct, frozen=True, kw_only=True):
    """A request that was answered with an error before it became a call, so that no `call.done` tells of it."""

    request_id: str
    method: str
    route: str
    """The path as the list of routes has it; `-` where none was found."""
    status: int
    code: str
    """`-` where the error has none."""
    client_request_id: str | None = None


class EngineDesk(Protocol):
    """The engines in this process's care. Raises `NotFound` for one that is not there."""

    def all(self) -> list[EngineView]: ...

    def get(self, name: str) -> EngineView: ...

    def memory(self) -> Memory: ...

    async def load(self, spec: LoadSpec, by: Actor) -> EngineView:
        """Begins loading and returns; callers can use it when it is `ready`. Raises `BadCall` and `Conflict`."""

    async def unload(self, name: str, by: Actor) -> EngineView:
        """New calls go elsewhere at once; its process ends when those in progress have."""

    async def sleep(self, name: str, by: Actor) -> EngineView:
        """Ends its process; the next call wakes it. Raises `Conflict` where it works, or is not ready."""

    async def wake(self, name: str, by: Actor) -> EngineView:
        """Begins waking it and returns."""


class Services(Struct, frozen=True, kw_only=True):
    """Filled by `app.build`."""

    gateway: Gateway
    auth: Auth
    routes: Callable[[], RouteTable]
    visible_models: Callable[[Principal], Sequence[ModelInfo]]
    keys: Keys
    switches: KillSwitches
    runs: Runs
    streams: Streams
    tenancy: Tenancy
    accounts: Answers
    invoices: Invoices
    engines: EngineDesk | None = None
    """None where the engine is off."""
    ready: Callable[[], tuple[bool, dict[str, object]]]
    metrics: Callable[[], tuple[bytes, bytes]]
    """Body and content type."""
    on_bug: Callable[[str, BaseException], None]
    """Told the request's id and the exception of every fault of ours; it logs them."""
    on_refused: Callable[[RefusedRequest], None]
    """Told of every request that was refused before it became a call; it logs and counts them."""
    clock: Clock
    ids: Ids
    version: str
