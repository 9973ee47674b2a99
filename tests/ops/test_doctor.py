"""Each check looks at one thing for real, and says what it saw and what to do."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from headgate.backends.scripted import ScriptedBackend
from headgate.core.call import Call
from headgate.core.clock import SystemClock
from headgate.core.errors import Upstream
from headgate.core.ports import Answer, Health, ModelInfo
from headgate.core.target import Target
from headgate.ops import doctor
from headgate.ops.readiness import Readiness


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    for finding in (doctor.check_python(), doctor.check_open_files(), doctor.check_tls_roots()):
        assert finding.seen
        assert finding.ok or finding.remedy
    assert "MiB free" in doctor.check_disk(tmp_path / "not" / "there" / "yet").seen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_taken_by_a_stranger_is_seen_on_either_family(host: str) -> None:
    async def main() -> None:
        stranger = await asyncio.start_server(lambda _, writer: writer.close(), host, 0)
        port = stranger.sockets[0].getsockname()[1]
        found = await doctor.check_port(host, port)
        assert not found.ok
        assert "--port" in found.remedy
        stranger.close()
        await stranger.wait_closed()
        assert (await doctor.check_port(host, port)).ok

    asyncio.run(main())


def test_a_name_that_resolves_to_nothing_cannot_be_bound() -> None:
    assert not asyncio.run(doctor.check_port("nowhere.invalid", 1)).ok


def test_a_model_folder_is_whole_or_what_lacks_is_named(tmp_path: Path) -> None:
    found = doctor.check_model(tmp_path)
    assert not found.ok
    for name in ("config.json", "tokenizer.json", "*.safetensors"):
        assert name in found.seen
    for name in ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_bytes(b"x" * 100)
    assert doctor.check_model(tmp_path).ok


class Broken:
    name = "far"
    kind = "broken"

    async def open(self, call: Call, target: Target) -> Answer:
        raise Upstream("no")

    async def models(self) -> Sequence[ModelInfo]:
        raise Upstream("no")

    async def probe(self) -> Health:
        raise Upstream("it says 401")

    async def aclose(self) -> None:
        return


def test_a_backend_is_really_asked() -> None:
    good = asyncio.run(doctor.check_backend(ScriptedBackend(SystemClock(), name="demo")))
    bad = asyncio.run(doctor.check_backend(Broken()))
    assert (good.ok, good.check) == (True, "backend demo")
    assert (bad.ok, bad.seen) == (False, "it says 401")


def test_ready_means_every_check_passes_and_nothing_drains() -> None:
    ready, engine = Readiness(), [False]
    assert ready()[0]
    ready.require("engine", lambda: (engine[0], "loading"))
    assert ready() == (False, {"draining": False, "engine": "loading"})
    engine[0] = True
    assert ready()[0]
    ready.draining = True
    assert ready() == (False, {"draining": True, "engine": "loading"})
