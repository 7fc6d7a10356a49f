"""How good answers are: figures by head, by source and by label. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers.checkpoint import UNKNOWN
from scripts.evaluating.ask import HeadAnswers
from scripts.evaluating.calibration import Bin, calibration_error, reliability
from scripts.evaluating.risk_coverage import NoPoint, Point, RiskReport, report_risk
from scripts.training.data import NO_LABEL, Row

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Summary:
    """Of some rows: an answer of Unknown counts as wrong, macro F1 averages over the labels that occur.

    `calibration_error` takes the highest score for the confidence, and its label for the answer: the label that was
    answered, or the one that was too unsure when the answer is Unknown. None where the scores are no probabilities, as
    the published network's complexity dimensions.
    """

    rows: int
    accuracy: float
    macro_f1: float
    calibration_error: float | None
    unknown: int


@dataclass(frozen=True)
class LabelFigures:
    """Of one label: how many rows have it, and how many got it as the answer.

    None: no precision of what was never answered, no recall and no F1 of what does not occur.
    """

    rows: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class HeadReport:
    """Everything about one head. `labels` are those that occur or were answered, in the network's order; `confusion`
    counts, in that order, rows by true label (down) and answer (across). There is no `risk` where the scores are no
    probabilities.
    """

    all: Summary
    sources: Mapping[str, Summary]
    labels: Mapping[str, LabelFigures]
    confusion: Sequence[Sequence[int]]
    reliability: Sequence[Bin]
    risk: RiskReport | None = None

    def as_json(self) -> dict[str, Any]:
        value = asdict(replace(self, risk=None)) | {"reliability": [each._asdict() for each in self.reliability]}
        return value | {"risk": None if self.risk is None else self.risk.as_json()}


def report_heads(
    rows: Sequence[Row],
    answers: Mapping[str, HeadAnswers],
    labels: Mapping[str, Sequence[str]],
    risk: float | None = None,
) -> dict[str, HeadReport]:
    """A report for each head that at least one row has a label for, with a threshold for the wanted `risk`."""
    sources = np.array([source_of(row) for row in rows])
    reports = {}
    for head, names in labels.items():
        truth = np.array([getattr(row, head) for row in rows], dtype=np.int64)
        chosen = truth != NO_LABEL
        if chosen.any():
            given = HeadAnswers(answers[head].index[chosen], answers[head].scores[chosen])
            reports[head] = report_head(given, truth[chosen], sources[chosen], names, risk)
    return reports


def source_of(row: Row) -> str:
    """The data set's name: what stands before the first colon (`labelled` for rows of labelled/)."""
    return source_name(row.source)


def source_name(source: str) -> str:
    return source.split(":", 1)[0]


def report_head(
    answers: HeadAnswers,
    truth: NDArray[np.int64],
    sources: NDArray[np.str_],
    labels: Sequence[str],
    risk: float | None = None,
) -> HeadReport:
    """`truth` [N] holds indices into `labels`, `sources` [N] names; `risk` is one that a threshold is wanted for."""
    everything = np.ones(len(truth), dtype=np.bool_)
    groups = {str(name): sources == name for name in np.unique(sources)}
    sure = confidence(answers.scores)
    right = answers.scores.argmax(axis=1) == truth

    def summary(rows: NDArray[np.bool_]) -> Summary:
        error = None if sure is None else calibration_error(sure[rows], right[rows])
        return summarise(confusion(answers.index[rows], truth[rows], len(labels)), error, labels)

    counts = confusion(answers.index, truth, len(labels))
    shown = [number for number in range(len(labels)) if counts[number].any() or counts[:, number].any()]
    return HeadReport(
        all=summary(everything),
        sources={name: summary(rows) for name, rows in groups.items()},
        labels={labels[number]: label_figures(counts, number) for number in shown},
        confusion=counts[np.ix_(shown, shown)].tolist(),
        reliability=[] if sure is None else reliability(sure, right),
        risk=None if sure is None else report_risk(sure, answers.index == truth, risk),
    )


