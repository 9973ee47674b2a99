"""Classifying a short text under labels given in the prompt: feeling, topic, spam, urgency, intent, language."""

import random

from headgate.training.example import Example, Turn, same_text
from headgate.training.words import CITIES, DAYS, FIRST, THINGS, name, pick, untidy

# family -> label -> texts; {t} a thing, {p} a person, {c} a place, {d} a day
TEXTS: dict[str, dict[str, tuple[str, ...]]] = {
    "sentiment": {
        "positive": (
            "I love this {t}.", "The {t} is great and works very well.", "Best {t} I ever bought!", "What a wonderful day in {c}.",
            "{p} was friendly and very helpful.", "I am so happy with my new {t}.", "Excellent service, thank you {p}!",
            "The food in {c} was delicious.", "This {t} is perfect.", "Amazing quality, I will buy it again.",
            "I really enjoyed the film.", "Fantastic! The {t} arrived early.", "A beautiful {t}, I like it a lot.",
        ),
        "negative": (
            "I hate this {t}.", "The {t} is awful and does not work.", "Worst {t} I ever bought!", "What a terrible day in {c}.",
            "{p} was rude and not helpful at all.", "I am very unhappy with my new {t}.", "Horrible service, never again.",
            "The food in {c} was disgusting.", "This {t} is useless.", "Poor quality, it broke on {d}.",
            "The film was boring and bad.", "Terrible! The {t} arrived broken.", "An ugly {t}, I want my money back.",
        ),
        "neutral": (
            "The {t} is on the table.", "{p} bought a {t} on {d}.", "The shop opens on {d}.", "The train to {c} leaves at nine.",
            "The {t} has two parts.", "{p} lives in {c}.", "The meeting is on {d}.", "The box contains a {t}.",
        ),
    },
    "topic": {
        "sports": (
            "The team from {c} won the match.", "{p} scored two goals on {d}.", "The tennis final is played in {c}.",
            "The coach was proud of the players.", "{p} won the race and broke the record.", "The football club signed {p}.",
        ),
        "cooking": (
            "Boil the pasta and add salt.", "{p} bakes bread with flour and butter.", "Stir the soup slowly in the pot.",
            "Fry the onions in oil.", "This recipe needs two eggs and sugar.", "Put the cake in the oven.",
        ),
        "weather": (
            "It will rain in {c} on {d}.", "Snow and strong wind are expected.", "A sunny and warm day in {c}.",
            "The storm reached {c} on {d}.", "Clouds in the morning, then sun.", "The temperature falls below zero tonight.",
        ),
        "technology": (
            "The new phone has a faster chip.", "{p} wrote software for the computer.", "The app was updated on {d}.",
            "The laptop has a bigger screen.", "Engineers in {c} built a robot.", "The server stores the data.",
        ),
        "politics": (
            "The minister spoke in parliament.", "{p} won the election in {c}.", "The government passed a new law.",
            "Voters in {c} go to the polls on {d}.", "The president met the mayor of {c}.", "The party chose {p} as its candidate.",
        ),
        "music": (
            "{p} plays the piano.", "The band gave a concert in {c}.", "Her new album has ten songs.", "The choir sings on {d}.",
            "The orchestra played in {c}.", "{p} sang and played the guitar.",
        ),
        "health": (
            "The doctor told {p} to rest.", "Wash your hands and drink water.", "The hospital in {c} hired nurses.",
            "{p} takes this medicine twice a day.", "The patient had a fever on {d}.", "A vaccine was tested in {c}.",
        ),
    },
    "spam": {
        "spam": (
            "You have won a free {t}! Click here now.", "Claim your prize of one million today!!!", "Cheap {t}, buy now, limited offer!",
            "Congratulations, you are our lucky winner.", "Earn money fast from home, no work.", "Free gift card! Reply with your password.",
            "Your account is locked, click this link at once.", "Hot deal: 90% off every {t}!!!",
        ),
        "not spam": (
            "Hi {p}, are we still meeting on {d}?", "Please find the report attached.", "Mum, I will be home late on {d}.",
            "The {t} you ordered has been sent to {c}.", "Can you send me the notes from {d}?", "Thanks for lunch, {p}.",
            "Your appointment is on {d} at ten.", "{p} asked about the {t} in the office.",
        ),
    },
    "urgency": {
        "high": (
            "The server is down and nobody can work!", "Fire in the building in {c}, come now!", "Urgent: {p} needs help at once.",
            "Production stopped, please fix it immediately.", "All customers are locked out, act now.", "Emergency: the {t} is burning.",
            "We lose money every minute, help right now!", "The payment system fails for everybody, urgent!",
        ),
        "low": (
            "When you have time, look at the {t}.", "No hurry, but the {t} could be cleaned.", "Someday we might paint the office in {c}.",
            "A small idea for next year from {p}.", "Just a question, it can wait until {d}.", "The colour of the {t} could be nicer.",
            "Nothing important, I only wanted to say hello.", "Whenever it suits you, send the {t}.",
        ),
    },
    "intent": {
        "refund": (
            "I want my money back for the {t}.", "Please refund my order.", "How do I get a refund for this {t}?",
            "Return my payment, the {t} was wrong.", "I sent the {t} back, where is my money?",
        ),
        "delivery": (
            "Where is my {t}?", "When will my parcel arrive?", "My order has not been delivered to {c}.",
            "Can you ship the {t} to {c}?", "The parcel should have come on {d}.",
        ),
        "account": (
            "I forgot my password.", "I cannot log in.", "Please change my email address.", "How do I delete my account?",
            "My login does not work since {d}.",
        ),
        "praise": (
            "Thank you, the {t} is great.", "Your team is wonderful.", "I love your shop in {c}.", "{p} did a great job, thanks!",
            "Very happy with everything.",
        ),
    },
    "language": {
        "English": ("The house is big.", "I am going home now.", "Where is my {t}?", "She reads a book.", "Good morning, {p}."),
        "French": ("La maison est grande.", "Je vais chez moi maintenant.", "Où est la gare de {c} ?", "Elle lit un livre.", "Bonjour, {p}."),
        "German": ("Das Haus ist groß.", "Ich gehe jetzt nach Hause.", "Wo ist der Bahnhof von {c}?", "Sie liest ein Buch.", "Guten Morgen, {p}."),
        "Spanish": ("La casa es grande.", "Voy a mi casa ahora.", "¿Dónde está la estación de {c}?", "Ella lee un libro.", "Buenos días, {p}."),
    },
}  # fmt: skip

_ASK = (
    "Classify the text as {l}.\nText: {x}", "Is this {l}? {x}", "Which label fits: {l}? {x}", "Labels: {l}\nText: {x}\nLabel:",
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
    for _ in range(rng.choice((1, 1, 2, 3))):
        label = pick(rng, labels)
        text = _text(rng, pick(rng, groups[label]))
        question = text if standing else pick(rng, _ASK).format(l=listed, x=text, f=family)
        turns += [Turn("user", question), Turn("assistant", label)]
    answer = turns.pop()
    return Example("classify", tuple(turns), answer, key=turns[-1].content)


check = same_text
