"""What OpenAI's own SDK makes of an upstream's faults: the answer, or an error that says which; never half of one."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.faults.house import CASES, Case, House, house
from tests.faults.rows import ANSWER
from tests.upstream.chaos import said

ORDERS = (
    "reset=3", "cut=0", "cut=3", "cut=3,framing=close", "cut_utf8=3", "no_done", "two_done", "404", "500", "401",
    "429,retry_after=long", "context_length=openai", "content_filter=azure", "error_event=0", "error_event=3",
    "error_event=3,done=1", "bad_json=3", "html", "null=3", "usage_missing", "usage_absurd=text", "crlf=cr",
)  # fmt: skip
PICKED = tuple(case for case in CASES if case.row.order in ORDERS)
KINDS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    502: openai.InternalServerError,
}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("sdk"), PICKED) as standing:
        yield standing


@pytest.fixture(scope="module")
def client(standing: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=standing.live.api, api_key=standing.key, max_retries=0) as client:
        yield client


def heard(client: OpenAI, case: Case) -> tuple[str, openai.APIError | None]:
    """The text, and the error behind it."""
    text = ""
    messages: Any = case.messages
    try:
        if not case.stream:
            whole = client.chat.completions.create(model=case.name, messages=messages)
            return whole.choices[0].message.content or "", None
        for chunk in client.chat.completions.create(model=case.name, messages=messages, stream=True):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    except openai.APIError as error:
        return text, error
    return text, None


@pytest.mark.parametrize("case", PICKED, ids=lambda case: f"{case.row.order}-{case.form}-{case.situation}")
def test_the_sdk_gives_the_answer_or_raises_an_error_that_says_why(client: OpenAI, case: Case) -> None:
    text, error = heard(client, case)
    expected = case.row.expected(case.form)
    if case.situation != "alone" and not case.row.final:
        expected = ANSWER
    right = said(case.messages)
    if expected != ANSWER:
        assert error is not None
        assert error.code == expected
        assert right.startswith(text)
        assert type(error) is (
            KINDS[error.status_code] if isinstance(error, openai.APIStatusError) else openai.APIError
        )
        return
    assert error is None
    if case.situation != "model":
        assert text == right
    else:
        assert text in {right, said(case.messages, salt="other")} or text.startswith(right.split(" ")[0])
