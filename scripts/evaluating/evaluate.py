"""Measures what a running Triton serves, on prompts: its classifier, any other model that gives labels, or a RouteLLM
router.

Labelled prompts measure the classifier, by head (task, complexity), source and label: how often, and how surely, it was
right. They are one JSON object a line with text, source and more, and their file's folder says what it holds: in task/
and complexity/ rows have a label, in labelled/ a task and a complexity. With --model they measure that model alone, in
any folder: text and label, and source if there are several, in files called *.jsonl, or *.csv with a header.
Strong/weak data measure a router, by source: rows have strong and weak, 1 when that model's answer to the prompt is
right, else 0.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.config import ROUTELLM_MODELS
from scripts.evaluating.ask import TritonError, ask, reach
from scripts.evaluating.evaluation import Evaluation, served_labels, write
from scripts.evaluating.model import evaluate_model
from scripts.evaluating.pairs import PairEvaluation, are_pairs, evaluate_pairs
from scripts.evaluating.report import report_heads
from scripts.evaluating.score import ROUTERS
from scripts.training.data import DataError, Labels, Row, file_hashes, read_rows

_FOLDERS = ("task", "complexity", "labelled")


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
        "with --model, labelled prompts in any folder (*.jsonl, *.csv)",
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


if __name__ == "__main__":
    sys.exit(main())
