"""Risk against coverage: the curve, its area, and the confidence to ask for."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scripts.evaluating.ask import HeadAnswers
from scripts.evaluating.report import format_reports, report_head
from scripts.evaluating.risk_coverage import (
    NEVER,
    TOO_FEW,
    Curve,
    NoPoint,
    Picked,
    Point,
    area,
    curve,
    given_at,
    pick,
    point_for,
    report_risk,
    thinned,
)

_ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def curve_of(answers: list[tuple[float, bool]]) -> Curve:
    return curve(np.array([sure for sure, _ in answers]), np.array([right for _, right in answers]))


@given(_ANSWERS)
def test_any_curve(answers: list[tuple[float, bool]]) -> None:
    """Each point is what a loop over the answers that are as sure counts, and the area their mean over all answers."""
    found = curve_of(answers)
    risks = {}
    for threshold, coverage, risk in zip(found.thresholds, found.coverage, found.risk, strict=True):
        chosen = [right for sure, right in answers if sure >= threshold]
        assert coverage == pytest.approx(len(chosen) / len(answers))
        assert risk == pytest.approx(chosen.count(False) / len(chosen))
        risks[float(threshold)] = risk
    assert sorted(risks, reverse=True) == sorted({sure for sure, _ in answers}, reverse=True)
    assert area(found) == pytest.approx(sum(risks[sure] for sure, _ in answers) / len(answers))


@given(_ANSWERS)
def test_any_threshold_that_is_written(answers: list[tuple[float, bool]]) -> None:
    """The min_confidence of each point, as JSON keeps it, gives the coverage and the risk that stand beside it."""
    points = thinned(curve_of(answers))
    assert points[-1].coverage == 1 and points[-1].min_confidence == 0
    for point in points:
        written = json.loads(json.dumps(point.min_confidence))
        sure, right = (np.array(values) for values in zip(*answers, strict=True))
        rows, coverage, risk = given_at(sure, right, written)
        assert rows == len(answers) and coverage == pytest.approx(point.coverage) and risk == pytest.approx(point.risk)


def test_the_order_of_confidence_is_what_counts() -> None:
    """The area is least when the wrong answers are the least sure, most when they are the surest, and the share of
    wrong answers when all are as sure."""
    sure = np.arange(1, 11) / 10
    last, first = sure > 0.2, sure < 0.9  # two of ten are wrong
    assert area(curve(sure, last)) == pytest.approx((1 / 9 + 2 / 10) / 10)
    assert area(curve(sure, first)) == pytest.approx((2 + sum(2 / rows for rows in range(3, 11))) / 10)
    assert area(curve(np.full(10, 0.7), last)) == pytest.approx(0.2)


def test_a_threshold_gives_as_many_answers_as_the_risk_allows() -> None:
    """It is the least one at which the risk is still low enough, in few digits; at 0 all answers are given."""
    sure = np.arange(1, 1001) / 1000
    right = (sure > 0.3) | (np.arange(1000) % 2 == 0)  # of the 300 least sure, half are wrong
    found = curve(sure, right)
    point = point_for(found, 0.05)
    assert isinstance(point, Point)
    assert point.risk <= 0.05 < point_risk(found, point.coverage + 0.004)
    assert len(f"{point.min_confidence:g}") <= 5
    assert given_at(sure, right, point.min_confidence).coverage == point.coverage
    assert point_for(found, 0.15) == Point(0.0, 1.0, 0.15)


def point_risk(found: Curve, coverage: float) -> float:
    return float(np.interp(coverage, found.coverage, found.risk))


@pytest.mark.parametrize(
    ("rows", "wrong", "risk", "short", "why"),
    [
        (499, 0, 0.01, TOO_FEW, "a risk of 0.01 needs at least 500 rows, and there are 499"),
        (500, 500, 0.01, NEVER, "no min_confidence gives a risk of 0.01 or less on 500 rows"),
        (600, 200, 0.01, TOO_FEW, "at least 500 answers that are sure enough, and of 600 rows 404 have one"),
    ],
)
def test_too_few_rows(rows: int, wrong: int, risk: float, short: str, why: str) -> None:
    """Where a handful of answers would decide what the risk seems to be, no threshold is claimed."""
    sure = np.arange(rows, 0, -1) / rows
    right = np.arange(rows) < rows - wrong
    found = point_for(curve(sure, right), risk)
    assert isinstance(found, NoPoint)
    assert found.short == short and why in found.why


def test_a_picked_threshold_is_tried_on_the_other_half() -> None:
    """The halves share no row; the threshold depends on one half alone, and each figure is a count of its own."""
    generator = np.random.default_rng(3)
    sure = generator.random(400)
    right = generator.random(400) < sure  # as sure as they should be
    found = pick(sure, right, 0.2)
    assert isinstance(found, Picked)
    assert (found.picked_on.rows, found.held_out.rows) == (200, 200)
    order = np.random.default_rng(0).permutation(400)
    for half, rows in ((found.picked_on, order[:200]), (found.held_out, order[200:])):
        assert half == given_at(sure[rows], right[rows], found.min_confidence)
    assert found.picked_on.risk is not None and found.picked_on.risk <= 0.2
    changed = right.copy()
    changed[order[200:]] = False
    other = pick(sure, changed, 0.2)
    assert isinstance(other, Picked) and other.min_confidence == found.min_confidence
    assert other.held_out.risk == 1


def test_a_threshold_is_printed_in_full() -> None:
    """What stands in the table, and beside what was picked, is the number that divides the answers, every digit."""
    sure = np.array([0.87654321, 0.87654322] * 150)
    report = report_risk(sure, sure > 0.876543215, 0.1)
    point = report.thresholds[0.1]
    assert isinstance(point, Point) and isinstance(report.picked, Picked)
    head = report_head(
        HeadAnswers(np.zeros(1, np.int64), np.array([[1.0, 0.0]])), np.zeros(1, np.int64), np.array(["s"]), "ab"
    )
    text = format_reports({"own": replace(head, risk=report)})
    (row,) = (line.split("|")[3].strip() for line in text.splitlines() if re.match(r"\| own +\| 10%", line))
    (picked,) = re.findall(r"own: min_confidence: (\S+) for", text)
    assert [yaml.safe_load(each) for each in (row, picked)] == [point.min_confidence, report.picked.min_confidence]
    assert point.min_confidence > 0.87654321


def test_a_picked_threshold_needs_rows_in_each_half() -> None:
    """A hundred rows are enough for a risk of 5% in the table, and too few to pick and to confirm one."""
    report = report_risk(np.linspace(0.5, 1, 100), np.ones(100, dtype=np.bool_), 0.05)
    assert report.thresholds[0.05] == Point(0.0, 1.0, 0.0)
    assert isinstance(report.picked, NoPoint) and "needs at least 100 rows, and there are 50" in report.picked.why
    written = json.loads(json.dumps(report.as_json()))
    assert (written["aurc"], written["picked"]["min_confidence"]) == (0, None)
    assert written["thresholds"][0] == {
        "risk_at_most": 0.01,
        "min_confidence": None,
        "why": _why(report.thresholds[0.01]),
    }


def _why(point: Point | NoPoint) -> str:
    assert isinstance(point, NoPoint)
    return point.why
