"""The held share of strong calls, under traffic of every kind."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.share import STEP, HeldShare

shares = st.floats(0.05, 0.95)


def _serve(held: HeldShare, win_rates: list[float]) -> float:
    """The share of `win_rates` that went to the strong model."""
    strong = 0
    for win_rate in win_rates:
        chosen = win_rate >= held.threshold
        held.count(chosen)
        strong += chosen
    return strong / len(win_rates)


@settings(deadline=None)
@given(target=shares, threshold=st.floats(0, 1), win_rates=st.lists(st.floats(0, 1), min_size=1, max_size=3000))
def test_the_share_is_held_whatever_comes(target: float, threshold: float, win_rates: list[float]) -> None:
    """For any win rates in any order, the share is as near to the target as the paper's bound says."""
    held = HeldShare(target, threshold)
    share = _serve(held, win_rates)
    assert abs(share - target) <= (1 + STEP) / (STEP * len(win_rates)) + 1e-9
    assert -STEP <= held.threshold <= 1 + STEP


@settings(deadline=None, max_examples=25)
@given(
    target=shares,
    seed=st.integers(0, 2**32),
    start=st.floats(0.1, 0.9),
    end=st.floats(0.1, 0.9),
    spread=st.floats(0.02, 0.2),
)
def test_the_share_is_held_while_traffic_drifts(
    target: float, seed: int, start: float, end: float, spread: float
) -> None:
    """While typical win rates drift from one level to another, the share stays within 4 points of the target."""
    generator = random.Random(seed)
    count = 8000
    win_rates = [
        min(1.0, max(0.0, generator.gauss(start + (end - start) * number / count, spread))) for number in range(count)
    ]
    held = HeldShare(target, start)
    _serve(held, win_rates[:1000])
    assert _serve(held, win_rates[1000:]) == pytest.approx(target, abs=0.04)
    assert held.share == pytest.approx(target, abs=0.12)


def test_slowly() -> None:
    """One request moves the threshold by at most STEP, and nothing is known of a share before the first."""
    held = HeldShare(0.2, 0.5)
    assert held.share is None
    held.count(True)
    assert held.threshold == pytest.approx(0.5 + 0.8 * STEP) and held.share == 1
    held.count(False)
    assert held.threshold == pytest.approx(0.5 + 0.6 * STEP) and held.share == 0.5
