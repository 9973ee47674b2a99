import asyncio
import json

import msgspec
import pytest

from headgate.backends.catalog import BackendSettings, build
from headgate.backends.openai import OpenAIBackend
from headgate.backends.providers import PROVIDERS
from headgate.backends.scripted import ScriptedBackend
from tests.backends.calls import CLOCK, call, target
from tests.upstream.process import get


def test_every_provider_of_the_catalogue_can_be_built_with_its_key() -> None:
    for name, provider in PROVIDERS.items():
        backend = build(BackendSettings(name=name, provider=name), CLOCK, {provider.api_key_env: "k"})
        assert isinstance(backend, OpenAIBackend)
        assert backend.name == name
        assert provider.base_url.startswith("https://")


def test_settings_come_from_a_file_and_unknown_fields_are_refused() -> None:
    text = (
        b'{"name":"local","base_url":"http://127.0.0.1:1/v1","timeouts":{"connect_s":1},"pool":{"max_connections":5}}'
    )
    settings = msgspec.json.decode(text, type=BackendSettings)
    assert settings.timeouts.connect_s == 1
    assert settings.pool.max_connections == 5
    for wrong in (b'{"name":"x","bse_url":"y"}', b'{"name":"a b"}', b'{"name":"x","kind":"magic"}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=BackendSettings)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (BackendSettings(name="x"), "base_url or a provider"),
        (BackendSettings(name="x", provider="nobody"), "known are"),
        (BackendSettings(name="x", provider="openai"), "OPENAI_API_KEY is not set"),
        (BackendSettings(name="x", base_url="localhost:8000"), "must look like"),
        (BackendSettings(name="x", base_url="https://h", ca_file="/nowhere.pem"), "No such file"),
        (BackendSettings(name="x", base_url="http://h", headers={"a b": "c"}), "not a header name"),
    ],
)
def test_settings_that_cannot_work_stop_the_start_and_name_the_backend(settings: BackendSettings, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"backend 'x'.*{remedy}"):
        build(settings, CLOCK, {})


def test_a_key_comes_from_the_environment_and_an_organization_goes_along(server: str) -> None:
    async def main() -> None:
        settings = BackendSettings(name="x", base_url=server, api_key_env="MY_KEY", organization="org-1")
        assert "k-9" not in repr(settings)
        backend = build(settings, CLOCK, {"MY_KEY": " k-9\n"})
        await backend.open(call("ok"), target("ok"))
        headers = dict(get(server, "/last")["headers"])
        assert headers["authorization"] == "Bearer k-9"
        assert headers["openai-organization"] == "org-1"
        await backend.aclose()

    asyncio.run(main())


def test_a_scripted_backend_is_built_by_its_kind() -> None:
    settings = msgspec.json.decode(
        json.dumps({"name": "s", "kind": "scripted", "script": {"text": "hi"}}), type=BackendSettings
    )
    assert isinstance(build(settings, CLOCK, {}), ScriptedBackend)
