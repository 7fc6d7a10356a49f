import pytest

from gateway.patience import MISSES, PAUSE_SECONDS, Patience


def _patience() -> tuple[Patience, list[float]]:
    """One that has been patient for as long as it can be, and its clock."""
    now = [100.0]
    patience = Patience(lambda: now[0])
    for _ in range(MISSES):
        assert patience.may_ask()
        patience.missed()
    return patience, now


def test_it_pauses_after_misses_in_a_row() -> None:
    """After the last miss in a row nobody asks until the pause is over; then one does, and the next pause begins."""
    patience, now = _patience()
    assert not patience.may_ask()
    now[0] += PAUSE_SECONDS
    assert patience.may_ask() and not patience.may_ask()
    patience.missed()
    now[0] += PAUSE_SECONDS / 2
    assert not patience.may_ask()


def test_a_cancelled_question_is_followed_by_another() -> None:
    """When the one that asks after a pause is given up by its client, another may ask after the next pause."""
    patience, now = _patience()
    now[0] += PAUSE_SECONDS
    assert patience.may_ask()
    now[0] += PAUSE_SECONDS
    assert patience.may_ask()


@pytest.mark.parametrize("misses", [1, MISSES, 10 * MISSES])
def test_an_answer_ends_it(misses: int) -> None:
    """One answer, and it takes as many misses as ever, however many there were."""
    patience, _ = _patience()
    for _ in range(misses):
        patience.missed()
    patience.answered()
    for _ in range(MISSES - 1):
        patience.missed()
        assert patience.may_ask()
