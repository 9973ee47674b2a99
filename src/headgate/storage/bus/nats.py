"""NATS JetStream: a publish counts once the stream has acknowledged it."""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NoStreamResponseError

from headgate.core.bus import CONTENT_TYPE, PUBLISH_SECONDS, Delivery, Message, NatsSettings
from headgate.core.tasks import Tasks

CONNECT_SECONDS = 4.0
_CLOSING_SECONDS = 2.0


class NatsBus:
    """One connection, made anew after any trouble: nothing is buffered in it that was not acknowledged.

    Raises `ValueError` and `OSError` where the settings cannot work.
    """

    def __init__(self, settings: NatsSettings, secrets: Mapping[str, str]) -> None:
        self._settings = settings
        self._options = _options(settings, secrets)
        self._servers = [server.strip() for server in settings.url.split(",")]
        self._client: Client | None = None
        self._requests = Tasks()
        self._trouble: str | None = None

    async def publish(self, messages: Sequence[Message]) -> Delivery:
        self._trouble = None
        taken: set[str] = set()
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                stream = (await self._connected()).jetstream()
                # Each by itself and all at once; the client's own way to do so forgets those the server refuses.
                requests = [self._requests.spawn(self._request(stream, message, taken)) for message in messages]
                if requests:
                    await asyncio.wait(requests)
        except TimeoutError:
            self._trouble = self._trouble or f"no answer within {PUBLISH_SECONDS:g} s"
        except (NatsError, OSError, ValueError) as error:
            self._trouble = self._words(error)
        finally:
            if len(taken) < len(messages):
                await self._drop()
        if len(taken) < len(messages):
            return Delivery(frozenset(taken), self._trouble or "the connection broke")
        return Delivery(frozenset(taken))

    async def aclose(self) -> None:
        await self._drop()

    async def _request(self, stream: JetStreamContext, message: Message, taken: set[str]) -> None:
        try:
            await stream.publish(
                self._settings.subject,
                message.body.encode(),
                timeout=PUBLISH_SECONDS,
                stream=self._settings.stream,
                headers={"Nats-Msg-Id": message.id, "content-type": CONTENT_TYPE},
            )
        except (NatsError, OSError, TimeoutError, ValueError) as error:
            self._trouble = self._trouble or self._words(error)
        else:
            taken.add(message.id)

    async def _connected(self) -> Client:
        if self._client is not None and self._client.is_connected:
            return self._client
        await self._drop()
        client = self._client = Client()
        await client.connect(
            servers=self._servers,
            allow_reconnect=False,
            connect_timeout=int(CONNECT_SECONDS),
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            name="headgate",
            error_cb=_quiet,
            closed_cb=self._ended,
            **self._options,
        )
        return client

    async def _ended(self) -> None:
        """The connection broke: no answer will come."""
        await self._requests.aclose()

    async def _drop(self) -> None:
        await self._requests.aclose()
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(_CLOSING_SECONDS):
                    await client.close()

    def _words(self, error: BaseException) -> str:
        if isinstance(error, NoStreamResponseError):
            return (
                f"no stream keeps the subject '{self._settings.subject}'; make one: "
                f"nats stream add {self._settings.stream} --subjects {self._settings.subject}"
            )
        return (str(error) or type(error).__name__)[:200]


async def _quiet(_: Exception) -> None:
    """The client would write to a log of its own; what matters is told by `publish`."""


def _options(settings: NatsSettings, secrets: Mapping[str, str]) -> dict[str, Any]:
    if "@" in settings.url:
        raise ValueError("url holds a user or a password; set user and password_env, or token_env")
    options: dict[str, Any] = {}
    if settings.user is not None:
        options["user"] = settings.user
    if "password_env" in secrets:
        options["password"] = secrets["password_env"]
    if "token_env" in secrets:
        options["token"] = secrets["token_env"]
    if settings.ca_file is not None or "tls://" in settings.url:
        options["tls"] = ssl.create_default_context(cafile=settings.ca_file)
    return options
