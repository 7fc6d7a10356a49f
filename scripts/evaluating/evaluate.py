"""Measures what a running Triton serves, on prompts: its classifier, any other model that gives labels, or a RouteLLM
router.

Labelled prompts measure the classifier, by head (task, complexity), source and label: how often, and how surely, it was
right. They are one JSON object a line with text, source and more, and their file's folder says what it holds: in task/
and complexity/ rows have a label, in labelled/ a task and a complexity. With --model they measure that model alone, in
any folder: text and label, and source if there are several, as JSON or, in a file that ends in .csv, as CSV with a
header. Strong/weak data measure a router, by source: rows have strong and weak, 1 when that model's answer to the
prompt is right, else 0.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.checkpoint import UNKNOWN
from gateway.config import ROUTELLM_MODELS
from gateway.labels import known_labels
from gateway.prompt import bounded
from scripts.evaluating.ask import HeadAnswers, TritonError, ask, reach
from scripts.evaluating.decisions import Question, answers_of, decide_all, labels_of
from scripts.evaluating.pairs import PairEvaluation, are_pairs, evaluate_pairs
from scripts.evaluating.report import HeadReport, format_reports, report_head, report_heads, source_name
from scripts.evaluating.risk_coverage import NoPoint
from scripts.evaluating.score import ROUTERS
from scripts.evaluating.snapshot import require_place, snapshot_of, write_snapshot
from scripts.evaluating.texts import Text, read_texts, require_labels
from scripts.training.data import DataError, Labels, Row, file_hashes, read_rows

_FOLDERS = ("task", "complexity", "labelled")
_KINDS = ("confusion", "reliability", "risk-coverage")
_ENSEMBLE = "_router_ensemble"


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 2 when an argument or the data is wrong, or gives no threshold for --risk; 1 when
    Triton or writing fails."""
    root = parser()
    options = root.parse_args(arguments)
    if fault := wrong_together(options):
        root.error(fault)
    try:
        evaluation = evaluate(options)
    except (DataError, TritonError, OSError) as error:
        print("\n".join(f"evaluate: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2 if isinstance(error, DataError) else 1
    except KeyboardInterrupt:
        print("evaluate: interrupted", file=sys.stderr)
        return 130
    print(evaluation.as_json() if options.json else evaluation.as_text())
    unpicked = evaluation.unpicked(options.risk) if options.risk and isinstance(evaluation, Evaluation) else []
    for line in unpicked:
        print(f"evaluate: {line}", file=sys.stderr)
    return 2 if unpicked else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/evaluate",
        description=__doc__,
        epilog="Exit code: 0; 2 wrong arguments or data, or data that gives no min_confidence for --risk; 1 otherwise.",
    )
    root.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="labelled prompts (JSONL), in a folder called task, complexity or labelled; strong/weak data; or, "
        "with --model, labelled prompts (JSONL or CSV) anywhere",
    )
    root.add_argument(
        "--triton", type=read_target, required=True, metavar="HOST:PORT", help="gRPC endpoint of the Triton to measure"
    )
    root.add_argument(
        "--model",
        metavar="NAME",
        help="the Triton model to measure, as in a policy's url: its output OUTPUT and labels",
    )
    root.add_argument(
        "--router",
        choices=ROUTERS,
        default="mf",
        help="the router that strong/weak data measure (default: %(default)s)",
    )
    root.add_argument(
        "--risk",
        type=read_risk,
        metavar="SHARE",
        help="pick the min_confidence with which at most this share of the answers given is wrong, as 0.05, on one "
        "random half of the rows, and try it on the other",
    )
    root.add_argument(
        "--snapshot",
        type=Path,
        metavar="FILE",
        help="with --model, write the calibration snapshot of what was served, which a policy's key snapshot names; "
        "rows need no label then",
    )
    root.add_argument(
        "--threshold",
        type=read_threshold,
        metavar="RATE",
        help="the policy's threshold, for the snapshot of a RouteLLM model (--model routellm_mf)",
    )
    root.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write report.json and the PNG figures to; made if missing"
    )
    root.add_argument("--json", action="store_true", help="print the report as JSON")
    return root


