"""Answering from a supplied passage by quoting it, and saying so when the passage does not hold the answer."""

import random
from collections.abc import Callable

import msgspec

from headgate.training.example import Example, Turn
from headgate.training.words import (
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    LANGUAGES,
    MONTHS,
    THINGS,
    city,
    code,
    money,
    name,
    person,
    pick,
    untidy,
)  # fmt: skip

ABSENT = "The passage does not say."
Maker = Callable[[random.Random], str]


class Relation(msgspec.Struct, frozen=True):
    """One kind of fact: {s} is the subject, {v} the value."""

    value: Maker
    says: tuple[str, ...]
    asks: tuple[str, ...]


def _of(items: tuple[str, ...]) -> Maker:
    return lambda rng: pick(rng, items)


def _count(low: int, high: int) -> Maker:
    return lambda rng: str(rng.randint(low, high))


R = Relation
_EVENTS = ("festival", "meeting", "concert", "fair", "workshop", "race")
KINDS: dict[str, tuple[Maker, dict[str, Relation]]] = {
    "person": (person, {
        "job": R(_of(JOBS), ("{s} works as a {v}.", "{s} is a {v}.", "{s} has been a {v} for years."),
                 ("What is {s}'s job?", "What does {s} do for work?", "What is the job of {s}?")),
        "home": R(city, ("{s} lives in {v}.", "The home of {s} is in {v}.", "{s} moved to {v} last year."),
                  ("Where does {s} live?", "In which city does {s} live?", "What city is {s} in?")),
        "age": R(_count(18, 95), ("{s} is {v} years old.", "{s} turned {v} this year.",
        "At {v}, {s} still feels young."),
                 ("How old is {s}?", "What is the age of {s}?", "What is {s}'s age?")),
        "pet": R(_of(ANIMALS), ("{s} has a pet {v}.", "The pet of {s} is a {v}.", "{s} keeps a {v} at home."),
                 ("What pet does {s} have?", "Which animal does {s} keep?", "What is {s}'s pet?")),
        "food": R(_of(FOODS), ("{s} likes {v} best.", "The favourite food of {s} is {v}.", "{s} eats {v} every week."),
                  ("What is {s}'s favourite food?", "What does {s} like to eat?", "Which food does {s} like?")),
        "language": R(_of(LANGUAGES), ("{s} speaks {v}.", "{s} learned {v} at school.", "{s} is fluent in {v}."),
                      ("What language does {s} speak?", "Which language does {s} know?")),
        "boss": R(person, ("{s} works for {v}.", "The boss of {s} is {v}.", "{s} reports to {v}."),
                  ("Who does {s} work for?", "Who is the boss of {s}?", "Who is {s}'s boss?")),
        "phone": R(_count(1000, 99999), ("The phone number of {s} is {v}.", "{s} can be called at {v}."),
                   ("What is {s}'s phone number?", "What is the phone number of {s}?")),
    }),
    "place": (name, {
        "river": R(name, ("{s} lies on the river {v}.", "The river {v} flows through {s}."),
                   ("Which river flows through {s}?", "On which river is {s}?", "What is the river of {s}?")),
        "population": R(_count(200, 90000), ("{s} has {v} inhabitants.", "About {v} people live in {s}.",
        "The population of {s} is {v}."),
                        ("How many people live in {s}?", "What is the population of {s}?")),
        "mayor": R(person, ("The mayor of {s} is {v}.", "{v} is the mayor of {s}.",
        "{v} has run {s} as mayor since May."),
                   ("Who is the mayor of {s}?", "What is the name of {s}'s mayor?")),
        "founded": R(_count(900, 1990), ("{s} was founded in {v}.", "The town of {s} dates from {v}."),
                     ("When was {s} founded?", "In which year was {s} founded?", "How old is the town of {s}?")),
        "known": R(_of(FOODS), ("{s} is famous for its {v}.", "{s} is known for its {v}."),
                   ("What is {s} famous for?", "What is {s} known for?")),
        "market": R(_of(DAYS), ("The market of {s} is held on {v}.", "{s} has a market every {v}."),
                    ("On which day is the market in {s}?", "When is the market of {s}?")),
    }),
    "product": (lambda rng: f"the {name(rng)} {pick(rng, THINGS)}", {
        "price": R(money, ("{s} costs {v}.", "The price of {s} is {v}.", "You can buy {s} for {v}."),
                   ("How much does {s} cost?", "What is the price of {s}?", "What does {s} cost?")),
        "colour": R(_of(COLOURS), ("{s} comes in {v}.", "{s} is {v}.", "The colour of {s} is {v}."),
                    ("What colour is {s}?", "What is the colour of {s}?")),
        "weight": R(lambda rng: f"{rng.randint(2, 900)} grams", ("{s} weighs {v}.", "The weight of {s} is {v}."),
                    ("How much does {s} weigh?", "What is the weight of {s}?", "How heavy is {s}?")),
        "maker": R(name, ("{s} is made by {v}.", "{v} makes {s}.", "The maker of {s} is {v}."),
                   ("Who makes {s}?", "Who is the maker of {s}?", "Which company makes {s}?")),
        "warranty": R(lambda rng: f"{rng.randint(2, 48)} months", ("{s} has a warranty of {v}.",
        "The warranty of {s} lasts {v}."),
                      ("How long is the warranty of {s}?", "What is the warranty of {s}?")),
        "code": R(code, ("The code of {s} is {v}.", "{s} is listed as {v}."), ("What is the code of {s}?",
        "Which code does {s} have?")),
    }),
    "company": (lambda rng: name(rng) + pick(rng, ("", "", " Labs", " Foods", " Group", " Works")), {
        "founder": R(person, ("{s} was started by {v}.", "The founder of {s} is {v}.", "{v} founded {s}."),
                     ("Who founded {s}?", "Who is the founder of {s}?", "Who started {s}?")),
        "seat": R(city, ("{s} is based in {v}.", "The head office of {s} is in {v}."),
                  ("Where is {s} based?", "Where is the head office of {s}?")),
        "staff": R(_count(5, 9000), ("{s} employs {v} people.", "{s} has {v} employees."),
                   ("How many people does {s} employ?", "How many employees does {s} have?")),
        "product": R(lambda rng: pick(rng, THINGS) + "s", ("{s} sells {v}.", "{s} makes {v}."),
        ("What does {s} sell?", "What does {s} make?")),
        "year": R(_count(1850, 2025), ("{s} opened in {v}.", "{s} has existed since {v}."), ("When did {s} open?",
        "Since when has {s} existed?")),
    }),
    "event": (lambda rng: f"the {name(rng)} {pick(rng, _EVENTS)}", {
        "date": R(lambda rng: f"{rng.randint(1, 28)} {pick(rng, MONTHS)}", ("{s} takes place on {v}.",
        "The date of {s} is {v}.", "{s} is on {v}."),
                  ("When is {s}?", "On what date is {s}?", "What is the date of {s}?")),
        "venue": R(city, ("{s} is held in {v}.", "{v} hosts {s}."), ("Where is {s}?", "Where is {s} held?",
        "Which city hosts {s}?")),
        "ticket": R(money, ("A ticket for {s} costs {v}.", "Tickets for {s} are {v}."),
        ("How much is a ticket for {s}?", "What does a ticket for {s} cost?")),
        "host": R(person, ("{v} leads {s}.", "{s} is run by {v}."), ("Who leads {s}?", "Who runs {s}?")),
    }),
}  # fmt: skip

