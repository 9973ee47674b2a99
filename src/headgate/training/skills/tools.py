"""Choosing one of a few tools and filling its arguments, doing without one, and answering after a tool's result.

Half of the tools have invented names built from a verb and a noun, so that the model learns to match the request with
what is listed and not with names it knows.
"""

import json
import random
from collections.abc import Callable, Sequence

import msgspec

from headgate.training.example import Example, Json, ToolCall, Turn, calls_in, same_text, without_calls
from headgate.training.skills import talk
from headgate.training.words import (
    COLOURS,
    DAYS,
    FOODS,
    LANGUAGES,
    ROOMS,
    THINGS,
    city,
    code,
    email,
    listed,
    name,
    person,
    pick,
    syllables,
    untidy,
    word,
)  # fmt: skip

NO_TOOL = "I have no tool for that."
Value = Callable[[random.Random], Json]


class Slot(msgspec.Struct, frozen=True):
    """One argument: the names it may have, its type, its values and how a request tells it."""

    names: tuple[str, ...]
    kind: str
    value: Value
    says: tuple[str, ...]
    options: tuple[str, ...] = ()


class Tool(msgspec.Struct, frozen=True):
    """One tool, the ways to ask for it ({name of argument}), and its arguments."""

    name: str
    description: str
    slots: dict[str, Slot]
    asks: tuple[str, ...]

    def wire(self) -> dict[str, Json]:
        """The tool as the chat completions API describes it."""
        properties = {
            key: {"type": slot.kind, "enum": list(slot.options)} if slot.options else {"type": slot.kind}
            for key, slot in self.slots.items()
        }
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }


def _slot(names: str, kind: str, value: Value, *says: str, options: tuple[str, ...] = ()) -> Slot:
    return Slot(tuple(names.split()), kind, value, says, options)


def _of(items: Sequence[str]) -> Value:
    return lambda rng: pick(rng, items)


def _whole(low: int, high: int) -> Value:
    return lambda rng: rng.randint(low, high)


CITY = _slot("city place location town", "string", city, "in {v}", "at {v}", "for {v}")
PERSON = _slot("person name customer user to", "string", person, "for {v}", "to {v}", "with {v}")
DAY = _slot("day date when", "string", _of(DAYS), "on {v}", "for {v}", "next {v}")
MINUTES = _slot("minutes duration", "integer", _whole(1, 120), "for {v} minutes", "of {v} minutes", "in {v} minutes")
AMOUNT = _slot(
    "amount quantity count number", "integer", _whole(1, 500), "with amount {v}", "of {v}", "times {v}", "number {v}"
)
EMAIL = _slot("email address recipient", "string", email, "to {v}", "at {v}", "for {v}")
ROOM = _slot("room area", "string", _of(ROOMS), "in the {v}", "for the {v}")
CODE = _slot("code id reference", "string", code, "with code {v}", "with id {v}", "for {v}", "number {v}")
COLOUR = _slot("color colour", "string", _of(COLOURS), "in {v}", "in the colour {v}")
LANGUAGE = _slot("language target", "string", _of(LANGUAGES), "in {v}", "into {v}")
ITEM = _slot("item object thing product", "string", _of(THINGS), "of the {v}", "for the {v}", "about the {v}")
LEVEL = _slot(
    "level priority",
    "string",
    _of(["low", "medium", "high"]),
    "with {v} level",
    "at level {v}",
    options=("low", "medium", "high"),
)
SLOTS = (CITY, PERSON, DAY, MINUTES, AMOUNT, EMAIL, ROOM, CODE, COLOUR, LANGUAGE, ITEM, LEVEL)

_QUERY = _slot("query q text", "string", lambda rng: " ".join(word(rng) for _ in range(rng.randint(1, 3))))
_NUMBER = _slot("a", "integer", _whole(0, 999))
_STATE = _slot("state", "string", _of(["on", "off"]), options=("on", "off"))

