import asyncio

from headgate.backends.discover import discover
from headgate.backends.http.address import parse_base_url
from headgate.backends.providers import LocalServer
from tests.backends.calls import CLOCK
from tests.upstream.process import upstream


def port_of(base_url: str) -> int:
    return parse_base_url(base_url).port


def test_local_servers_are_found_with_their_models_and_ourselves_are_not() -> None:
    with (
        upstream(models="llama,qwen") as one,
        upstream(headers={"X-Headgate-Version": "1"}) as us,
        upstream(models="") as web,
    ):

        async def main() -> None:
            local = {
                "one": LocalServer(port_of(one)),
                "another-headgate": LocalServer(port_of(us)),
                "some-web-server": LocalServer(port_of(web)),
                "nobody": LocalServer(1),
            }
            found = await discover({}, CLOCK, local=local)
            assert [server.settings.name for server in found] == ["one"]
            assert [model.id for model in found[0].models] == ["llama", "qwen"]
            assert found[0].settings.base_url == one
            assert await discover({}, CLOCK, local=local, own_port=port_of(one)) == []

        asyncio.run(main())


def test_an_empty_environment_and_an_empty_machine_give_nothing() -> None:
    assert asyncio.run(discover({"OPENAI_API_KEY": " "}, CLOCK, local={})) == []