_FRAMES = (
    "Passage: {p}\n\nQuestion: {q}", "{p}\n\n{q}", "Passage:\n{p}\n\n{q}", "Context: {p}\nQuestion: {q}",
    "Read this text: {p}\n{q}", "Text: {p}\n\nAnswer this question from the text: {q}",
    "Use the passage to answer.\n\n{p}\n\n{q}",
    "Question: {q}\n\nPassage: {p}", "Answer from the passage.\nPassage: {p}\nQuestion: {q}", "{q}\n\nContext:\n{p}",
)  # fmt: skip
_SYSTEM = (
    "Answer from this passage.\n{p}",
    "Passage: {p}",
    "You answer questions about this text: {p}",
    "Context:\n{p}",
)
_SHORT = (" Answer in a few words.", " Answer briefly.", " Give only the value.", " Short answer please.")


class Fact(msgspec.Struct, frozen=True):
    """One sentence of a passage and what it states."""

    kind: str
    subject: str
    relation: str
    value: str
    sentence: str


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def passage(rng: random.Random) -> list[Fact]:
    """Two to seven facts about one to three invented things, in any order."""
    facts: list[Fact] = []
    kinds = [pick(rng, tuple(KINDS)) for _ in range(rng.randint(1, 3))]
    if len(kinds) > 1 and rng.random() < 0.6:
        kinds[1] = kinds[0]  # two of a kind: the question must be bound to the right one
    for kind in kinds:
        maker, relations = KINDS[kind]
        subject = maker(rng)
        for relation in rng.sample(sorted(relations), rng.randint(1, min(4, 8 // len(kinds), len(relations)))):
            rule = relations[relation]
            value = rule.value(rng)
            facts.append(
                Fact(kind, subject, relation, value, _capital(pick(rng, rule.says).format(s=subject, v=value)))
            )
    rng.shuffle(facts)
    return facts[:7]


def _ask(rng: random.Random, facts: list[Fact]) -> tuple[str, str, dict[str, str]]:
    """A question on the passage, its answer, and what an answer must hold."""
    fact = facts[int(rng.random() * len(facts))]
    relations = KINDS[fact.kind][1]
    stated = {f.relation for f in facts if f.subject == fact.subject}
    missing = [relation for relation in relations if relation not in stated]
    if missing and rng.random() < 0.25:
        question = pick(rng, relations[pick(rng, missing)].asks).format(s=fact.subject)
        return untidy(rng, question), ABSENT, {"value": ABSENT}
    question = pick(rng, relations[fact.relation].asks).format(s=fact.subject)
    if rng.random() < 0.25:
        return untidy(rng, question) + pick(rng, _SHORT), fact.value, {"value": fact.value}
    return untidy(rng, question), fact.sentence, {"value": fact.value, "sentence": fact.sentence}


def sample(rng: random.Random) -> Example:
    """A passage and one question or several on it."""
    facts = passage(rng)
    body = " ".join(fact.sentence for fact in facts)
    question, answer, holds = _ask(rng, facts)
    if rng.random() < 0.25:
        turns = [Turn("system", pick(rng, _SYSTEM).format(p=body)), Turn("user", question)]
    else:
        turns = [Turn("user", pick(rng, _FRAMES).format(p=body, q=question))]
        if rng.random() < 0.08:
            turns.insert(
                0,
                Turn(
                    "system", pick(rng, ("You are a helpful assistant.", "Answer only from the passage.", "Be honest."))
                ),
            )
    for _ in range(rng.choice((0, 1, 2, 3))):
        turns.append(Turn("assistant", answer))
        question, answer, holds = _ask(rng, facts)
        turns.append(Turn("user", question))
    return Example("quote", tuple(turns), Turn("assistant", answer), key=body + turns[-1].content, facts=dict(holds))


def check(example: Example, text: str) -> bool:
    """True when the answer is the right sentence of the passage word for word, or the bare value."""
    answer = text.strip()
    return answer == example.facts["value"] or answer == example.facts.get("sentence")
