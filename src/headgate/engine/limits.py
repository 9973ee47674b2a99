"""What an engine can take, and the refusal of what it never can. Pure: client and scheduler apply the same rules."""

from msgspec import Struct

from headgate.core.errors import BadCall


class Limits(Struct, frozen=True, kw_only=True):
    """Sizes fixed when the model is loaded."""

    context_length: int
    """Tokens of prompt and answer together."""
    vocabulary: int
    blocks: int
    block_size: int
    max_batch_tokens: int
    max_sequences: int
    max_waiting: int
    step_s: float = 0.02
    """How long a step with running streams may take for the sake of prompts, in seconds."""
    short_first: bool = False
    age_s: float = 10.0
    prefix_cache: bool = True
    draft_tokens: int = 0
    """The most tokens of a draft."""
    draft_busy: int = 8
    """With more sequences than this side by side, nothing is drafted."""

    @property
    def longest(self) -> int:
        """Tokens that one sequence can have at most: the model's context, or what the KV cache holds.

        The last token of a sequence is never computed, so it needs no place in the cache.
        """
        return min(self.context_length, self.blocks * self.block_size + 1)

    def refuse(self, prompt: int, max_tokens: int) -> None:
        """Raises `BadCall` where a prompt of `prompt` tokens with `max_tokens` to come can never fit."""
        if prompt < 1:
            raise BadCall("The prompt is empty: it needs at least one token.", param="prompt")
        if max_tokens < 1:
            raise BadCall("max_tokens must be at least 1.", param="max_tokens")
        if prompt + max_tokens > self.longest:
            raise BadCall(
                f"This model's maximum context length is {self.longest} tokens, but {prompt + max_tokens} were "
                f"requested: {prompt} in the prompt and {max_tokens} to generate. Shorten the prompt or ask for fewer.",
                code="context_length_exceeded",
            )

    def refuse_tokens(self, prompt: tuple[int, ...]) -> None:
        """Raises `BadCall` where an id is not in the vocabulary."""
        if prompt and (min(prompt) < 0 or max(prompt) >= self.vocabulary):
            raise BadCall(f"Token ids must be between 0 and {self.vocabulary - 1}.", param="prompt")
