"""Confusion matrices, reliability diagrams, risk-coverage and cost-quality curves as PNG files. Nothing else needs
matplotlib."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scripts.evaluating.pairs import PairEvaluation
from scripts.evaluating.report import HeadReport
from scripts.evaluating.risk_coverage import Point

_DPI = 110
_MANY_LABELS = 30  # more are drawn smaller
_MOST_LABELS = 100  # that are drawn: a picture's memory grows with their square


def draw_confusion(report: HeadReport, title: str, file: Path) -> None:
    """A row for each true label that occurs: the share of each answer as the colour, the count in the cell. Of very
    many labels those are drawn that are confused most."""
    confusion = np.array(report.confusion)
    drawn = most_confused(confusion, _MOST_LABELS)
    if len(drawn) < len(confusion):
        title = f"{title}\nthe {len(drawn)} of {len(confusion)} labels that are confused most"
    names = [list(report.labels)[number] for number in drawn]
    occurring = [at for at, number in enumerate(drawn) if confusion[number].any()]
    rows = confusion.sum(axis=1)[drawn][occurring]
    counts = confusion[np.ix_(drawn, drawn)][occurring]
    shares = counts / rows[:, np.newaxis]
    is_many = len(names) > _MANY_LABELS
    wide, high, size = (0.2, 0.17, 7) if is_many else (0.65, 0.5, 9)
    figure = Figure(figsize=(3.5 + wide * len(names), 2.5 + high * len(occurring)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    turned = {"rotation": 90, "va": "center"} if is_many else {"rotation": 40}
    axes.set_xticks(range(len(names)), names, ha="right", rotation_mode="anchor", parse_math=False, **turned)
    lines = [f"{names[number]} ({rows[at]})" for at, number in enumerate(occurring)]
    axes.set_yticks(range(len(occurring)), lines, parse_math=False)
    if is_many:
        axes.tick_params(labelsize=size)
        axes.grid(alpha=0.2)  # leads the eye from a cell to its labels
    axes.set(xlabel="answer", ylabel="true label (rows)", title=title)
    for (down, across), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[down, across] > 0.5 else "black"
            axes.text(across, down, str(count), ha="center", va="center", color=colour, fontsize=size)
    figure.colorbar(image, ax=axes, label="share of the true label's rows")
    save(figure, file)


def most_confused(confusion: NDArray[np.int64], most: int) -> list[int]:
    """The numbers of the labels, in their order, that stand in most of the wrong answers: as the truth or the answer;
    of those that stand in as many, the first."""
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diagonal(confusion)
    return sorted(np.argsort(-wrong, kind="stable")[:most].tolist())


def draw_reliability(report: HeadReport, title: str, file: Path) -> None:
    """Above, accuracy against mean confidence, on the diagonal when the scores can be believed; below, rows a bin."""
    figure = Figure(figsize=(6.5, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence = [each.confidence for each in report.reliability]
    accuracy = [each.accuracy for each in report.reliability]
    upper.plot((0, 1), (0, 1), linestyle="--", color="grey", label="confidence = accuracy")
    upper.vlines(confidence, confidence, accuracy, color="tab:red", alpha=0.6, label="gap")
    upper.plot(confidence, accuracy, marker="o", color="tab:blue", label="answers, by bin")
    upper.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), ylabel="accuracy", title=title)
    upper.grid(alpha=0.3)
    upper.legend(loc="upper left")
    rows = [each.rows for each in report.reliability]
    bars = lower.bar(confidence, rows, width=0.03, color="tab:blue")
    lower.bar_label(bars, fontsize=8, padding=1)
    lower.margins(y=0.2)
    lower.set(xlabel="confidence (highest score)", ylabel="rows")
    save(figure, file)


def draw_risk_coverage(report: HeadReport, title: str, file: Path) -> None:
    """The share of wrong answers among those given, against how many are given; the thresholds of the report on it."""
    assert report.risk is not None
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.add_subplot()
    curve = report.risk.curve
    axes.plot([each.coverage for each in curve], [each.risk for each in curve], color="tab:blue", label="answers")
    axes.axhline(curve[-1].risk, linestyle="--", color="grey", label="all answers given")
    for wanted, point in report.risk.thresholds.items():
        if isinstance(point, Point):
            label = f"{wanted:.0%}: min_confidence {point.min_confidence:g}"
            axes.plot(point.coverage, point.risk, marker="o", linestyle="none", label=label)
    axes.set(xlim=(0, 1.03), xlabel="coverage (share of prompts answered)", ylabel="risk (share of wrong answers)")
    axes.set_title(title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    save(figure, file)


def draw_cost_quality(evaluation: PairEvaluation, file: Path) -> None:
    """For all rows and each source: quality against the share of strong calls, beside what chance would give."""
    groups = {"all": evaluation.all, **evaluation.sources}
    across = min(3, len(groups))
    down = -(-len(groups) // across)
    figure = Figure(figsize=(5.2 * across, 1 + 4.2 * down), layout="constrained")
    figure.suptitle(f"{evaluation.router}: {evaluation.checkpoint}")
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes in grid[len(groups) :]:
        axes.remove()
    for axes, (name, summary) in zip(grid, groups.items(), strict=False):
        axes.plot(summary.curve.shares, summary.curve.quality, color="tab:blue", label=evaluation.router)
        axes.plot((0, 1), (summary.weak, summary.strong), linestyle="--", color="grey", label="random")
        for share, each in (summary.cpt or {}).items():
            level = summary.weak + share * (summary.strong - summary.weak)
            axes.plot(each.value, level, marker="o", linestyle="none", label=f"CPT({share:.0%}) {each.value:.3f}")
        figures = "" if summary.apgr is None else f", APGR {summary.apgr}"
        axes.set(xlabel="share of strong calls", ylabel="right answers", title=f"{name}: {summary.rows} rows{figures}")
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
    save(figure, file)


def save(figure: Figure, file: Path) -> None:
    FigureCanvasAgg(figure)  # no window, no display, no global state
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a label in a script that the font lacks
        figure.savefig(file, format="png", dpi=_DPI)
