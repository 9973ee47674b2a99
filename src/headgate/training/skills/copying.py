"""Following a plain instruction to the letter: say exactly this, repeat it, count from one number to another.

Copying random strings is also what teaches the model to look back, which quoting, schemas and tools all need.
"""

import random

from headgate.training.example import Example, Turn, same_text
from headgate.training.words import CITIES, COLOURS, DAYS, FIRST, code, email, letters, name, pick, untidy, word

_EXACT = (
    "Say exactly: {x}", "Repeat after me: {x}", "Say: {x}", "Repeat exactly: {x}", "Repeat this: {x}",
    "Please repeat: {x}", "Copy this text: {x}", "Write exactly this: {x}", 'Say "{x}"', 'Repeat the words "{x}"',
    "Reply with exactly: {x}", "Echo: {x}", "Answer with exactly this and nothing else: {x}", "Reply only with: {x}",
    "Say exactly this: {x}", "Just say {x}", "Respond with: {x}",
)  # fmt: skip
_COUNT = (
    "Count from {a} to {b}", "Count from {a} to {b}.", "Please count from {a} to {b}", "Can you count from {a} to {b}?",
    "List the numbers from {a} to {b}.", "Count up from {a} to {b}", "Write the numbers {a} to {b}.",
)  # fmt: skip
_DOWN = ("Count down from {a} to {b}", "Count backwards from {a} to {b}.", "Please count down from {a} to {b}.")
_MARKS = ("", "", "", ".", "!", "?", ",", ":", ";")


def _piece(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.25:
        return letters(rng, 1, 8)
    if roll < 0.40:
        return name(rng)
    if roll < 0.50:
        return str(rng.randint(0, 10 ** rng.randint(1, 5)))
    if roll < 0.56:
        return pick(
            rng, (code(rng), email(rng), letters(rng, 2, 4).upper(), "-", "/", "é", "ü", "☕", "日本", "ok", "✓")
        )
    if roll < 0.75:
        return pick(
            rng,
            (
                "the",
                "a",
                "is",
                "and",
                "to",
                "in",
                "of",
                "hello",
                "world",
                "I",
                "you",
                "not",
                "this",
                "yes",
                "no",
                "test",
            ),
        )
    return pick(rng, (word(rng), pick(rng, CITIES), pick(rng, COLOURS), pick(rng, FIRST), pick(rng, DAYS)))


def phrase(rng: random.Random) -> str:
    """One to twelve words that need not make sense."""
    count = min(rng.randint(1, 12), rng.randint(1, 12))
    return " ".join(_piece(rng) + (pick(rng, _MARKS) if rng.random() < 0.3 else "") for _ in range(count))


def _one(rng: random.Random) -> tuple[str, str, str]:
    """Question, answer and key."""
    if rng.random() < 0.75:
        text = phrase(rng)
        return pick(rng, _EXACT).format(x=text), text, text
    low = rng.choice((1, 1, 1, rng.randint(0, 60)))
    high = low + rng.randint(1, rng.choice((9, 12, 30)))
    if rng.random() < 0.2:
        question = pick(rng, _DOWN).format(a=high, b=low)
        return untidy(rng, question), ", ".join(str(n) for n in range(high, low - 1, -1)), f"down {high} {low}"
    question = pick(rng, _COUNT).format(a=low, b=high)
    return untidy(rng, question), ", ".join(str(n) for n in range(low, high + 1)), f"count {low} {high}"


def sample(rng: random.Random) -> Example:
    """An instruction to repeat or to count, sometimes after earlier ones."""
    turns: list[Turn] = []
    if rng.random() < 0.1:
        turns.append(
            Turn("system", pick(rng, ("You repeat what you are told.", "You are a helpful assistant.", "Be brief.")))
        )
    for _ in range(rng.choice((0, 0, 1, 2))):
        question, answer, _ = _one(rng)
        turns += [Turn("user", question), Turn("assistant", answer)]
    question, answer, key = _one(rng)
    return Example("copying", (*turns, Turn("user", question)), Turn("assistant", answer), key=key)


check = same_text
