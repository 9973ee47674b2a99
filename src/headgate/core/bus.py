"""Message brokers, as the rest of the house sees them: where events go.

Here rather than in `storage`, because the ledger is handed a bus and never imports a driver.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Text = Annotated[str, Meta(min_length=1, max_length=1_000)]


class Message(Struct, frozen=True):
    """One event. A broker that sees the same `id` twice may drop the second; a reader should."""

    id: str
    key: str
    """Whose it is: those of one key stay in order where the broker has partitions."""
    body: str
    """A CloudEvent in structured JSON."""


class Delivery(Struct, frozen=True):
    """What became of a batch."""

    acknowledged: frozenset[str]
    """Ids of the messages that the broker has taken for good."""
    trouble: str | None = None
    """Why not all of them, for people; never a secret."""


class Bus(Protocol):
    """A broker. `publish` waits for its acknowledgements, at most `PUBLISH_SECONDS`, and never raises."""

    async def publish(self, messages: Sequence[Message]) -> Delivery: ...

    async def aclose(self) -> None: ...


PUBLISH_SECONDS = 10.0
CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"


class NatsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="nats"):
    """NATS JetStream. Each message carries its id as `Nats-Msg-Id`."""

    name: _Name = "nats"
    """What it is called in logs and metrics, and under which events wait for it: keep it."""
    url: _Text
    """`nats://host:4222`, `tls://host:4222`; several with commas."""
    subject: _Text = "headgate.usage"
    stream: _Text
    """The stream that keeps the subject. It is not made here: its size and age are the operator's to choose."""
    user: str | None = None
    password_env: str | None = None
    """The environment variable that holds the password."""
    token_env: str | None = None
    ca_file: str | None = None

    @property
    def secrets(self) -> Mapping[str, str | None]:
        """Fields that name environment variables."""
        return {"password_env": self.password_env, "token_env": self.token_env}


class KafkaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="kafka"):
    """Kafka, and what speaks its protocol. The key of each record is the project."""

    name: _Name = "kafka"
    """What it is called in logs and metrics, and under which events wait for it: keep it."""
    servers: _Text
    """`host:9092`, several with commas."""
    topic: _Text = "headgate.usage"
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    user: str | None = None
    password_env: str | None = None
    """The environment variable that holds the password."""
    ca_file: str | None = None

    @property
    def secrets(self) -> Mapping[str, str | None]:
        """Fields that name environment variables."""
        return {"password_env": self.password_env}


BusSettings = NatsSettings | KafkaSettings
