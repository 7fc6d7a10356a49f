"""Measures the classifier or the RouteLLM router that a running Triton serves, on prompts, one JSON object a line with
text, source and more.

Labelled prompts measure the classifier, by head (task, complexity), source and label: how often, and how surely, it was
right. Their file's folder says what it holds: in task/ and complexity/ rows have a label, in labelled/ a task and a
complexity. Strong/weak data measure a router, by source: rows have strong and weak, 1 when that model's answer to the
prompt is right, else 0.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers.checkpoint import UNKNOWN
from gateway.labels import known_labels
from scripts.evaluating.ask import TritonError, ask, reach
from scripts.evaluating.pairs import PairEvaluation, are_pairs, evaluate_pairs
from scripts.evaluating.report import HeadReport, format_reports, report_heads
from scripts.evaluating.score import ROUTERS
from scripts.training.data import DataError, Labels, Row, file_hashes, read_rows

_FOLDERS = ("task", "complexity", "labelled")
_KINDS = ("confusion", "reliability")


@dataclass(frozen=True)
class Evaluation:
    """What was measured: which network, on which files (by SHA-256), and how it did."""

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
        return f"{self.checkpoint}, {self.rows} rows\n{files}\n\n{format_reports(self.heads)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 2 when an argument or the data is wrong; 1 when Triton or writing fails."""
    options = parser().parse_args(arguments)
    try:
        evaluation = evaluate(options.data, options.triton, options.out, options.router)
    except (DataError, TritonError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2 if isinstance(error, DataError) else 1
    except KeyboardInterrupt:
        print("evaluate: interrupted", file=sys.stderr)
        return 130
    print(evaluation.as_json() if options.json else evaluation.as_text())
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/evaluate", description=__doc__, epilog="Exit code: 0; 2 wrong arguments or data; 1 otherwise."
    )
    root.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="labelled prompts (JSONL), in a folder called task, complexity or labelled; or strong/weak data",
    )
    root.add_argument(
        "--triton", type=read_target, required=True, metavar="HOST:PORT", help="gRPC endpoint of the Triton to measure"
    )
    root.add_argument(
        "--router",
        choices=ROUTERS,
        default="mf",
        help="the router that strong/weak data measure (default: %(default)s)",
    )
    root.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write report.json and the PNG figures to; made if missing"
    )
    root.add_argument("--json", action="store_true", help="print the report as JSON")
    return root


def read_target(value: str) -> str:
    """Raises ArgumentTypeError: not host:port."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):(\d{1,5})", value)
    if match is None or not 0 < int(match[2]) < 65536:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, as localhost:8001, and got {value!r}")
    return value


def evaluate(data: Sequence[Path], target: str, out: Path | None, router: str) -> Evaluation | PairEvaluation:
    """Raises DataError before anything is asked, TritonError, and OSError when `out` can't be written."""
    measured = evaluate_pairs(data, target, router, out) if are_pairs(data) else evaluate_labelled(data, target, out)
    if out is not None:
        write(measured, out)
    return measured


def evaluate_labelled(data: Sequence[Path], target: str, out: Path | None) -> Evaluation:
    labels = served_labels()
    rows = read_files(data, labels)
    with reach(target) as client:
        if out is not None:  # before the long part
            out.mkdir(parents=True, exist_ok=True)
        answers = ask(client, [row.text for row in rows], labels)
    files = dict(file_hashes(Path(), map(str, data)))
    heads = report_heads(rows, answers.heads, labels)
    return Evaluation(answers.checkpoint, len(rows), files, heads)


def served_labels() -> dict[str, tuple[str, ...]]:
    """What each head may answer, in the order of its scores: Unknown is the last of the tasks."""
    task, complexity = known_labels("task_router_ensemble"), known_labels("complexity_router_ensemble")
    assert task is not None and complexity is not None and task[-1] == UNKNOWN
    return {"task": task, "complexity": complexity}


def read_files(paths: Sequence[Path], labels: dict[str, tuple[str, ...]]) -> list[Row]:
    """The rows of all files; a text that stands in two files counts in each.

    Raises DataError: a broken row (with file and line), a file without rows, given twice or in another folder.
    """
    teachable = Labels(labels["task"][:-1], labels["complexity"])  # no row is labelled Unknown
    rows: list[Row] = []
    seen: set[Path] = set()
    for path in paths:
        place = path.absolute()  # `cd task; scripts/evaluate --data dev.jsonl`
        if place.parent.name not in _FOLDERS:
            raise DataError(f"{path}: its folder should be called {', '.join(_FOLDERS[:-1])} or {_FOLDERS[-1]}")
        if place in seen:
            raise DataError(f"{path}: given twice")
        found = read_rows(place, teachable)
        if not found:
            raise DataError(f"{path}: holds no rows")
        seen.add(place)
        rows += found
    return rows


def write(evaluation: Evaluation | PairEvaluation, folder: Path) -> None:
    """report.json; and for each head its confusion matrix and, where the scores are probabilities, its reliability, or
    for a router its cost-quality curves.

    What an earlier run drew goes: a picture never stands beside another run's report.
    """
    from scripts.evaluating.draw import draw_confusion, draw_cost_quality, draw_reliability

    curves = folder / "cost-quality.png"
    for path in (*(folder / f"{kind}-{head}.png" for kind in _KINDS for head in served_labels()), curves):
        path.unlink(missing_ok=True)
    (folder / "report.json").write_text(evaluation.as_json() + "\n", encoding="utf-8")
    if isinstance(evaluation, PairEvaluation):
        draw_cost_quality(evaluation, curves)
        return
    for head, report in evaluation.heads.items():
        title = f"{head}: {report.all.rows} rows, accuracy {report.all.accuracy:.3f}"
        draw_confusion(report, f"{title}\n{evaluation.checkpoint}", folder / f"confusion-{head}.png")
        if report.all.calibration_error is not None:
            title = f"{title}, ECE {report.all.calibration_error:.3f}"
            draw_reliability(report, f"{title}\n{evaluation.checkpoint}", folder / f"reliability-{head}.png")


if __name__ == "__main__":
    sys.exit(main())
