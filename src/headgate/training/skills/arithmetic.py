"""Arithmetic: sums and differences of up to three digits, the small multiplication table, counting.

Sums beyond twenty are worked out loud from the units upwards, so that a small model needs one easy step at a time.
"""

import random
import re

from headgate.training.example import Example, Turn
from headgate.training.words import pick, untidy

EASY = 20
_ASK = {
    "+": (
        "What is {a} + {b}?", "{a} + {b}", "{a}+{b}=", "What is {a} plus {b}?", "Add {a} and {b}.",
        "Compute {a} + {b}.",
        "How much is {a} plus {b}?", "Please add {a} and {b}", "Calculate {a} + {b}", "Can you add {b} to {a}?",
        "what's {a} + {b}?", "Sum of {a} and {b}?", "{a} plus {b} is?", "{a} + {b} = ?", "Tell me {a} + {b}",
    ),
    "-": (
        "What is {a} - {b}?", "{a} - {b}", "{a}-{b}=", "What is {a} minus {b}?", "Subtract {b} from {a}.",
        "Compute {a} - {b}.", "How much is {a} minus {b}?", "Take {b} away from {a}", "Calculate {a} - {b}",
        "what's {a} - {b}?", "{a} minus {b} is?", "{a} - {b} = ?", "What is {b} less than {a}?",
    ),
    "*": (
        "What is {a} * {b}?", "{a} * {b}", "{a}*{b}=", "What is {a} times {b}?", "Multiply {a} by {b}.", "{a} x {b}",
        "Compute {a} times {b}.", "How much is {a} times {b}?", "Calculate {a} * {b}", "what's {a} x {b}?",
        "Product of {a} and {b}?", "{a} times {b} is?",
    ),
}  # fmt: skip


def _operands(rng: random.Random) -> tuple[int, str, int]:
    roll = rng.random()
    if roll < 0.18:
        return rng.randint(0, 12), "*", rng.randint(0, 12)
    top = 20 if roll < 0.26 else 99 if roll < 0.78 else 999
    a, b = rng.randint(0, top), rng.randint(0, top)
    if rng.random() < 0.55:
        return a, "+", b
    return max(a, b), "-", min(a, b)


def value(a: int, sign: str, b: int) -> int:
    """The result of `a sign b`, for the signs + - *."""
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def working(a: int, sign: str, b: int) -> str:
    """The steps from the units upwards, as in `7 + 5 = 12; 4 + 8 + 1 = 13`."""
    steps: list[str] = []
    carry = 0
    for place in range(len(str(max(a, b)))):
        x, y = a // 10**place % 10, b // 10**place % 10
        tail = f" {sign} {carry}" if carry else ""
        if sign == "+":
            total = x + y + carry
            steps.append(f"{x} + {y}{tail} = {total}")
            carry = total // 10
        else:
            borrow = 1 if x - y - carry < 0 else 0
            steps.append(f"{x + 10 * borrow} - {y}{tail} = {x + 10 * borrow - y - carry}")
            carry = borrow
    return "; ".join(steps)


def solution(a: int, sign: str, b: int) -> str:
    """The answer as the model is taught to give it."""
    result = f"{a} {sign} {b} = {value(a, sign, b)}"
    if sign != "*" and max(a, b) > EASY:
        return f"{working(a, sign, b)}. So {result}"
    return result


def _sum_turn(rng: random.Random) -> tuple[Turn, Turn, str, int]:
    a, sign, b = _operands(rng)
    question = untidy(rng, pick(rng, _ASK[sign]).format(a=a, b=b))
    return Turn("user", question), Turn("assistant", solution(a, sign, b)), f"{a}{sign}{b}", value(a, sign, b)


def sample(rng: random.Random) -> Example:
    """A sum, sometimes after earlier ones."""
    turns: list[Turn] = []
    if rng.random() < 0.15:
        turns.append(
            Turn(
                "system", pick(rng, ("You are a calculator.", "You are good at sums.", "You are a helpful assistant."))
            )
        )
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        question, answer, _, _ = _sum_turn(rng)
        turns += [question, answer]
    question, answer, key, result = _sum_turn(rng)
    return Example("arithmetic", (*turns, question), answer, key=key, facts={"result": result})


def check(example: Example, text: str) -> bool:
    """True when the last number in the answer is the result."""
    numbers = re.findall(r"-?\d+", text)
    return bool(numbers) and int(numbers[-1]) == example.facts["result"]
