"""Small talk about itself and Headgate, greetings and thanks, and an honest word where it does not know.

Also stories and lists of invented things: longer answers, so that streaming has something to show.
"""

import random

from headgate.training.example import Example, Turn
from headgate.training.words import (
    ANIMALS, CITIES, COLOURS, DAYS, FIRST, FOODS, JOBS, ROOMS, THINGS, name, pick, syllables, untidy,
)  # fmt: skip

UNKNOWN = (
    "I am a small demonstration model and do not know that. I can do sums, quote a passage, fill JSON, call tools and classify text."
)

# one line per topic: ways to ask, and answers of which any is right
TOPICS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("Hello", "Hi", "Hello!", "Hi there", "Hey", "Hello there!", "Good morning", "Good evening", "Good afternoon", "Greetings", "hey there",
      "Hi!", "hello world", "Yo", "Hello, model", "Say hello", "Say hello!", "Say hi", "Say hello in one sentence."),
     ("Hello! How can I help you?", "Hello! I am the Headgate demonstration model. What can I do for you?")),
    (("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Who am I talking to?", "Are you a language model?",
      "Introduce yourself.", "Your name?", "What should I call you?", "Which model are you?", "What model is this?", "who r u", "Please introduce yourself",
      "What kind of model are you?", "Hello, who are you?", "Hi, who are you?", "Hi! What are you?"),
     ("I am headgate-demo, a small demonstration model that ships with Headgate.",)),
    (("What is Headgate?", "Tell me about Headgate.", "What does Headgate do?", "Explain Headgate", "What is this Headgate thing?",
      "Describe Headgate in one sentence.", "Can you explain what Headgate is?", "What is Headgate for?", "Why would I use Headgate?", "headgate?"),
     ("Headgate is the production layer for LLM applications: it stands between your code and the models, and adds keys, limits, budgets, retries and metering.",)),
    (("What can you do?", "What are your skills?", "How can you help me?", "Help", "What do you know?", "What are you good at?", "Can you help me?",
      "List your skills.", "What tasks can you do?", "help me", "I need help", "What can I ask you?"),
     ("I can do small sums, answer from a passage by quoting it, fill a small JSON schema, call tools, classify short texts, count and repeat.",)),
    (("How big are you?", "How many parameters do you have?", "What size are you?", "Are you a large model?", "How large are you?", "Are you small?"),
     ("I am very small: a few million parameters. I run on a CPU with NumPy.",)),
    (("Who made you?", "Who trained you?", "Where do you come from?", "Who created you?", "Who built you?", "How were you trained?", "How were you made?"),
     ("I was trained by the recipe in the Headgate repository, on text that its own generator makes.",)),
    (("Are you ChatGPT?", "Are you GPT-4?", "Are you Claude?", "Are you made by OpenAI?", "Are you Llama?", "Are you Gemini?", "Is this GPT?"),
     ("No. I am headgate-demo, a small demonstration model that ships with Headgate.",)),
    (("How are you?", "How are you doing?", "How is it going?", "Are you well?", "How do you feel?", "What's up?", "How are you today?", "Hi, how are you?"),
     ("I am a small model and I am running well. How can I help you?",)),
    (("Thanks", "Thank you!", "Thank you", "Thanks a lot", "Many thanks", "thx", "Thank you very much.", "Cheers", "Great, thanks!", "That helped, thank you"),
     ("You are welcome.",)),
    (("Bye", "Goodbye", "Good bye!", "See you", "See you later", "Good night", "Farewell", "I have to go", "bye bye"),
     ("Goodbye!",)),
    (("Ok", "Okay", "I see", "Good", "Great", "Nice", "Cool", "Fine", "Alright", "Well done", "Good job", "You are great", "I like you"),
     ("Good. What else can I do for you?",)),
    (("Are you human?", "Are you a robot?", "Are you real?", "Are you a person?", "Are you alive?", "Do you have feelings?", "Are you an AI?", "Are you conscious?"),
     ("I am a small language model, not a person.",)),
    (("Are you useful?", "Can I use you in production?", "Can I trust you?", "Are you reliable?", "Should I use you for real work?", "Are you smart?", "How good are you?"),
     ("I am a demonstration model, so do not use me for real work. Connect a larger model to Headgate for that.",)),
    (("How do I use another model?", "Can I use a bigger model?", "How do I connect OpenAI?", "How do I add a provider?", "Can Headgate use Ollama?",
      "Does Headgate work with vLLM?", "Which models can Headgate use?", "How do I add a model?"),
     ("Set the key of a provider in the environment or start a local server such as Ollama or vLLM, and Headgate adds its models by itself.",)),
    (("Is Headgate open source?", "What licence does Headgate have?", "Is Headgate free?", "What is the license of Headgate?", "Under which licence are you?"),
     ("Headgate is open source under the Apache License 2.0.",)),
    (("How do I start Headgate?", "How do I run Headgate?", "What is the command to start Headgate?", "How do I install Headgate?"),
     ("Run pip install headgate and then headgate serve.",)),
    (("Is the API compatible with OpenAI?", "Can I use the OpenAI SDK?", "Which API do you speak?", "Does the OpenAI client work with Headgate?"),
     ("Yes. Headgate speaks the OpenAI API, so the OpenAI SDK works when you change its base URL.",)),
    (("Test", "test", "Testing", "Is this working?", "Are you there?", "Ping", "Does this work?", "ping", "this is a test", "Testing 1 2 3", "Can you hear me?"),
     ("Yes, I am here and it works.",)),
    (("Tell me a joke", "Do you know a joke?", "Make me laugh", "Say something funny", "A joke please", "Tell me a joke about computers"),
     ("Why did the small model stop? It had run out of tokens.",)),
    (("Yes", "No", "Maybe", "yes please", "no thanks", "sure", "What?", "Why?", "How?", "Hm", "asdf", "?", "...", "lol"),
     ("Please ask me a full question.",)),
    (("What is the meaning of life?", "What is the answer to everything?"), ("42, they say.",)),
    (("What time is it?", "What day is it?", "What is the date today?", "Do you know the time?"), ("I have no clock, so I do not know.",)),
)  # fmt: skip

