"""How good a checkpoint is: its served decisions against the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifiers.checkpoint import UNKNOWN, Checkpoint
from classifiers.decision import ComplexityDecision, TaskDecision, decide_complexity, decide_task
from classifiers.network import PromptClassifier
from classifiers.tokenizer import PromptTokenizer
from scripts.evaluating.calibration import calibration_error
from scripts.training.data import EVALUATION_ONLY, NO_LABEL, Labels, Row, read_rows

ALL_TASKS = "task/dev and labelled/dev"


@dataclass(frozen=True)
class Figures:
    """Accuracy, and F1 averaged over the labels that occur among `rows`; an answer of Unknown is a wrong one."""

    rows: int
    accuracy: float
    macro_f1: float
    f1: dict[str, float]  # label by label
    unknown: int  # how many answers were Unknown
    calibration_error: float  # of the likeliest label's score, Unknown aside


def classify_texts(network: PromptClassifier, checkpoint: Checkpoint, texts: Sequence[str]) -> NDArray[np.float32]:
    """Logits [N, logits_size] of the texts, in their order."""
    ids, _ = PromptTokenizer(checkpoint).encode([text.encode() for text in texts])
    return network.classify([ids])[0]


def dev_figures(
    network: PromptClassifier, checkpoint: Checkpoint, folder: Path, labels: Labels
) -> dict[tuple[str, str], Figures]:
    """Figures on the dev rows, by name of the rows and head: each file, all tasks, and people's labels apart."""
    groups = {name: read_rows(folder / name / "dev.jsonl", labels) for name in ("task", "complexity", "labelled")}
    tasks = groups["task"] + [replace(row, complexity=NO_LABEL) for row in groups["labelled"]]
    human = [row for row in groups["task"] if row.source.startswith(EVALUATION_ONLY)]
    named = {f"{name}/dev": rows for name, rows in groups.items()}
    return measure_rows(network, checkpoint, named | {ALL_TASKS: tasks, f"task/dev, {EVALUATION_ONLY} alone": human})


def measure_rows(
    network: PromptClassifier, checkpoint: Checkpoint, groups: Mapping[str, Sequence[Row]]
) -> dict[tuple[str, str], Figures]:
    """Figures of each group of rows, for each head that at least one of its rows has a label for."""
    figures = {}
    for name, rows in groups.items():
        logits = classify_texts(network, checkpoint, [row.text for row in rows])
        decisions: dict[str, TaskDecision | ComplexityDecision] = {
            "task": decide_task(logits, checkpoint),
            "complexity": decide_complexity(logits, checkpoint),
        }
        labels = {"task": checkpoint.task_labels, "complexity": checkpoint.complexity_labels}
        for head, decision in decisions.items():
            truth = np.array([getattr(row, head) for row in rows])
            if (truth != NO_LABEL).any():
                chosen = truth != NO_LABEL
                figures[name, head] = measure(
                    decision.index[chosen], decision.scores[chosen], truth[chosen], labels[head]
                )
    return figures


def measure(
    answers: NDArray[np.int64], scores: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]
) -> Figures:
    """Figures of the answers [N] with their scores [N, labels]; answers and truth are indices into `labels`."""
    f1 = {labels[number]: _f1(answers == number, truth == number) for number in np.unique(truth)}
    unknown = sum(labels[answer] == UNKNOWN for answer in answers)
    error = calibration_error(scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == truth)
    accuracy = float((answers == truth).mean())
    return Figures(len(truth), accuracy, float(np.mean(list(f1.values()))), f1, unknown, error)


def _f1(answered: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float(2 * (answered & true).sum() / (answered.sum() + true.sum()))
