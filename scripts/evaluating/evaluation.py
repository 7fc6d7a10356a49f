"""What was measured of a classifier, and where it is written: report.json and the pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers.checkpoint import UNKNOWN
from gateway.labels import known_labels
from scripts.evaluating.pairs import PairEvaluation
from scripts.evaluating.report import HeadReport, format_reports
from scripts.evaluating.risk_coverage import NoPoint

_KINDS = ("confusion", "reliability", "risk-coverage")


@dataclass(frozen=True)
class Evaluation:
    """What was measured: which network, on which files (by SHA-256), and how it did.

    `checkpoint` is the model's name where it does not say which network it is. Without labels there are no heads.
    """

    checkpoint: str
    rows: int
    files: dict[str, str]
    heads: dict[str, HeadReport]

    def as_json(self) -> str:
        value: dict[str, Any] = {
            "checkpoint": self.checkpoint,
            "rows": self.rows,
            "files": [{"path": path, "sha256": digest} for path, digest in self.files.items()],
            "heads": {head: report.as_json() for head, report in self.heads.items()},
        }
        return json.dumps(value, indent=2, allow_nan=False)

    def as_text(self) -> str:
        files = "\n".join(f"{digest}  {path}" for path, digest in self.files.items())
        return f"{self.checkpoint}, {self.rows} rows\n{files}\n\n{format_reports(self.heads)}".rstrip("\n")

    def unpicked(self, risk: float) -> list[str]:
        """Why there is no threshold for this risk: a line for each head without."""
        lines = []
        for head, report in self.heads.items():
            if report.risk is None:
                lines.append(f"{head}: its scores are no probabilities; no min_confidence for a risk of {risk:g}")
            elif isinstance(report.risk.picked, NoPoint):
                lines.append(f"{head}: {report.risk.picked.why}")
        return lines


def served_labels() -> dict[str, tuple[str, ...]]:
    """What each head may answer, in the order of its scores: Unknown is the last of the tasks."""
    task, complexity = known_labels("task_router_ensemble"), known_labels("complexity_router_ensemble")
    assert task is not None and complexity is not None and task[-1] == UNKNOWN
    return {"task": task, "complexity": complexity}


def write(evaluation: Evaluation | PairEvaluation, folder: Path) -> None:
    """report.json; and for each head its confusion matrix and, where the scores are probabilities, its reliability and
    its risk against coverage, or for a router its cost-quality curves.

    What an earlier run drew goes: a picture never stands beside another run's report.
    """
    from scripts.evaluating.draw import draw_cost_quality

    curves = folder / "cost-quality.png"
    heads = {*served_labels(), *_heads_before(folder / "report.json")}
    for path in (*(folder / f"{kind}-{head}.png" for kind in _KINDS for head in heads), curves):
        path.unlink(missing_ok=True)
    (folder / "report.json").write_text(evaluation.as_json() + "\n", encoding="utf-8")
    if isinstance(evaluation, PairEvaluation):
        draw_cost_quality(evaluation, curves)
        return
    for head, report in evaluation.heads.items():
        draw_head(head, report, evaluation.checkpoint, folder)


def draw_head(head: str, report: HeadReport, checkpoint: str, folder: Path) -> None:
    """Its pictures."""
    from scripts.evaluating.draw import draw_confusion, draw_reliability, draw_risk_coverage

    title = f"{head}: {report.all.rows} rows, accuracy {report.all.accuracy:.3f}"
    draw_confusion(report, f"{title}\n{checkpoint}", folder / f"confusion-{head}.png")
    if report.all.calibration_error is not None:
        error = f"{title}, ECE {report.all.calibration_error:.3f}"
        draw_reliability(report, f"{error}\n{checkpoint}", folder / f"reliability-{head}.png")
    if report.risk is not None:
        area = f"{title}, AURC {report.risk.aurc:.3f}"
        draw_risk_coverage(report, f"{area}\n{checkpoint}", folder / f"risk-coverage-{head}.png")


def _heads_before(report: Path) -> list[str]:
    """The heads that an earlier run's report is of."""
    try:
        return [head for head in json.loads(report.read_bytes())["heads"] if "/" not in head]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # there is none, or it is no report of ours