def wrong_together(options: argparse.Namespace) -> str | None:
    """What is wrong with arguments that are right each by itself."""
    if options.snapshot is not None and options.model is None:
        return "--snapshot needs --model, the model that the policy asks"
    is_routellm = options.model in ROUTELLM_MODELS
    if is_routellm and options.snapshot is None:
        return f"--model {options.model} answers with a win rate: measure it with --router and strong/weak data"
    if is_routellm and options.threshold is None:
        return f"--snapshot of {options.model} needs --threshold, which tells strong from weak"
    if options.threshold is not None and not is_routellm:
        return "--threshold is for the snapshot of a RouteLLM model"
    if is_routellm and options.risk is not None:
        return "--risk needs a model that gives labels"
    return None


def read_risk(value: str) -> float:
    """Raises ArgumentTypeError: no share of wrong answers above 0 and below 1."""
    return _read_number(value, lambda number: 0 < number < 1, "a share above 0 and below 1, as 0.05")


def read_threshold(value: str) -> float:
    """Raises ArgumentTypeError: no win rate from 0 to 1."""
    return _read_number(value, lambda number: 0 <= number <= 1, "a win rate from 0 to 1")


def _read_number(value: str, fits: Callable[[float], bool], expected: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not fits(number):
        raise argparse.ArgumentTypeError(f"expected {expected}, and got {value!r}")
    return number


def read_target(value: str) -> str:
    """Raises ArgumentTypeError: not host:port."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):(\d{1,5})", value)
    if match is None or not 0 < int(match[2]) < 65536:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, as localhost:8001, and got {value!r}")
    return value


def evaluate(options: argparse.Namespace) -> Evaluation | PairEvaluation:
    """Raises DataError before anything is asked, TritonError, and OSError when something can't be written."""
    measured: Evaluation | PairEvaluation
    if options.model is not None:
        measured = evaluate_model(options)
    elif are_pairs(options.data):
        if options.risk is not None:
            raise DataError(f"{options.data[0]}: is strong/weak data, and --risk needs labelled prompts")
        measured = evaluate_pairs(options.data, options.triton, options.router, options.out)
    else:
        measured = evaluate_labelled(options.data, options.triton, options.out, options.risk)
    if options.out is not None:
        write(measured, options.out)
    return measured


def evaluate_labelled(data: Sequence[Path], target: str, out: Path | None, risk: float | None) -> Evaluation:
    labels = served_labels()
    rows = read_files(data, labels)
    with reach(target) as client:
        if out is not None:  # before the long part
            out.mkdir(parents=True, exist_ok=True)
        answers = ask(client, [row.text for row in rows], labels)
    files = dict(file_hashes(Path(), map(str, data)))
    heads = report_heads(rows, answers.heads, labels, risk)
    return Evaluation(answers.checkpoint, len(rows), files, heads)


def evaluate_model(options: argparse.Namespace) -> Evaluation:
    """Of one model, asked as the gateway asks it, and its snapshot where one is wanted.

    Raises DataError before more than a first prompt is asked, TritonError, and OSError.
    """
    model: str = options.model
    rows = read_texts(options.data, labelled=options.snapshot is None)
    questions = [Question(options.triton, model, bounded(row.text)) for row in rows]
    if options.snapshot is not None:
        require_place(options.snapshot)
    (first,) = decide_all(questions[:1]).values()  # tells the labels, and whether the model is there at all
    require_labels(rows, labels_of(first), model)
    if options.out is not None:  # before the long part
        options.out.mkdir(parents=True, exist_ok=True)
    found = decide_all(questions)
    decisions = [found[question] for question in questions]
    heads = {}
    if any(row.label is not None for row in rows):
        head = model.removesuffix(_ENSEMBLE)
        heads[head] = report_texts(rows, answers_of(head, decisions).heads[head], labels_of(first), options.risk)
    elif options.risk is not None:
        raise DataError(f"{options.data[0]}: has no labels, which --risk needs")
    if options.snapshot is not None:
        write_snapshot(snapshot_of([row.text for row in rows], decisions, options.threshold), options.snapshot)
    files = dict(file_hashes(Path(), map(str, options.data)))
    return Evaluation(first.checkpoint or model, len(rows), files, heads)


def report_texts(rows: Sequence[Text], answers: HeadAnswers, labels: Sequence[str], risk: float | None) -> HeadReport:
    """Of the rows that have a label, at least one; `answers` are for all of them."""
    chosen = [at for at, row in enumerate(rows) if row.label is not None]
    truth = np.array([labels.index(rows[at].label or "") for at in chosen], dtype=np.int64)
    sources = np.array([source_name(rows[at].source) for at in chosen])
    return report_head(HeadAnswers(answers.index[chosen], answers.scores[chosen]), truth, sources, labels, risk)


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


if __name__ == "__main__":
    sys.exit(main())
