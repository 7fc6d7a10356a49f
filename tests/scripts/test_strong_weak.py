"""The figures of a strong/weak router, against curves worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scripts.evaluating.strong_weak import Curve, apgr, bootstrap, cpt, curve, figures, quality_at

# Four prompts: the strong model alone is right on two, both on one, the weak one alone on none.
STRONG = np.array([1.0, 1.0, 1.0, 0.0])
WEAK = np.array([0.0, 1.0, 0.0, 0.0])


def test_curve() -> None:
    """Prompts go to the strong model by falling win rate: 1/4, 2/4, 2/4, 3/4 right when 0, 1, 2 and 3 of 4 did."""
    found = curve(np.array([0.9, 0.6, 0.5, 0.1]), STRONG, WEAK)
    assert found.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.quality.tolist() == [0.25, 0.5, 0.5, 0.75, 0.75]
    assert found.gap_recovered.tolist() == [0, 0.5, 0.5, 1, 1]
    # Trapezoids of width 1/4: (0 + .5)/2 + .5 + (.5 + 1)/2 + 1 = 2.5 quarters.
    assert apgr(found) == pytest.approx(0.625)
    assert cpt(found, 0.5) == pytest.approx(0.25)
    assert cpt(found, 0.8) == pytest.approx(0.5 + 0.25 * 0.6)
    assert cpt(found, 1.0) == pytest.approx(0.75)
    assert quality_at(found, 0.125) == pytest.approx(0.375)


def test_worst_router() -> None:
    """A router that sends first what gains nothing stays below the diagonal: area (0 + 0 + .25 + .75) / 4."""
    found = curve(np.array([0.1, 0.8, 0.2, 0.9]), STRONG, WEAK)
    assert apgr(found) == pytest.approx(0.25)
    assert cpt(found, 0.5) == pytest.approx(0.75)


def test_gain_and_loss() -> None:
    """Where the weak model is right alone, sending that prompt too costs quality: PGR 0, 2, 1, and CPT is reached at
    the first crossing."""
    found = curve(np.array([0.9, 0.8, 0.1]), np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    assert found.gap_recovered == pytest.approx([0, 1, 2, 1])
    assert cpt(found, 0.5) == pytest.approx(1 / 6)
    assert apgr(found) == pytest.approx((0.5 + 1.5 + 1.5) / 3)


def test_knows_nothing() -> None:
    """A router with one score for all is the diagonal, whatever the prompts are: APGR 0.5, CPT(x) x."""
    found = curve(np.full(4, 0.3), STRONG, WEAK)
    assert found.shares.tolist() == [0, 1]
    assert figures(found).apgr == pytest.approx(0.5)
    assert figures(found).cpt == pytest.approx({0.5: 0.5, 0.8: 0.8})


def test_grades() -> None:
    """Qualities may be grades: one prompt worth 8 of the 10 points of the gap, sent first."""
    found = curve(np.array([0.7, 0.2]), np.array([9.0, 6.0]), np.array([1.0, 4.0]))
    assert found.quality.tolist() == [2.5, 6.5, 7.5]
    assert cpt(found, 0.8) == pytest.approx(0.5)


rows = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=12)


@given(rows)
def test_row_order_does_not_matter(given_rows: list[tuple[int, bool, bool]]) -> None:
    """Prompts of equal win rate change sides together: shuffling the rows leaves the curve as it is."""
    rates, strong, weak = columns(given_rows)
    order = np.random.default_rng(len(given_rows)).permutation(len(rates))
    first, second = curve(rates, strong, weak), curve(rates[order], strong[order], weak[order])
    assert np.array_equal(first.shares, second.shares)
    assert np.allclose(first.quality, second.quality)
    assert first.quality[0] == pytest.approx(weak.mean())
    assert first.quality[-1] == pytest.approx(strong.mean())


def columns(
    given_rows: list[tuple[int, bool, bool]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rates, strong, weak = np.array(given_rows, dtype=np.float64).T
    return rates, strong, weak


@given(rows)
def test_ties_are_worth_their_average(given_rows: list[tuple[int, bool, bool]]) -> None:
    """The area with ties is the mean of the areas over both orders of breaking them."""
    rates, strong, weak = columns(given_rows)
    if strong.mean() <= weak.mean():
        return
    step = np.arange(len(rates)) / 100
    broken = [apgr(curve(rates + sign * step, strong, weak)) for sign in (1, -1)]
    assert apgr(curve(rates, strong, weak)) == pytest.approx(np.mean(broken))


def test_bootstrap() -> None:
    """Intervals hold the figures of a router that knows something, are the same for the same seed, and narrow with
    more prompts."""
    generator = np.random.default_rng(0)
    strong, weak = (generator.random(1600) < 0.85).astype(float), (generator.random(1600) < 0.65).astype(float)
    rates = strong - weak + 3 * generator.standard_normal(1600)
    found = figures(curve(rates, strong, weak))
    wide = bootstrap(rates[:200], strong[:200], weak[:200], seed=1, samples=300)
    narrow = bootstrap(rates, strong, weak, seed=1, samples=300)
    assert narrow.apgr.low < found.apgr < narrow.apgr.high
    assert all(narrow.cpt[share].low <= found.cpt[share] <= narrow.cpt[share].high for share in (0.5, 0.8))
    assert narrow.apgr.high - narrow.apgr.low < 0.6 * (wide.apgr.high - wide.apgr.low)
    assert bootstrap(rates, strong, weak, seed=1, samples=300) == narrow
    assert bootstrap(rates, strong, weak, seed=2, samples=300) != narrow


def test_bootstrap_coverage() -> None:
    """Of routers that know nothing, about 95 in 100 have 0.5 in the 95% interval of their APGR."""
    generator = np.random.default_rng(3)
    hits = 0
    for number in range(100):
        strong, weak = (generator.random(300) < 0.9).astype(float), (generator.random(300) < 0.6).astype(float)
        interval = bootstrap(generator.random(300), strong, weak, seed=number, samples=200).apgr
        hits += interval.low <= 0.5 <= interval.high
    assert 87 <= hits <= 100


@pytest.mark.parametrize(
    ("rates", "strong", "weak", "said"),
    [
        ([], [], [], "at least one"),
        ([0.5, 0.5], [1.0], [0.0, 0.0], "same prompts"),
        ([np.nan], [1.0], [0.0], "finite"),
        ([0.5], [np.inf], [0.0], "finite"),
    ],
)
def test_wrong_rows(rates: list[float], strong: list[float], weak: list[float], said: str) -> None:
    """Rows that make no curve are refused, and it is said why."""
    with pytest.raises(ValueError, match=said):
        curve(np.array(rates), np.array(strong), np.array(weak))


def test_no_gap() -> None:
    """Where the strong model is no better there is nothing to recover, and no figure is made up."""
    found = Curve(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    for ask in (apgr, figures, lambda each: cpt(each, 0.5)):
        with pytest.raises(ValueError, match="should be above the weak one's"):
            ask(found)
    with pytest.raises(ValueError, match="too many resamples"):
        bootstrap(np.arange(4.0), np.array([1.0, 0, 0, 0]), np.array([0.0, 1, 1, 0]), seed=0, samples=50)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_wrong_share(share: float) -> None:
    """A share of the gap that none can be is refused."""
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        cpt(curve(np.array([0.9, 0.6, 0.5, 0.1]), STRONG, WEAK), share)