def summarise(counts: NDArray[np.int64], error: float | None, labels: Sequence[str]) -> Summary:
    rows = int(counts.sum())
    f1 = [figures.f1 for number in range(len(labels)) if (figures := label_figures(counts, number)).f1 is not None]
    unknown = int(counts[:, labels.index(UNKNOWN)].sum()) if UNKNOWN in labels else 0
    return Summary(rows, int(counts.trace()) / rows, sum(f1) / len(f1), error, unknown)


def confidence(scores: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The highest of each row's `scores` [N, labels]; None when they are no probabilities that add to 1.

    A float32 may lie a rounding above 1.
    """
    sums = np.abs(scores.sum(axis=1) - 1)
    if not ((scores >= 0) & (scores <= 1 + _SUM_TOLERANCE)).all() or not (sums <= _SUM_TOLERANCE).all():
        return None
    highest: NDArray[np.float64] = scores.max(axis=1)
    return highest.clip(max=1.0)


def confusion(index: NDArray[np.int64], truth: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """[count, count]: how many rows of a true label (down) got an answer (across)."""
    pairs = np.bincount(truth * count + index, minlength=count * count)
    return pairs.reshape(count, count)


def label_figures(counts: NDArray[np.int64], number: int) -> LabelFigures:
    rows, answered = int(counts[number].sum()), int(counts[:, number].sum())
    right = int(counts[number, number])
    return LabelFigures(
        rows,
        answered,
        precision=right / answered if answered else None,
        recall=right / rows if rows else None,
        f1=2 * right / (rows + answered) if rows else None,
    )


def format_reports(reports: Mapping[str, HeadReport]) -> str:
    """Markdown tables that a terminal shows aligned: each head with its sources, each label and, where scores are
    probabilities, the thresholds; and what was picked for a wanted risk."""
    summaries = [
        (head, source, each.rows, each.accuracy, each.macro_f1, each.calibration_error, each.unknown)
        for head, report in reports.items()
        for source, each in [("all", report.all), *report.sources.items()]
    ]
    labels = [
        (head, label, each.rows, each.answered, each.precision, each.recall, each.f1)
        for head, report in reports.items()
        for label, each in report.labels.items()
    ]
    parts = [
        table(("head", "source", "rows", "accuracy", "macro F1", "ECE", "Unknown"), summaries),
        table(("head", "label", "rows", "answered", "precision", "recall", "F1"), labels),
    ]
    risks = {head: report.risk for head, report in reports.items() if report.risk is not None}
    if risks:
        thresholds = [
            (head, f"{wanted:.0%}", *_point_cells(point), risk.aurc)
            for head, risk in risks.items()
            for wanted, point in risk.thresholds.items()
        ]
        parts.append(table(("head", "risk at most", "min_confidence", "coverage", "risk", "AURC"), thresholds))
    parts += [line for head, risk in risks.items() for line in _picked_lines(head, risk)]
    return "\n\n".join(parts)


def _point_cells(point: Point | NoPoint) -> tuple[str | float | None, ...]:
    if isinstance(point, NoPoint):
        return point.short, None, None
    # As short as it can be and no shorter: rounded, it would not divide the answers as it does here.
    return repr(point.min_confidence), point.coverage, point.risk


def _picked_lines(head: str, risk: RiskReport) -> list[str]:
    if risk.picked is None or risk.wanted is None:
        return []
    if isinstance(risk.picked, NoPoint):
        return [f"{head}: {risk.picked.why}"]
    halves = (("picked on", risk.picked.picked_on), ("held out", risk.picked.held_out))
    said = [
        f"  {name:<10}{half.rows:>6,} rows, coverage {half.coverage:.3f}, risk {_cell(half.risk)}"
        for name, half in halves
    ]
    return ["\n".join([f"{head}: min_confidence: {risk.picked.min_confidence!r} for a risk of {risk.wanted:g}", *said])]


def table(header: Sequence[str], rows: Iterable[Sequence[str | int | float | None]], names: int = 2) -> str:
    """A Markdown table that a terminal shows aligned: `names` columns of names to the left, numbers to the right."""
    lines = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if at < names else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if at < names else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
