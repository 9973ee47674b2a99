"""Word lists and the makers of invented names, shared by all skills."""

import random
from collections.abc import Sequence


def listed(text: str) -> tuple[str, ...]:
    """The words of a text, as one writes a long list without a hundred quotes."""
    return tuple(text.split())


FIRST = listed(
    "Anna Ben Clara David Elena Felix Grace Hugo Ines Jonas Kira Leo Maria Nadia Oscar Paula Quentin Rosa Samir Tara "
    "Ugo Vera Walter Xenia Yusuf Zoe Amir Bella Carlos Dina Emil Fatima Georg Hana Ivan Julia Karim Lena Marta Nils "
    "Olga Pedro Rita Sven Tina Omar Alice Bob Chen Mei Priya Raj Aisha Kofi Ama Diego Sofia Liam Noah Emma Mia Lucas"
)
LAST = listed(
    "Smith Jones Garcia Lopez Muller Weber Rossi Silva Santos Kim Lee Park Chen Wang Singh Patel Khan Novak Horvat "
    "Berg Lund Hansen Costa Moreau Dubois Fischer Wagner Keller Brown Green Young King Wright Hill Baker Cooper Diaz"
)
CITIES = listed(
    "Paris London Berlin Madrid Rome Vienna Oslo Lima Cairo Tokyo Delhi Boston Dublin Lisbon Prague Athens Nairobi "
    "Seoul Sydney Toronto Chicago Warsaw Geneva Munich Porto Lyon Milan Naples Kyoto Osaka Bogota Quito Accra Lagos "
    "Denver Austin Seattle Hamburg Zurich Helsinki Stockholm Budapest Bern Turin Leeds Bristol Montreal Mumbai Hanoi"
)
COLOURS = listed("red blue green yellow black white orange purple silver brown grey pink gold")
ANIMALS = listed("cat dog horse parrot rabbit goat turtle hamster donkey pony duck goose ferret owl lizard")
FOODS = listed(
    "soup pizza rice bread pasta cheese salad curry pancakes noodles dumplings beans apples plums cherries honey stew "
    "omelette lentils mushrooms pears waffles"
)
JOBS = listed(
    "baker teacher doctor pilot farmer painter nurse lawyer gardener carpenter singer sailor librarian chemist driver "
    "tailor plumber writer dentist engineer potter miller judge clerk"
)
THINGS = listed(
    "lamp chair table kettle radio camera bicycle backpack jacket mug notebook pen clock blanket pillow mirror ladder "
    "hammer drill tent candle basket umbrella wallet watch speaker keyboard mouse printer monitor scarf helmet"
)
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("January February March April May June July August September October November December")
ROOMS = listed("kitchen bedroom bathroom office garage hall attic cellar library studio")
LANGUAGES = listed("French German Spanish Italian Polish Dutch Swedish Greek Turkish Hindi Arabic Korean")

_ONSET = listed("b c d f g h j k l m n p r s t v w z br ch cl cr dr fl gr kr pl pr sh sk sl sp st th tr")
_VOWEL = listed("a e i o u a e i o u ai ea ee ia io oa oo ou")
_CODA = ["", "", "", "", "l", "m", "n", "r", "s", "t", "k", "x", "nd", "rn", "st", "lm", "th", "ck"]


def pick(rng: random.Random, items: Sequence[str]) -> str:
    """One of the items."""
    return items[int(rng.random() * len(items))]


def syllables(rng: random.Random, low: int = 2, high: int = 3) -> str:
    """An invented word in lower case, such as `brodal`."""
    count = rng.randint(low, high)
    return "".join(
        pick(rng, _ONSET) + pick(rng, _VOWEL) + (pick(rng, _CODA) if i == count - 1 else "") for i in range(count)
    )


def name(rng: random.Random) -> str:
    """An invented proper name, such as `Brodal`."""
    return syllables(rng).capitalize()


def letters(rng: random.Random, low: int = 2, high: int = 7) -> str:
    """Random letters and digits, such as `k3fx9`: nothing to guess, only to copy."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(rng.randint(low, high)))


def code(rng: random.Random) -> str:
    """A code such as `TK-4821`."""
    return (
        "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
        + "-"
        + str(rng.randint(10, 9999))
    )


def person(rng: random.Random) -> str:
    """A person: a known first name or an invented one, often with a family name."""
    first = pick(rng, FIRST) if rng.random() < 0.5 else name(rng)
    if rng.random() < 0.5:
        return first
    return first + " " + (pick(rng, LAST) if rng.random() < 0.5 else name(rng))


def city(rng: random.Random) -> str:
    """A city, real or invented."""
    return pick(rng, CITIES) if rng.random() < 0.5 else name(rng)


def email(rng: random.Random) -> str:
    """An address at a made-up domain."""
    return f"{syllables(rng)}@{syllables(rng)}.{pick(rng, ('com', 'org', 'net', 'io', 'example'))}"


def word(rng: random.Random) -> str:
    """A plain lower-case noun, sometimes invented."""
    roll = rng.random()
    if roll < 0.25:
        return syllables(rng)
    return pick(rng, THINGS + FOODS + ANIMALS + ROOMS)


def money(rng: random.Random) -> str:
    """An amount such as `48 euros`."""
    return f"{rng.randint(2, 990)} {pick(rng, ('euros', 'dollars', 'pounds', 'crowns'))}"


def untidy(rng: random.Random, text: str) -> str:
    """`text` as people type it: now and then in another case, or without its last mark."""
    roll = rng.random()
    if roll < 0.06:
        text = text.lower()
    elif roll < 0.07:
        text = text.upper()
    if rng.random() < 0.12 and text[-1:] in ".?!":
        text = text[:-1]
    elif rng.random() < 0.03:
        text += pick(rng, ("!", "?", "...", " :)", "!!"))
    return text
