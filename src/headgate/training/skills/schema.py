"""Filling a small flat JSON schema from a sentence: strings, integers, booleans and enums."""

import json
import random
from collections.abc import Callable, Sequence

import msgspec

from headgate.training.example import Example, Json, Turn
from headgate.training.words import (
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    LANGUAGES,
    MONTHS,
    ROOMS,
    THINGS,
    city,
    code,
    email,
    name,
    person,
    pick,
)  # fmt: skip


class Field(msgspec.Struct, frozen=True):
    """One field: names it may go by, its type, its values and how a sentence tells them.

    `says` maps the value to fragments for booleans, and holds fragments with {v} under "" for the rest.
    """

    names: tuple[str, ...]
    kind: str
    value: Callable[[random.Random], Json]
    says: dict[str, tuple[str, ...]]
    options: tuple[str, ...] = ()


def _text(names: str, value: Callable[[random.Random], str], *says: str) -> Field:
    return Field(tuple(names.split()), "string", value, {"": says})


def _whole(names: str, low: int, high: int, *says: str) -> Field:
    return Field(tuple(names.split()), "integer", lambda rng: rng.randint(low, high), {"": says})


def _flag(names: str, yes: tuple[str, ...], no: tuple[str, ...]) -> Field:
    return Field(tuple(names.split()), "boolean", lambda rng: rng.random() < 0.5, {"true": yes, "false": no})


def _enum(names: str, options: tuple[str, ...], *says: str) -> Field:
    return Field(tuple(names.split()), "string", lambda rng: pick(rng, options), {"": says}, options)


def _of(items: Sequence[str]) -> Callable[[random.Random], str]:
    return lambda rng: pick(rng, items)


# family -> (openings with {v}, the field the opening tells, the fields that may follow)
FAMILIES: dict[str, tuple[tuple[str, ...], Field, tuple[Field, ...]]] = {
    "person": (
        ("{v}", "My name is {v} and the rest is this:", "This is {v},", "Meet {v},", "I am {v},"),
        _text("name full_name person", person), (
            _whole("age years", 1, 99, "{v} years old", "aged {v}", "{v} years of age"),
            _text("city home town location", city, "living in {v}", "from {v}", "lives in {v}", "based in {v}"),
            _text("job occupation profession", _of(JOBS), "works as a {v}", "a {v}", "{v} by trade"),
            _text("email mail contact", email, "email {v}", "reachable at {v}", "can be reached at {v}"),
            _flag("married is_married", ("married",), ("not married", "single")),
            _flag("student is_student", ("a student", "still studying"), ("not a student", "no longer studying")),
            _text("language", _of(LANGUAGES), "speaks {v}", "fluent in {v}"),
            _enum("pet animal", tuple(ANIMALS[:5]), "owns a {v}", "has a {v}"),
            _text("employer company", name, "employed at {v}", "works for {v}"),
        )),
    "order": (
        ("I want to order a {v}", "Order: one {v}", "Please send me a {v}", "A customer bought a {v}",
        "We need the {v}"), _text("item product article", _of(THINGS)), (
            _whole("quantity amount count", 1, 60, "{v} pieces", "quantity {v}", "{v} of them"),
            _text("customer buyer", person, "for {v}", "ordered by {v}", "the buyer is {v}"),
            _enum("color colour", tuple(COLOURS[:5]), "in {v}", "colour {v}", "the {v} one"),
            _enum("size", ("small", "medium", "large"), "size {v}", "in size {v}"),
            _flag("express urgent", ("by express", "it is urgent"), ("no rush", "normal shipping")),
            _flag("gift is_gift", ("as a gift", "it is a gift"), ("not a gift",)),
            _whole("price cost", 2, 900, "price {v} euros", "at {v} dollars", "costs {v}"),
            _text("code order_id reference", code, "order number {v}", "reference {v}"),
            _text("city destination", city, "to {v}", "shipped to {v}"),
        )),
    "booking": (
        ("Book a stay for {v}", "A reservation for {v}", "{v} wants to stay with us", "The guest is {v}",
        "Reserve for {v}"), _text("guest name", person), (
            _whole("nights days", 1, 21, "{v} nights", "staying {v} nights", "for {v} nights"),
            _whole("guests people", 1, 9, "{v} people", "a party of {v}"),
            _flag("breakfast with_breakfast", ("with breakfast", "breakfast included"), ("without breakfast",
            "no breakfast")),
            _flag("parking needs_parking", ("with parking", "needs parking"), ("no parking needed", "without parking")),
            _enum("room room_type", ("single", "double", "suite"), "a {v} room", "in a {v} room"),
            _text("day arrival", _of(DAYS), "arriving on {v}", "from {v}", "starting {v}"),
            _text("month", _of(MONTHS), "in {v}", "some time in {v}"),
            _text("hotel", name, "at hotel {v}", "at the {v} hotel"),
        )),
    "bug": (
        ("The {v} page is broken", "Bug in {v}", "There is a problem with {v}", "{v} crashes", "Issue found in {v}"),
        _text("component module part", name), (
            _enum("severity priority level", ("low", "medium", "high"), "severity {v}", "priority {v}", "{v} priority"),
            _text("reporter author", person, "reported by {v}", "found by {v}"),
            _whole("line line_number", 1, 900, "in line {v}", "line {v}"),
            _flag("blocking blocker", ("it blocks the release", "blocking"), ("it blocks nobody", "not blocking")),
            _flag("fixed is_fixed", ("already fixed", "fixed now"), ("not fixed yet", "still open")),
            _enum("system os platform", ("Linux", "Windows", "macOS"), "on {v}", "seen on {v}"),
            _text("version release", lambda rng: f"{rng.randint(0, 9)}.{rng.randint(0, 20)}", "version {v}",
            "since version {v}"),
        )),
    "meal": (
        ("{v} for dinner", "Tonight we cook {v}", "A dish of {v}", "One {v} please", "The recipe is {v}"),
        _text("dish food meal", _of(FOODS)), (
            _whole("minutes time", 5, 180, "takes {v} minutes", "ready in {v} minutes"),
            _whole("servings portions", 1, 12, "serves {v}", "for {v} people", "{v} portions"),
            _flag("vegetarian veggie", ("vegetarian", "without meat"), ("not vegetarian", "with meat")),
            _flag("spicy hot", ("spicy", "quite spicy"), ("not spicy", "mild")),
            _enum("course", ("starter", "main", "dessert"), "as a {v}", "served as {v}"),
            _text("cook chef", person, "cooked by {v}", "made by {v}"),
            _text("drink", _of(["water", "tea", "juice", "wine", "milk"]), "with {v} to drink", "and a glass of {v}"),
        )),
    "task": (
        ("Clean the {v}", "Someone should paint the {v}", "New task: sweep the {v}", "Work to do in the {v}",
        "Tidy up the {v}"), _text("room place area", _of(ROOMS)), (
            _text("assignee owner who", person, "{v} will do it", "assigned to {v}", "given to {v}"),
            _text("day due deadline", _of(DAYS), "by {v}", "due on {v}", "until {v}"),
            _enum("status state", ("open", "started", "done"), "status {v}", "it is {v}"),
            _whole("hours effort", 1, 40, "takes {v} hours", "about {v} hours of work"),
            _flag("urgent important", ("it is urgent", "urgent"), ("not urgent", "it can wait")),
        )),
}  # fmt: skip

