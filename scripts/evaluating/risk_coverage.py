"""How often the surest answers are wrong: risk against coverage, and the confidence to ask for. Pure functions.

Of all answers those are given that are at least as sure as a threshold. Their share is the coverage, and the share of
wrong ones among them the risk (El-Yaniv & Wiener, "On the Foundations of Noise-free Selective Classification", JMLR
2010; for networks Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks", NIPS 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RISKS = (0.01, 0.02, 0.05, 0.1)
"""Those that a report has a threshold for."""

TOO_FEW = "too few rows"
NEVER = "never so low"
_LEAST_WRONG = (
    5  # answers that should be wrong at the wanted risk: with fewer, chance decides what the risk seems to be
)
_POINTS = 100


@dataclass(frozen=True)
class Curve:
    """Of `rows` answers: at each of the `thresholds` [K], which fall, the `coverage` [K], which rises to 1, and the
    `risk` [K]. All are float64, 0 to 1."""

    rows: int
    thresholds: NDArray[np.float64]
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


class Point(NamedTuple):
    """A threshold as `min_confidence` takes it, and what it gives."""

    min_confidence: float
    coverage: float
    risk: float


class NoPoint(NamedTuple):
    """Why there is no threshold for a wanted risk: in a table's cell, and in a line."""

    short: str
    why: str


class Given(NamedTuple):
    """What a threshold gives on some rows; no risk where no answer is as sure."""

    rows: int
    coverage: float
    risk: float | None


@dataclass(frozen=True)
class Picked:
    """A `min_confidence` for a wanted risk, on the half of the rows that it was picked on and on the one held out."""

    min_confidence: float
    picked_on: Given
    held_out: Given


@dataclass(frozen=True)
class RiskReport:
    """`aurc`, the area under the `curve`; for each of RISKS the threshold; and what was picked for `wanted`, a risk
    that somebody asked for."""

    aurc: float
    curve: Sequence[Point]
    thresholds: Mapping[float, Point | NoPoint]
    wanted: float | None = None
    picked: Picked | NoPoint | None = None

    def as_json(self) -> dict[str, Any]:
        value = {
            "aurc": self.aurc,
            "curve": [each._asdict() for each in self.curve],
            "thresholds": [{"risk_at_most": risk} | _as_json(each) for risk, each in self.thresholds.items()],
        }
        if self.picked is None:
            return value
        return value | {"picked": {"risk_at_most": self.wanted} | _as_json(self.picked)}


def report_risk(confidence: NDArray[np.float64], correct: NDArray[np.bool_], wanted: float | None = None) -> RiskReport:
    """Everything about N answers, at least one, as `curve` has them; with a `wanted` risk a threshold is picked."""
    found = curve(confidence, correct)
    thresholds = {risk: point_for(found, risk) for risk in RISKS}
    picked = None if wanted is None else pick(confidence, correct, wanted)
    return RiskReport(area(found), thinned(found), thresholds, wanted, picked)


def curve(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Curve:
    """The curve of N answers, at least one: `confidence` [N] is 0 to 1, `correct` [N] whether the answer is right.

    Answers of equal confidence are given together, as they are under any threshold.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    # One point behind the last of each group of equal confidence.
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True)) + 1
    wrong = np.cumsum(~correct[order])[ends - 1]
    return Curve(len(ranked), ranked[ends - 1], ends / len(ranked), wrong / ends)


def area(found: Curve) -> float:
    """AURC, 0 to 1: the risk averaged over the answers' own confidences as thresholds; less is better.

    As in Geifman, Uziel & El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers" (ICLR 2019).
    Where confidence says nothing, it is the share of wrong answers.
    """
    return float((found.risk * np.diff(found.coverage, prepend=0.0)).sum())


def thinned(found: Curve) -> list[Point]:
    """At most a hundred points of the curve, by rising coverage, the last with all answers given."""
    wanted = np.arange(1, _POINTS + 1) / _POINTS
    places = np.unique(np.searchsorted(found.coverage, wanted - 1e-9))
    return [_point(found, int(place)) for place in places]


def point_for(found: Curve, risk: float) -> Point | NoPoint:
    """The most answers that can be given at a `risk`, above 0 and below 1, of this much or less.

    None where no threshold gives it, or where too few answers are given for anybody to tell the risk.
    """
    needed = math.ceil(round(_LEAST_WRONG / risk, 6))
    if found.rows < needed:
        return NoPoint(TOO_FEW, f"a risk of {risk:g} needs at least {needed:,} rows, and there are {found.rows:,}")
    low = np.flatnonzero(found.risk <= risk)
    if not len(low):
        return NoPoint(NEVER, f"no min_confidence gives a risk of {risk:g} or less on {found.rows:,} rows")
    best = int(low[-1])
    given = round(found.coverage[best] * found.rows)
    if given < needed:
        why = f"{needed:,} answers that are sure enough, and of {found.rows:,} rows {given:,} have one"
        return NoPoint(TOO_FEW, f"a risk of {risk:g} needs at least {why}")
    return _point(found, best)


def pick(confidence: NDArray[np.float64], correct: NDArray[np.bool_], risk: float, seed: int = 0) -> Picked | NoPoint:
    """`point_for` on one random half of N answers, and what comes of it on the other."""
    if len(confidence) < 2:
        return NoPoint(TOO_FEW, "one row can't be halved")
    first, second = np.array_split(np.random.default_rng(seed).permutation(len(confidence)), 2)
    point = point_for(curve(confidence[first], correct[first]), risk)
    if isinstance(point, NoPoint):
        return NoPoint(point.short, f"{point.why} in the half to pick a min_confidence on")
    halves = [given_at(confidence[half], correct[half], point.min_confidence) for half in (first, second)]
    return Picked(point.min_confidence, *halves)


def given_at(confidence: NDArray[np.float64], correct: NDArray[np.bool_], min_confidence: float) -> Given:
    """What `min_confidence` gives on N answers, at least one."""
    sure = confidence >= min_confidence
    return Given(len(sure), float(sure.mean()), float((~correct[sure]).mean()) if sure.any() else None)


def _point(found: Curve, place: int) -> Point:
    last = place == len(found.thresholds) - 1
    lower = 0.0 if last else float(found.thresholds[place + 1])
    threshold = 0.0 if last else _shortest(lower, float(found.thresholds[place]))
    return Point(threshold, float(found.coverage[place]), float(found.risk[place]))


def _shortest(lower: float, upper: float) -> float:
    """The shortest decimal above `lower` and not above `upper`: it divides the answers as `upper` does."""
    for decimals in range(2, 16):
        scale = 10.0**decimals
        value = math.floor(upper * scale) / scale
        if lower < value <= upper:
            return value
    return upper


def _as_json(found: Point | Picked | NoPoint) -> dict[str, Any]:
    match found:
        case NoPoint():
            return {"min_confidence": None, "why": found.why}
        case Point():
            return found._asdict()
    halves = {"picked_on": found.picked_on._asdict(), "held_out": found.held_out._asdict()}
    return {"min_confidence": found.min_confidence} | halves
