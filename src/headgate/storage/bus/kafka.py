"""Kafka, through librdkafka's idempotent producer: a record counts once all in-sync replicas have it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from headgate.core.bus import CONTENT_TYPE, PUBLISH_SECONDS, Delivery, KafkaSettings, Message

_DELIVERY_MS = int((PUBLISH_SECONDS - 2.0) * 1_000)
"""Less than we wait: so every record of a batch is either delivered or given up when the next batch begins."""
_BATCH_MAX = 10_000
_QUIET = logging.Logger("headgate.kafka")  # not in the tree of loggers: what matters is told by `publish`
_QUIET.addHandler(logging.NullHandler())


class KafkaBus:
    """The client blocks and calls back from its own threads: it is used from one thread of ours, never from the loop.

    Raises `ValueError` where the settings cannot work.
    """

    def __init__(self, settings: KafkaSettings, secrets: Mapping[str, str]) -> None:
        self._topic = settings.topic
        self._options = _options(settings, secrets)
        self._thread = ThreadPoolExecutor(1, "kafka")
        self._last_error: str | None = None
        try:
            self._producer: Producer | None = self._connect()
        except KafkaException as error:
            raise ValueError(str(error.args[0].str())) from error

    async def publish(self, messages: Sequence[Message]) -> Delivery:
        return await asyncio.wrap_future(self._thread.submit(self._publish, messages))

    async def aclose(self) -> None:
        """Waits for a batch under way, as long as `publish` may take."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._producer = None

    def _connect(self) -> Producer:
        return Producer({**self._options, "error_cb": self._on_error}, logger=_QUIET)

    def _on_error(self, error: KafkaError) -> None:
        self._last_error = error.str()

    def _publish(self, messages: Sequence[Message]) -> Delivery:
        taken: set[str] = set()
        self._last_error = None
        failed: list[KafkaError] = []

        def told(name: str, error: KafkaError | None, _: object) -> None:
            if error is None:
                taken.add(name)
            else:
                failed.append(error)

        try:
            producer = self._producer = self._producer or self._connect()
        except KafkaException as error:
            return Delivery(frozenset(), self._words([error.args[0]]))
        for message in messages:
            try:
                producer.produce(
                    self._topic,
                    message.body.encode(),
                    message.key.encode(),
                    headers={"content-type": CONTENT_TYPE},
                    on_delivery=partial(told, message.id),
                )
            except KafkaException as error:  # about this one, such as its size: the others may go
                failed.append(error.args[0])
            except BufferError:
                break
        producer.flush(PUBLISH_SECONDS)
        if len(taken) < len(messages):
            if any(error.fatal() for error in failed):
                self._producer = None  # an idempotent producer ends with its first fatal error
            return Delivery(frozenset(taken), self._words(failed))
        return Delivery(frozenset(taken))

    def _words(self, failed: list[KafkaError]) -> str:
        """What the client said last about its connections says more than that a record timed out."""
        said = self._last_error or (failed[0].str() if failed else "no answer in time")
        return said[:200]


def _options(settings: KafkaSettings, secrets: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap.servers": settings.servers,
        "client.id": "headgate",
        "enable.idempotence": True,
        "linger.ms": 5,
        "message.timeout.ms": _DELIVERY_MS,
        "queue.buffering.max.messages": _BATCH_MAX,
        "partitioner": "murmur2_random",  # as the Java clients do: topics of both can be joined
        "security.protocol": settings.security,
        "log.connection.close": False,
    }
    if settings.security.startswith("sasl"):
        if settings.user is None or "password_env" not in secrets:
            raise ValueError(f"security {settings.security} needs user and password_env")
        options["sasl.mechanism"] = settings.mechanism
        options["sasl.username"] = settings.user
        options["sasl.password"] = secrets["password_env"]
    if settings.ca_file is not None:
        options["ssl.ca.location"] = settings.ca_file
    return options