_ASK = (
    "{x}", "{x}", "Extract the fields: {x}", "Fill in the form from this text: {x}", "Text: {x}",
    "Turn this into JSON: {x}",
    "Extract the data as JSON.\n\n{x}", "{x}\n\nGive me this as JSON.", "Parse this: {x}", "Get the details from: {x}",
)  # fmt: skip


def _tell(rng: random.Random, field: Field, value: Json) -> str:
    says = field.says[json.dumps(value)] if field.kind == "boolean" else field.says[""]
    return pick(rng, says).format(v=value)


def _described(field: Field) -> dict[str, Json]:
    return {"type": field.kind, "enum": list(field.options)} if field.options else {"type": field.kind}


def sample(rng: random.Random) -> Example:
    """A sentence, and a schema over two to four of the things it tells."""
    openings, head, rest = FAMILIES[pick(rng, tuple(FAMILIES))]
    told = rng.sample(rest, rng.randint(1, 4))
    values = [(head, head.value(rng)), *((field, field.value(rng)) for field in told)]
    parts = [_tell(rng, field, value) for field, value in values[1:]]
    text = pick(rng, openings).format(v=values[0][1])
    text = (text if text[-1] in ",:" else text + ",") + " " + ", ".join(parts) + "."
    asked = rng.sample(values, rng.randint(min(2, len(values)), min(4, len(values))))
    wanted = {pick(rng, field.names): (field, value) for field, value in asked}
    schema: dict[str, Json] = {
        "type": "object",
        "properties": {key: _described(field) for key, (field, _) in wanted.items()},
        "required": list(wanted),
    }
    answer = {key: value for key, (_, value) in wanted.items()}
    turns = [Turn("user", pick(rng, _ASK).format(x=text if rng.random() < 0.85 else text[:-1]))]
    if rng.random() < 0.2:
        turns.insert(
            0, Turn("system", pick(rng, ("You extract data.", "You are a helpful assistant.", "Extract the fields.")))
        )
    body = json.dumps(answer, ensure_ascii=False)
    return Example(
        "schema", tuple(turns), Turn("assistant", body), schema=schema, key=text + body, facts={"answer": answer}
    )


def check(example: Example, text: str) -> bool:
    """True when the answer is one JSON object equal to the expected one (letter case of strings aside)."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return bool(_folded(found) == _folded(example.facts["answer"]))


def _folded(value: Json) -> Json:
    if not isinstance(value, dict):
        return None
    return {
        key: item.casefold() if isinstance(item, str) else (type(item).__name__, item) for key, item in value.items()
    }