KNOWN: tuple[Tool, ...] = (
    Tool("get_weather", "Get the current weather in a city", {"city": CITY}, (
        "What is the weather in {city}?", "How is the weather in {city} today?", "Weather in {city}",
        "Is it raining in {city}?",
        "What's the weather like in {city}?", "Tell me the weather for {city}", "Do I need an umbrella in {city}?")),
    Tool("add", "Add two numbers", {"a": _NUMBER, "b": _NUMBER}, (
        "Add {a} and {b}.", "What is {a} plus {b}?", "What is {a} + {b}?", "Compute the sum of {a} and {b}.")),
    Tool("multiply", "Multiply two numbers", {"a": _NUMBER, "b": _NUMBER}, (
        "Multiply {a} by {b}.", "What is {a} times {b}?", "What is {a} * {b}?", "Compute {a} x {b}")),
    Tool("search", "Search the web", {"query": _QUERY}, (
        "Search for {query}.", "Look up {query}", "Find pages about {query}", "Search the web for {query}",
        "Google {query}")),
    Tool("set_timer", "Set a timer in minutes", {"minutes": MINUTES}, (
        "Set a timer for {minutes} minutes.", "Timer for {minutes} minutes please", "Wake me in {minutes} minutes",
        "Start a {minutes} minute timer")),
    Tool("send_email", "Send an email to an address", {"to": EMAIL, "subject": _QUERY}, (
        "Send an email to {to} about {subject}.", "Email {to} with the subject {subject}",
        "Write to {to} about {subject}")),
    Tool("translate", "Translate a text", {"text": _QUERY, "language": LANGUAGE}, (
        "Translate {text} into {language}.", "How do you say {text} in {language}?", "Translate {text} to {language}")),
    Tool("set_light", "Turn a light on or off", {"room": ROOM, "state": _STATE}, (
        "Turn the light in the {room} {state}.", "Switch the {room} light {state}", "Lights {state} in the {room}",
        "Turn {state} the {room} light")),
    Tool("get_time", "Get the local time in a city", {"city": CITY}, (
        "What time is it in {city}?", "Tell me the time in {city}", "Local time in {city}?")),
    Tool("order_food", "Order food", {"dish": _slot("dish", "string", _of(FOODS)), "count": AMOUNT}, (
        "Order {count} {dish} please.", "I would like {count} portions of {dish}", "Get me {count} times {dish}")),
    Tool("play_music", "Play music by an artist", {"artist": PERSON}, (
        "Play something by {artist}.", "Play music from {artist}", "I want to hear {artist}")),
    Tool("get_stock_price", "Get the price of a stock", {"symbol": _slot("symbol", "string",
    lambda rng: syllables(rng)[:4].upper())}, (
        "What is the stock price of {symbol}?", "Price of {symbol}", "How is {symbol} trading?")),
)  # fmt: skip

VERBS = listed(
    "book cancel check clean close count create delete find fetch get list lock move open order pay print read rename "
    "repair reserve reset save send set share show start stop track update archive approve assign block export measure"
)
NOUNS = listed(
    "invoice meeting desk order flight ticket parcel report account file door table car taxi alarm photo backup "
    "contract password invitation message note poll recipe sensor server printer playlist subscription balance budget "
    "calendar delivery discount event exam form garden heating lesson loan machine order package permit project refund "
    "ride schedule shift stock survey task team visit voucher warranty window worker"
)
_SHAPES = (
    "{v} the {n}{s}", "Please {v} the {n}{s}", "Can you {v} the {n}{s}?", "{v} a {n}{s}.", "I want to {v} a {n}{s}",
    "Could you please {v} a {n}{s}?", "{v} {n}{s}", "I need you to {v} the {n}{s}.", "Would you {v} the {n}{s}?",
)  # fmt: skip


def _joined(rng: random.Random, verb: str, noun: str) -> str:
    roll = rng.random()
    if roll < 0.75:
        return f"{verb}_{noun}"
    if roll < 0.85:
        return f"{verb}{noun.capitalize()}"
    return f"{noun}_{verb}" if roll < 0.95 else f"{verb}-{noun}"


def invented(rng: random.Random) -> Tool:
    """A tool nobody has seen before: verb, noun and zero to three arguments."""
    verb, noun = pick(rng, VERBS), pick(rng, NOUNS) if rng.random() < 0.75 else syllables(rng)
    slots = rng.sample(SLOTS, rng.choice((0, 1, 1, 1, 2, 2, 3)))
    named = {pick(rng, slot.names): slot for slot in slots}
    tail = "".join(" " + pick(rng, slot.says).replace("{v}", "{" + key + "}") for key, slot in named.items())
    asks = tuple(_capital(shape.format(v=verb, n=noun, s=tail)) for shape in rng.sample(_SHAPES, 2))
    described = pick(
        rng,
        (f"{verb.capitalize()} a {noun}", f"{verb.capitalize()} the {noun}", f"{verb.capitalize()}s one {noun}", ""),
    )
    return Tool(_joined(rng, verb, noun), described, named, asks)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def toolbox(rng: random.Random) -> list[Tool]:
    """One to four tools, all with different names."""
    box: dict[str, Tool] = {}
    for _ in range(rng.randint(1, 4)):
        tool = pick_tool(rng) if rng.random() < 0.45 else invented(rng)
        box.setdefault(tool.name, tool)
    return list(box.values())


