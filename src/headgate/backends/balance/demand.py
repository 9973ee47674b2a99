"""What a call asks of a replica: its tokens, and the blocks of its prompt that a replica may have computed before."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from headgate.backends.estimate import BYTES_PER_TOKEN
from headgate.core.call import Call
from headgate.core.request import ChatRequest, CompletionRequest, Message

BLOCK_BYTES = 1024
"""About 256 tokens. Model servers cache finer; below that a hit saves nothing that is felt."""
BLOCKS_MOST = 256
"""What lies beyond is not told apart."""
_TEXT_BYTES = BLOCK_BYTES * BLOCKS_MOST
_TOKEN_IDS = 64 * 1024


class Demand(Struct, frozen=True):
    """What a call asks of a replica. `output_tokens` is what is expected."""

    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Chained hashes of the prompt's whole blocks, first to last: the same hash means the same text up to there."""
    session: str | None = None
    block_tokens: float = 0.0
    """The prompt's tokens per block; 0: the blocks are the whole prompt."""

    @property
    def tokens_per_block(self) -> float:
        return self.block_tokens or self.prompt_tokens / max(1, len(self.blocks))


def demand_of(call: Call, tenant: str, prompt_tokens: int, output_tokens: int, *, blocks: bool) -> Demand:
    """The demand of `call`. Without `blocks` the prompt is not looked at, for routes whose balance does not ask for it.

    The hashes are salted by tenant, model and tools, so that nobody's routing says anything of another's prompts. Every
    process gives the same: they depend on nothing else.
    """
    if not blocks:
        return Demand(prompt_tokens, output_tokens, (), call.session)
    text = _prompt(call.body)
    if len(text) < BLOCK_BYTES:
        return Demand(prompt_tokens, output_tokens, (), call.session)
    salt = "\x1f".join((tenant, call.model, *_tools(call.body)))
    chain = tuple(_chain(salt, text[:_TEXT_BYTES]))
    whole = len(text) <= _TEXT_BYTES
    per_block = prompt_tokens * BLOCK_BYTES / len(text) if whole else BLOCK_BYTES / BYTES_PER_TOKEN
    return Demand(prompt_tokens, output_tokens, chain, call.session, per_block)


def _chain(salt: str, text: bytes) -> Iterator[int]:
    digest = blake2b(salt.encode(), digest_size=8).digest()
    for start in range(0, len(text) - BLOCK_BYTES + 1, BLOCK_BYTES):
        digest = blake2b(digest + text[start : start + BLOCK_BYTES], digest_size=8).digest()
        yield int.from_bytes(digest, "little")


def _tools(body: Any) -> Iterator[str]:
    """Their names stand for the tools: models read them before the conversation."""
    if isinstance(body, ChatRequest):
        for tool in body.tools or ():
            yield tool.function.name if tool.function is not None else tool.type


def _prompt(body: Any) -> bytes:
    """What a model computes in order, without what a client may change from turn to turn. Embeddings have nothing."""
    if isinstance(body, ChatRequest):
        texts: list[str] = []
        room = _TEXT_BYTES + 1
        for message in body.messages:
            text = message.content if type(message.content) is str and not message.tool_calls else _content(message)
            texts += (message.role, text[:room])
            room -= len(text)
            if room <= 0:
                break
        return "\x1e".join(texts).encode(errors="surrogatepass")
    if isinstance(body, CompletionRequest):
        prompt = body.prompt
        if isinstance(prompt, str):
            return prompt[: _TEXT_BYTES + 1].encode(errors="surrogatepass")
        return repr(prompt[:_TOKEN_IDS]).encode(errors="surrogatepass")
    return b""


def _content(message: Message) -> str:
    parts = [message.content] if isinstance(message.content, str) else []
    if isinstance(message.content, list):
        parts = [text if isinstance(text := part.get("text"), str) else repr(part) for part in message.content]
    for use in message.tool_calls or ():
        if use.function is not None:
            parts += (use.function.name, use.function.arguments)
    return "\x1e".join(parts)
