"""How model servers say that a prompt is too long for the model, or that its content is not let through.

OpenAI has a code for each; others have codes of their own, or nothing but a sentence. The sentences are matched where
they stand for nothing else: a rate limit also speaks of tokens that are too many.
"""

import re
from collections.abc import Collection
from typing import Literal

Reason = Literal["context_length", "content_policy"]

_CONTEXT_CODES = frozenset(
    {
        "context_length_exceeded",  # OpenAI and most that follow it
        "exceed_context_size_error",  # llama.cpp
        "context_window_exceeded",
        "string_above_max_length",  # OpenAI, of a single text
        "max_context_length_exceeded",
    }
)
_POLICY_CODES = frozenset(
    {
        "content_filter",  # OpenAI, Azure
        "content_policy_violation",
        "responsibleaipolicyviolation",  # Azure, one deeper
        "moderation_blocked",
        "invalid_prompt",  # OpenAI, of prompts to reasoning models
        "data_inspection_failed",  # DashScope
        "prohibited_content",  # Google
        "content_blocked",
    }
)
_CONTEXT_WORDS = re.compile(
    "|".join(
        (
            r"(maximum|max) context length",  # OpenAI, vLLM, SGLang, Mistral, OpenRouter
            r"max_tokens must be at least 1, got -",  # vLLM, where the prompt leaves no room
            r"longer than the (maximum model|model's context) length",  # vLLM, SGLang
            r"exceeds? the (available |model's )?context (size|window|length|limit)",  # llama.cpp, OpenAI
            r"exceeds? (the )?model'?s? (maximum )?context",
            r"exceeds? (maximum )?context (length|limit|window)",  # Ollama, Anthropic
            r"context (length|window|size) (was |is |has been )?exceed",
            r"context window exceeds limit",  # MiniMax
            r"greater than the context length",  # LM Studio
            r"prompt is too long",  # Anthropic
            r"input is too long for (the )?requested model",  # Bedrock
            r"input token count.{0,40} exceeds the maximum",  # Google
            r"maximum prompt length is \d+",  # xAI
            r"prompt token count.{0,40} exceeds the limit",  # Copilot
            r"exceeded model token limit",  # Moonshot
            r"prompt exceeds max length",  # Z.ai
            r"`?inputs`? tokens \+ `?max_new_tokens`? must be <=",  # text-generation-inference
            r"tokens in the prompt cannot exceed",  # Cohere
            r"reduce the length of the (messages|prompt|input)",  # OpenAI, Groq
        )
    ),
    re.IGNORECASE,
)
_POLICY_WORDS = re.compile(
    "|".join(
        (
            r"content management policy",  # Azure
            r"(blocked|rejected|filtered) (by|as a result of|due to) (our |the )?(content|safety|moderation)",
            r"flagged as potentially violating",  # OpenAI
            r"(input|prompt|output|request|content) was flagged",  # OpenRouter
            r"violat\w+ (of )?(our|the|openai's|azure's|google's) (usage|content|safety|acceptable use) polic",
            r"PROHIBITED_CONTENT|blocked due to safety",  # Google
            r"content exists risk",  # DeepSeek
            r"may contain inappropriate content",  # DashScope
        )
    ),
    re.IGNORECASE,
)


def reason_in(codes: Collection[str], message: str) -> Reason | None:
    """Which of the two it is, by the codes and types of an error and then by its sentence; None: neither."""
    named = {code.lower() for code in codes}
    if named & _CONTEXT_CODES:
        return "context_length"
    if named & _POLICY_CODES:
        return "content_policy"
    if _CONTEXT_WORDS.search(message):
        return "context_length"
    return "content_policy" if _POLICY_WORDS.search(message) else None
