"""Well-known servers that speak OpenAI's dialect, as data. A new one is a line here."""

from typing import Literal

from msgspec import Struct

from headgate.backends.prefill import Prefill


class Provider(Struct, frozen=True):
    """A hosted API, and the environment variable in which its users keep their key."""

    base_url: str
    api_key_env: str
    usage_in_stream: bool = True
    output_cap_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    prefill: Prefill = "none"
    """Only where every model there goes on with what it is given."""


class LocalServer(Struct, frozen=True):
    """A model server one may find on this machine, by its usual port."""

    port: int


PROVIDERS: dict[str, Provider] = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY", output_cap_field="max_completion_tokens"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY", usage_in_stream=False, prefill="prefix"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "together": Provider("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks": Provider("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
    "gemini": Provider("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "nvidia": Provider("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
}

LOCAL_SERVERS: dict[str, LocalServer] = {
    "ollama": LocalServer(11434),
    "vllm": LocalServer(8000),
    "sglang": LocalServer(30000),
    "llamacpp": LocalServer(8080),
    "lmstudio": LocalServer(1234),
}
