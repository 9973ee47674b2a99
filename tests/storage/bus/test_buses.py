"""Brokers: what they acknowledged they have, what they did not is said, and none of it takes for ever."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import msgspec
import pytest

from headgate.core.bus import Bus, KafkaSettings, Message, NatsSettings
from headgate.storage.bus.kafka import KafkaBus
from headgate.storage.bus.nats import NatsBus
from headgate.storage.bus.open import open_bus
from headgate.storage.errors import StorageError
from tests.brokers import STREAM, Kafka, Nats, kafka_cluster, nats_server


def message(number: int) -> Message:
    body = {"specversion": "1.0", "id": f"att_{number}", "data": {"number": number, "text": "ü\u2028"}}
    return Message(f"att_{number}", f"project{number % 3}", json.dumps(body))


def ids(*numbers: int) -> frozenset[str]:
    return frozenset(f"att_{number}" for number in numbers)


@asynccontextmanager
async def opened(bus: Bus) -> AsyncIterator[Bus]:
    try:
        yield bus
    finally:
        await bus.aclose()


def nats_bus(server: Nats) -> NatsBus:
    return NatsBus(NatsSettings(url=server.url, stream=STREAM), {})


@contextmanager
def nats_with_stream() -> Iterator[Nats]:
    with nats_server() as server:
        asyncio.run(server.make_stream())
        yield server


def test_nats_has_what_it_acknowledged_and_drops_what_comes_twice() -> None:
    async def main(server: Nats) -> None:
        async with opened(nats_bus(server)) as bus:
            first = await bus.publish([message(number) for number in range(300)])
            assert (first.acknowledged, first.trouble) == (ids(*range(300)), None)
            again = await bus.publish([message(number) for number in range(290, 310)])
            assert again.acknowledged == ids(*range(290, 310))
        read = await server.read()
        assert [event["id"] for event in read] == [f"att_{number}" for number in range(310)]
        assert read[7]["data"] == {"number": 7, "text": "ü\u2028"}

    with nats_with_stream() as server:
        asyncio.run(main(server))


def test_nats_away_is_said_and_publishing_goes_on_once_it_is_back() -> None:
    async def main(server: Nats) -> None:
        async with opened(nats_bus(server)) as bus:
            assert (await bus.publish([message(1)])).acknowledged == ids(1)
            await asyncio.to_thread(server.kill)
            delivery = await bus.publish([message(2), message(3)])
            assert delivery.acknowledged == frozenset()
            assert delivery.trouble
            await asyncio.to_thread(server.start)
            assert (await bus.publish([message(2), message(3)])).acknowledged == ids(2, 3)
        assert [event["id"] for event in await server.read()] == ["att_1", "att_2", "att_3"]

    with nats_with_stream() as server:
        asyncio.run(main(server))


def test_nats_killed_in_the_middle_of_a_batch_claims_no_more_than_it_keeps() -> None:
    async def main(server: Nats) -> None:
        async with opened(nats_bus(server)) as bus:
            await bus.publish([message(0)])
            batch = [message(number) for number in range(1, 4000)]
            publishing = asyncio.create_task(bus.publish(batch))
            await asyncio.sleep(0.02)
            await asyncio.to_thread(server.kill)
            delivery = await publishing
            await asyncio.to_thread(server.start)
            kept = {event["id"] for event in await server.read()}
            assert delivery.acknowledged <= kept

    with nats_with_stream() as server:
        asyncio.run(main(server))


def test_a_subject_without_a_stream_names_the_remedy() -> None:
    async def main(server: Nats) -> None:
        async with opened(nats_bus(server)) as bus:
            delivery = await bus.publish([message(1)])
            assert delivery.acknowledged == frozenset()
            assert "nats stream add HEADGATE --subjects headgate.usage" in str(delivery.trouble)

    with nats_server() as server:
        asyncio.run(main(server))


def test_a_wrong_stream_or_a_wrong_password_is_said_without_the_secret() -> None:
    async def main(server: Nats) -> None:
        login = {"user": "gate", "password": "open-sesame"}
        await server.make_stream(**login)
        right = NatsSettings(url=server.url, stream=STREAM, user="gate", password_env="NATS_PASSWORD")
        async with opened(open_bus(right, {"NATS_PASSWORD": "open-sesame"})) as bus:
            assert (await bus.publish([message(1)])).acknowledged == ids(1)
        async with opened(open_bus(right, {"NATS_PASSWORD": "not-sesame"})) as bus:
            delivery = await bus.publish([message(1)])
            assert delivery.acknowledged == frozenset()
            assert delivery.trouble
            assert "sesame" not in delivery.trouble
        wrong = msgspec.structs.replace(right, stream="OTHER")
        async with opened(open_bus(wrong, {"NATS_PASSWORD": "open-sesame"})) as bus:
            assert "stream" in str((await bus.publish([message(2)])).trouble)

    with nats_server("--user", "gate", "--pass", "open-sesame") as server:
        asyncio.run(main(server))


def kafka_bus(cluster: Kafka) -> KafkaBus:
    return KafkaBus(KafkaSettings(servers=cluster.servers), {})


def test_kafka_has_what_it_acknowledged_under_the_projects_key() -> None:
    async def main(cluster: Kafka) -> None:
        async with opened(kafka_bus(cluster)) as bus:
            delivery = await bus.publish([message(number) for number in range(200)])
            assert (delivery.acknowledged, delivery.trouble) == (ids(*range(200)), None)
        read = await asyncio.to_thread(cluster.read, 200)
        assert {event["id"] for event in read} == set(ids(*range(200)))
        assert len(read) == 200
        assert all(event["key"] == f"project{event['data']['number'] % 3}" for event in read)

    with kafka_cluster() as cluster:
        asyncio.run(main(cluster))


def test_a_message_that_no_broker_takes_does_not_hold_up_the_others() -> None:
    async def main(cluster: Kafka, server: Nats) -> None:
        large = Message("att_1", "p", json.dumps({"id": "att_1", "text": "x" * 2_000_000}))
        for bus in (kafka_bus(cluster), nats_bus(server)):
            async with opened(bus):
                delivery = await bus.publish([message(0), large, message(2), message(3)])
                assert delivery.acknowledged == ids(0, 2, 3)
                assert delivery.trouble

    with kafka_cluster() as cluster, nats_with_stream() as server:
        asyncio.run(main(cluster, server))


def test_kafka_hanging_is_said_in_time_holds_up_no_other_work_and_passes() -> None:
    async def main(cluster: Kafka) -> None:
        async with opened(kafka_bus(cluster)) as bus:
            assert (await bus.publish([message(1)])).acknowledged == ids(1)
            cluster.hang()
            publishing = asyncio.create_task(bus.publish([message(2), message(3)]))
            turns = 0
            while not publishing.done():
                await asyncio.sleep(0.01)
                turns += 1
            assert turns > 100, "the loop went on meanwhile"
            delivery = await publishing
            assert delivery.acknowledged == frozenset()
            assert delivery.trouble
            cluster.resume()
            async with asyncio.timeout(60):
                while (await bus.publish([message(2), message(3)])).acknowledged != ids(2, 3):
                    await asyncio.sleep(0.1)
        read = await asyncio.to_thread(cluster.read, 3)
        assert {event["id"] for event in read} == set(ids(1, 2, 3))

    with kafka_cluster() as cluster:
        asyncio.run(main(cluster))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (NatsSettings(url="nats://me:pw@host:4222", stream="S"), "password_env"),
        (
            NatsSettings(url="nats://h:1", stream="S", token_env="NOT_THERE"),
            "NOT_THERE that token_env names is not set",
        ),
        (NatsSettings(url="nats://h:1", stream="S", token_env="s3cr3t-itself"), "takes the name of an environment"),
        (NatsSettings(url="tls://h:1", stream="S", ca_file="/no/such.pem"), "No such file"),
        (KafkaSettings(servers="h:1", security="sasl_ssl"), "needs user and password_env"),
        (KafkaSettings(servers="h:1", security="ssl", ca_file="/no/such.pem"), "ssl.ca.location"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_start_with_the_remedy(
    settings: NatsSettings | KafkaSettings, words: str
) -> None:
    async def main() -> None:
        with pytest.raises(StorageError) as refused:
            open_bus(settings, {})
        said = str(refused.value)
        assert words in said
        assert said.startswith(f"events: '{settings.name}'")
        assert "s3cr3t" not in said
        assert ":pw@" not in said

    asyncio.run(main())
