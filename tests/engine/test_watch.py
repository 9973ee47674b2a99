"""Silence is counted only while an answer is owed."""

from headgate.engine.front.watch import LOOKS, Watch


def test_silence_after_a_question_is_found_and_not_too_early() -> None:
    watch = Watch()
    watch.asked()
    assert [watch.look() for _ in range(LOOKS + 1)] == [False] * LOOKS + [True]


def test_every_sign_of_life_starts_the_count_again() -> None:
    watch = Watch()
    watch.asked()
    for _ in range(3):
        assert not any(watch.look() for _ in range(LOOKS))
        watch.heard(more=True)


def test_nothing_is_owed_before_a_question_and_after_its_answer() -> None:
    watch = Watch()
    assert not any(watch.look() for _ in range(3 * LOOKS))
    watch.asked()
    watch.heard(more=False)
    assert not any(watch.look() for _ in range(3 * LOOKS))


def test_more_questions_do_not_excuse_the_silence_since_the_first() -> None:
    watch = Watch()
    found = []
    for _ in range(LOOKS + 1):
        watch.asked()
        found.append(watch.look())
    assert found[-1]