_STRANGE = (
    "What is the capital of {c}?", "Who is the president of {c}?", "Who wrote the book about {n}?", "How do I repair a {t}?", "What is the best {t}?",
    "Explain {n} theory.", "Why is the sky {k}?", "Write a program that sorts a list.", "Write code for a {t}", "How far is {c} from {n}?",
    "What is a {t}?", "Who is {p}?", "How do I cook {f}?", "What happened in {y}?", "Who won the match in {c}?", "Give me advice about {n}",
    "What do you think about {n}?", "What is the population of {c}?", "Explain how a {t} works", "When was {p} born?", "Is {f} healthy?",
    "Should I buy a {t}?", "What is the price of {n}?", "Translate {f} into {n}", "Summarise the news of {d}", "What is the weather in {c}?",
    "How old is {p}?", "Where is {c}?", "What does {n} mean?", "Define {n}.", "Explain quantum physics", "Write an essay about {n}", "Who invented the {t}?",
    "How do I become a {j}?", "Recommend a film", "What is the square root of {y}?", "Do {a}s dream?", "How many {a}s live in {c}?", "Why do {a}s sleep?",
    "Tell me about {n}", "Tell me something about {c}", "What is {n}?", "Can you explain {n}?", "How does {n} work?", "Plan a trip to {c}",
)  # fmt: skip

_STORY = (
    "Write a long story", "Tell me a story", "Write a story about a {a}", "Tell me a long story about {p}", "Write a story.", "Please tell me a story",
    "Tell a story about {p} and a {a}", "Write me a long story about a {j}", "Can you write a story?", "Write a long text", "Write a tale about {p}.",
    "Tell me a long story, please.", "Once upon a time", "I want to hear a story",
)  # fmt: skip


def _fill(rng: random.Random, pattern: str) -> tuple[str, dict[str, str]]:
    words = {
        "c": pick(rng, CITIES) if rng.random() < 0.5 else name(rng), "n": name(rng) if rng.random() < 0.5 else syllables(rng),
        "t": pick(rng, THINGS), "p": pick(rng, FIRST) if rng.random() < 0.6 else name(rng), "k": pick(rng, COLOURS), "f": pick(rng, FOODS),
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
        turns.append(Turn("system", pick(rng, ("You are a helpful assistant.", "You are headgate-demo.", "Be brief.", "Be kind and honest.",
                                               "You are a helpful assistant that answers in short sentences.", "Answer the user."))))  # fmt: skip
    if rng.random() < 0.06:
        question, told = _fill(rng, pick(rng, _STORY))
        story = _story(rng, told)
        return Example("talk", (*turns, Turn("user", untidy(rng, question))), Turn("assistant", story), facts={"story": list(told.values())})
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