def pick_tool(rng: random.Random) -> Tool:
    """One of the well-known tools."""
    return KNOWN[int(rng.random() * len(KNOWN))]


def request(rng: random.Random, tool: Tool) -> tuple[str, ToolCall]:
    """A request for the tool, and the call that fulfils it."""
    arguments = {key: slot.value(rng) for key, slot in tool.slots.items()}
    text = pick(rng, tool.asks).format(**arguments)
    if rng.random() < 0.15 and text[-1] in ".?":
        text = text[:-1]
    return text, ToolCall(tool.name, arguments)


_FIELDS = listed("status id total price count code result state name time owner message place score")


def _result(rng: random.Random) -> tuple[str, str]:
    """What a tool gave back, and how the model tells it."""
    roll = rng.random()
    if roll < 0.35:
        given = pick(rng, ("sunny", "cloudy", "ok", "done", "sent", "not found", str(rng.randint(0, 9999)), code(rng),
        name(rng),
                           f"{rng.randint(-9, 35)} degrees", f"{rng.randint(1, 12)}:{rng.randint(10, 59)}",
                           word(rng)))  # fmt: skip
        return given, f"The result is {given}."
    fields: dict[str, Json] = {}
    for key in rng.sample(_FIELDS, rng.randint(1, 3)):
        fields[key if rng.random() < 0.8 else syllables(rng)] = pick(rng, (name(rng), code(rng), word(rng), "ok",
        "done")) if rng.random() < 0.6 else rng.randint(0, 999)  # fmt: skip
    told = ", ".join(f"{key} is {value}" for key, value in fields.items())
    return json.dumps(fields, ensure_ascii=False), f"The result: {told}."


def _plain(rng: random.Random) -> tuple[str, str]:
    """A request that needs no tool, or for which none is there."""
    if rng.random() < 0.55:
        return talk.pair(rng)
    return request(rng, invented(rng))[0], NO_TOOL


def _turns(rng: random.Random, tools: list[Tool]) -> list[Turn]:
    """One request and what follows: a call, or a call with its result and the answer, or a plain answer."""
    roll = rng.random()
    if roll < 0.16:
        question, answer = _plain(rng)
        return [Turn("user", question), Turn("assistant", answer)]
    chosen = tools[int(rng.random() * len(tools))]
    text, call = request(rng, chosen)
    if roll < 0.20 and len(tools) > 1:
        other_text, other = request(rng, tools[int(rng.random() * len(tools))])
        both = f"{text.rstrip('.?!')} and {other_text[:1].lower()}{other_text[1:]}"
        return [Turn("user", both), Turn("assistant", calls=(call, other))]
    asked = [Turn("user", untidy(rng, text) if not call.arguments else text), Turn("assistant", calls=(call,))]
    if roll < 0.55:
        given, told = _result(rng)
        asked += [Turn("tool", given), Turn("assistant", told)]
    return asked


def sample(rng: random.Random) -> Example:
    """One request with tools at hand, sometimes after earlier ones that were fulfilled."""
    tools = toolbox(rng)
    turns: list[Turn] = []
    if rng.random() < 0.2:
        turns.append(
            Turn(
                "system",
                pick(rng, ("You are a helpful assistant.", "Use the tools when they help.", "You can call tools.")),
            )
        )
    for _ in range(rng.choice((0, 0, 1))):
        turns += _finished(rng, _turns(rng, tools))
    turns += _turns(rng, tools)
    answer = turns.pop()
    question = next(turn.content for turn in reversed(turns) if turn.role == "user")
    wire = tuple(tool.wire() for tool in tools)
    return Example("tools", tuple(turns), answer, tools=wire, key=question)


def _finished(rng: random.Random, turns: list[Turn]) -> list[Turn]:
    """The same turns, with results added where a call still waits for them."""
    last = turns[-1]
    if not last.calls:
        return turns
    results = [Turn("tool", _result(rng)[0]) for _ in last.calls]
    return [*turns, *results, Turn("assistant", "Done.")] if len(results) > 1 else [*turns, *_told(rng)]


def _told(rng: random.Random) -> list[Turn]:
    given, told = _result(rng)
    return [Turn("tool", given), Turn("assistant", told)]


def check(example: Example, text: str) -> bool:
    """True when the same calls are made and nothing beside them, or the same words said where no call is due."""
    if not example.answer.calls:
        return same_text(example, text)
    wanted = [{"name": call.name, "arguments": call.arguments} for call in example.answer.calls]
    return calls_in(text) == wanted and not without_calls(text)
