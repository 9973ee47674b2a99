"""Classifying a short text under labels given in the prompt: feeling, topic, spam, urgency, intent, language."""

import random
from pathlib import Path

from headgate.training.example import Example, Turn, same_text
from headgate.training.words import CITIES, DAYS, FIRST, THINGS, name, pick, untidy


def _families() -> dict[str, dict[str, tuple[str, ...]]]:
    """Family, label and texts from `classify.txt`."""
    source = Path(__file__).with_name("classify.txt").read_text(encoding="utf-8")
    families: dict[str, dict[str, tuple[str, ...]]] = {}
    for block in source.split("\n== ")[1:]:
        family, *groups = block.strip().split("\n-- ")
        families[family] = {label: tuple(texts) for label, *texts in (group.splitlines() for group in groups)}
    return families


TEXTS = _families()

_ASK = (
    "Classify the text as {l}.\nText: {x}", "Is this {l}? {x}", "Which label fits: {l}? {x}",
    "Labels: {l}\nText: {x}\nLabel:",
    "Choose one of {l} for this text: {x}", 'Classify "{x}" as {l}.', "{x}\n\nAnswer with one of: {l}.",
    "Classify this message ({l}): {x}", "Pick the right label from {l}.\n\n{x}", "Classify: {x}\nOptions: {l}",
    "What is the {f} of this text: {l}? {x}", "Decide on the {f} ({l}): {x}",
)  # fmt: skip
_SYSTEM = (
    "Classify each message as {l}. Answer with the label only.", "You label texts. Labels: {l}.",
    "You are a classifier. Answer only with one of: {l}.",
)  # fmt: skip


def _text(rng: random.Random, pattern: str) -> str:
    first = pick(rng, FIRST) if rng.random() < 0.6 else name(rng)
    place = pick(rng, CITIES) if rng.random() < 0.6 else name(rng)
    return untidy(rng, pattern.format(t=pick(rng, THINGS), p=first, c=place, d=pick(rng, DAYS)))


def _listed(rng: random.Random, labels: list[str]) -> str:
    if rng.random() < 0.5:
        return ", ".join(labels)
    joined = ", ".join(labels[:-1])
    return f"{joined} or {labels[-1]}"


def sample(rng: random.Random) -> Example:
    """One text to label, or several one after the other under the same labels."""
    family = pick(rng, tuple(TEXTS))
    groups = TEXTS[family]
    labels = rng.sample(sorted(groups), rng.randint(2, min(4, len(groups))))
    listed = _listed(rng, labels)
    standing = rng.random() < 0.3
    turns = [Turn("system", pick(rng, _SYSTEM).format(l=listed))] if standing else []
    for _ in range(rng.choice((1, 2, 3, 4, 5))):
        label = pick(rng, labels)
        text = _text(rng, pick(rng, groups[label]))
        question = text if standing else pick(rng, _ASK).format(l=listed, x=text, f=family)
        turns += [Turn("user", question), Turn("assistant", label)]
    answer = turns.pop()
    return Example("classify", tuple(turns), answer, key=turns[-1].content)


check = same_text
