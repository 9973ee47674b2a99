"""The engine in this server's care: its process, its backend, its readiness and its gauges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from headgate import engine
from headgate.app.config import EMBEDDED, EngineConfig
from headgate.app.yamlfile import ConfigError
from headgate.backends.embedded import EmbeddedBackend
from headgate.core.clock import Clock
from headgate.core.ids import Ids
from headgate.core.ports import ModelInfo
from headgate.engine.client import EngineClient
from headgate.telemetry.log import Log

BUNDLED = "headgate-demo"


def model_folder(model: str) -> Path:
    """The folder of `bundled` or of a path. Raises `ConfigError` where there is none."""
    if model == "bundled":
        return Path(engine.__path__[0]) / "bundled" / BUNDLED
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"engine.model: {folder} is no Hugging Face model folder (it has no config.json). "
            "Give the folder with config.json, *.safetensors and tokenizer.json, or 'bundled'."
        )
    return folder


def model_name(config: EngineConfig) -> str:
    """What callers call the engine's model."""
    return config.name or model_folder(config.model).name


class Inference:
    """Launched at once, ready later: the listener answers meanwhile, `/readyz` says 503."""

    def __init__(self, config: EngineConfig, clock: Clock, ids: Ids, log: Log) -> None:
        folder = model_folder(config.model)
        name = model_name(config)
        self.client = EngineClient(folder, config.settings, clock=clock)
        self.backend = EmbeddedBackend(EMBEDDED, self.client, clock=clock, ids=ids, model=name)
        self.models = (ModelInfo(name, owned_by="headgate"),)
        self._log = log

    def launch(self) -> None:
        self.client.launch()

    def ready(self) -> tuple[bool, Any]:
        if self.client.refused is not None:
            return False, f"the model cannot be served: {self.client.refused}"
        if not self.client.ready:
            return False, f"restarting: {self.client.trouble}" if self.client.trouble else "loading the model"
        return True, {"start_seconds": self.client.phases, "restarts": self.client.restarts}

    def gauges(self) -> list[tuple[str, str, Callable[[], float]]]:
        """Under vLLM's names, which routers and autoscalers read."""
        client = self.client
        return [
            ("vllm:num_requests_running", "Sequences being computed.", lambda: client.stats.running),
            ("vllm:num_requests_waiting", "Sequences waiting in the engine.", lambda: client.stats.waiting),
            ("vllm:kv_cache_usage_perc", "KV cache in use, 0 to 1.", lambda: client.stats.kv_usage),
            ("vllm:prompt_tokens_total", "Prompt tokens taken in.", lambda: client.stats.prompt_tokens),
            ("vllm:generation_tokens_total", "Tokens generated.", lambda: client.stats.generated_tokens),
            (
                "vllm:num_preemptions_total",
                "Sequences computed anew for want of room.",
                lambda: client.stats.preemptions,
            ),
            ("headgate_engine_restarts", "Engine processes that died and were replaced.", lambda: client.restarts),
        ]

    async def aclose(self) -> None:
        """Closing the backend ends its engine."""
        await self.backend.aclose()
