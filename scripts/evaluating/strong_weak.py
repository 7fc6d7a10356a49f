"""How good a strong/weak router is: quality against the share of strong calls, and the figures drawn from that curve.

The definitions are those of Ong et al., "RouteLLM: Learning to Route LLMs with Preference Data" (2024, arXiv
2406.18665v4), section on metrics: quality r is the mean over the prompts of the chosen model's quality, the share c
of strong calls is the cost, the performance gap recovered PGR = (r - r_weak) / (r_strong - r_weak) (equation 6), APGR
is its integral over c (equation 7), and CPT(x) is the least share of strong calls whose PGR is x. Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CPT_SHARES = (0.5, 0.8)
"""The shares of the gap that the paper's tables give: CPT(50%) and CPT(80%)."""

_LEAST_KEPT = 0.5


@dataclass(frozen=True)
class Curve:
    """`quality` [K] float64 at each of the `shares` [K] float64 of strong calls, which rise from 0 to 1.

    Quality between two points lies on the line between them: that is what sending a random part of the prompts that
    the router can't tell apart gives on average.
    """

    shares: NDArray[np.float64]
    quality: NDArray[np.float64]

    @property
    def gap_recovered(self) -> NDArray[np.float64]:
        """PGR [K] at each share: 0 is the weak model's quality, 1 the strong one's.

        Raises ValueError: the strong model is no better than the weak one, so that there is no gap.
        """
        weak, strong = self.quality[0], self.quality[-1]
        if not strong > weak:
            raise ValueError(f"the strong model's quality, {strong:.4g}, should be above the weak one's, {weak:.4g}")
        recovered: NDArray[np.float64] = (self.quality - weak) / (strong - weak)
        return recovered


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """`apgr`, and `cpt` by the share of the gap to recover (CPT_SHARES)."""

    apgr: float
    cpt: dict[float, float]


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals of the figures, from `samples` resamples with a gap."""

    apgr: Interval
    cpt: dict[float, Interval]
    samples: int


def curve(
    win_rates: NDArray[np.floating[Any]], strong: NDArray[np.floating[Any]], weak: NDArray[np.floating[Any]]
) -> Curve:
    """The curve of a router that sends the prompts of the highest win rates to the strong model.

    `win_rates` [N] are the router's scores, `strong` and `weak` [N] the quality of each model's answer to each prompt
    (0 and 1 for wrong and right, or any other grade where more is better). Prompts of equal win rate change sides
    together, as they do under any threshold, so the order of the rows does not matter.

    Raises ValueError: no prompt, lengths that differ, or a value that is not finite.
    """
    rates, high, low = (np.asarray(values, dtype=np.float64) for values in (win_rates, strong, weak))
    if rates.ndim != 1 or not len(rates) or not rates.shape == high.shape == low.shape:
        raise ValueError(
            f"expected win rates and both qualities of the same prompts, at least one; got shapes {rates.shape}, "
            f"{high.shape} and {low.shape}"
        )
    if not all(np.isfinite(values).all() for values in (rates, high, low)):
        raise ValueError("win rates and qualities should be finite numbers")
    order = np.argsort(-rates, kind="stable")
    # One point behind the last of each group of equal win rates.
    ends = np.flatnonzero(np.append(np.diff(rates[order]) != 0, True)) + 1
    gains = np.cumsum((high - low)[order])[ends - 1]
    shares = np.concatenate(([0.0], ends / len(rates)))
    return Curve(shares, low.mean() + np.concatenate(([0.0], gains)) / len(rates))


def apgr(found: Curve) -> float:
    """The average performance gap recovered: the area under PGR over the shares of strong calls.

    Equation 7, exactly; equation 8 is its approximation by ten shares. A router that knows nothing gives 0.5, and
    values may lie outside 0 to 1 where the weak model's answer is sometimes the better one.

    Raises ValueError: there is no gap.
    """
    recovered = found.gap_recovered
    return float(((recovered[1:] + recovered[:-1]) / 2 * np.diff(found.shares)).sum())


def cpt(found: Curve, share: float) -> float:
    """The call-performance threshold: the least share of strong calls, 0 to 1, that recovers `share` of the gap.

    A router that knows nothing needs `share` itself. The curve of few prompts is ragged, and its first crossing is
    then a little early.

    Raises ValueError: there is no gap, or `share` is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of the gap should be above 0 and at most 1, and is {share}")
    recovered = found.gap_recovered
    point = int(np.argmax(recovered >= share))  # the last point recovers all of it, and the first nothing
    before, after = recovered[point - 1], recovered[point]
    part = (share - before) / (after - before)
    return float(found.shares[point - 1] + part * (found.shares[point] - found.shares[point - 1]))


def quality_at(found: Curve, share: float) -> float:
    """The quality when `share` of the calls, 0 to 1, go to the strong model."""
    return float(np.interp(share, found.shares, found.quality))


def figures(found: Curve) -> Figures:
    """APGR, and CPT at CPT_SHARES.

    Raises ValueError: there is no gap.
    """
    return Figures(apgr(found), {share: cpt(found, share) for share in CPT_SHARES})


def bootstrap(
    win_rates: NDArray[np.floating[Any]],
    strong: NDArray[np.floating[Any]],
    weak: NDArray[np.floating[Any]],
    *,
    seed: int,
    samples: int = 2000,
    confidence: float = 0.95,
) -> Intervals:
    """Intervals of `figures` by resampling the prompts with replacement: Efron's percentile bootstrap (1979).

    They say how far other prompts of the same kind could move the figures, not how far another training would. The
    same seed gives the same intervals. Resamples in which the strong model is no better than the weak one have no
    figures and are left out.

    Raises ValueError: what `curve` raises, or at least half of the resamples have no gap.
    """
    rates, high, low = (np.asarray(values, dtype=np.float64) for values in (win_rates, strong, weak))
    curve(rates, high, low)  # refuses what can't be resampled
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        rows = generator.integers(len(rates), size=len(rates))
        drawn = curve(rates[rows], high[rows], low[rows])
        if drawn.quality[-1] > drawn.quality[0]:
            found.append(figures(drawn))
    if len(found) <= _LEAST_KEPT * samples:
        raise ValueError("the strong model is no better than the weak one on too many resamples of these prompts")
    return Intervals(
        _interval([each.apgr for each in found], confidence),
        {share: _interval([each.cpt[share] for each in found], confidence) for share in CPT_SHARES},
        len(found),
    )


def _interval(values: list[float], confidence: float) -> Interval:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
