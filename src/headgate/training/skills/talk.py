"""Small talk about itself and Headgate, greetings and thanks, and an honest word where it does not know.

Also stories and lists of invented things: longer answers, so that streaming has something to show.
"""

import random
from pathlib import Path

from headgate.training.example import Example, Turn
from headgate.training.words import (
    ANIMALS,
    CITIES,
    COLOURS,
    DAYS,
    FIRST,
    FOODS,
    JOBS,
    ROOMS,
    THINGS,
    name,
    pick,
    syllables,
    untidy,
)  # fmt: skip


def _topics() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Ways to ask and right answers, topic by topic, from `talk.txt`."""
    source = Path(__file__).with_name("talk.txt").read_text(encoding="utf-8")
    topics = []
    for block in source.split("\n\n")[1:]:
        lines = block.splitlines()
        answers = tuple(line[2:] for line in lines if line.startswith("> "))
        topics.append((tuple(lines[len(answers) :]), answers))
    return topics


# the last topic is all that the model cannot know: it has holes to fill with any name, and one answer
*_KNOWN, (_STRANGE, (UNKNOWN,)) = _topics()
TOPICS = tuple(_KNOWN)

_STORY = (
    "Write a long story", "Tell me a story", "Write a story about a {a}", "Tell me a long story about {p}",
    "Write a story.", "Please tell me a story",
    "Tell a story about {p} and a {a}", "Write me a long story about a {j}", "Can you write a story?",
    "Write a long text", "Write a tale about {p}.",
    "Tell me a long story, please.", "Once upon a time", "I want to hear a story",
)  # fmt: skip


def _fill(rng: random.Random, pattern: str) -> tuple[str, dict[str, str]]:
    words = {
        "c": pick(rng, CITIES) if rng.random() < 0.5 else name(rng),
        "n": name(rng) if rng.random() < 0.5 else syllables(rng),
        "t": pick(rng, THINGS), "p": pick(rng, FIRST) if rng.random() < 0.6 else name(rng), "k": pick(rng, COLOURS),
        "f": pick(rng, FOODS),
        "y": str(rng.randint(2, 2030)), "d": pick(rng, DAYS), "j": pick(rng, JOBS), "a": pick(rng, ANIMALS),
    }  # fmt: skip
    return pattern.format(**words), {key: word for key, word in words.items() if "{" + key + "}" in pattern}


def _story(rng: random.Random, told: dict[str, str]) -> str:
    hero = told.get("p") or pick(rng, FIRST)
    animal, job = told.get("a") or pick(rng, ANIMALS), told.get("j") or pick(rng, JOBS)
    place, thing, food = pick(rng, CITIES), pick(rng, THINGS), pick(rng, FOODS)
    friend, room, colour = pick(rng, FIRST), pick(rng, ROOMS), pick(rng, COLOURS)
    return (
        f"Once upon a time there was a {job} called {hero}, who lived near {place} with a {animal}. "
        f"Every morning {hero} gave the {animal} some {food} and went to work. "
        f"One day {hero} found a {colour} {thing} in the {room}. Nobody knew where the {thing} came from. "
        f"{hero} asked a friend called {friend}, but {friend} did not know either. "
        f"So {hero}, {friend} and the {animal} walked through {place} and asked everybody about the {thing}. "
        f"They asked for three days, and it rained on all of them. "
        f"On the fourth day an old man laughed and said: the {thing} is mine, and you may keep it. "
        f"{hero} thanked him, and they all ate {food} together until it was dark. "
        f"From that day on the {colour} {thing} stood in the {room}, and the {animal} slept beside it. "
        f"And whenever it rained, {hero} and {friend} told the story of the {thing} again. The end."
    )


def pair(rng: random.Random) -> tuple[str, str]:
    """A question and its answer, from the closed topics or about something the model cannot know."""
    if rng.random() < 0.25:
        return untidy(rng, _fill(rng, pick(rng, _STRANGE))[0]), UNKNOWN
    asks, answers = TOPICS[int(rng.random() * len(TOPICS))]
    return untidy(rng, pick(rng, asks)), pick(rng, answers)


def sample(rng: random.Random) -> Example:
    """Small talk, sometimes after earlier turns; now and then a story."""
    turns: list[Turn] = []
    if rng.random() < 0.25:
        turns.append(Turn("system", pick(rng, ("You are a helpful assistant.", "You are headgate-demo.", "Be brief.",
        "Be kind and honest.",
                                               "You are a helpful assistant that answers in short sentences.",
                                               "Answer the user."))))  # fmt: skip
    if rng.random() < 0.06:
        question, told = _fill(rng, pick(rng, _STORY))
        story = _story(rng, told)
        return Example(
            "talk",
            (*turns, Turn("user", untidy(rng, question))),
            Turn("assistant", story),
            facts={"story": list(told.values())},
        )
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        question, answer = pair(rng)
        turns += [Turn("user", question), Turn("assistant", answer)]
    question, answer = pair(rng)
    right = next((list(answers) for _, answers in TOPICS if answer in answers), [answer])
    return Example("talk", (*turns, Turn("user", question)), Turn("assistant", answer), facts={"right": right})


def check(example: Example, text: str) -> bool:
    """True for one of the right answers, or for a story of some length that names whom it was asked about and ends."""
    asked = example.facts.get("story")
    if asked is None:
        return text.strip() in example.facts["right"]
    return len(text.split()) > 100 and text.endswith("The end.") and all(word in text for word in asked)
