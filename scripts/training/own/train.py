"""Trains a classifier of your own: from labelled files to a checkpoint folder with its card."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint, CheckpointError, checkpoint_digest
from classifiers.decision import head_probabilities
from classifiers.network import PromptClassifier
from gateway.traffic import language_of, seen, take_snapshot
from scripts.evaluating.ask import HeadAnswers
from scripts.evaluating.draw import draw_confusion, draw_reliability
from scripts.evaluating.report import HeadReport, report_head
from scripts.training.calibrate import FEWEST_ROWS, fit_temperature
from scripts.training.data import NO_LABEL
from scripts.training.own.card import Run, describe, format_figures
from scripts.training.own.data import Example
from scripts.training.own.encoder import Encoder, embedded_encoder, folder_digest, load_encoder
from scripts.training.own.learn import Labels, Lesson, head_slices, learn, logits_of, read_lesson, untrained_network
from scripts.training.own.recipe import Order
from scripts.training.own.splits import read_splits
from scripts.training.own.state import StateFile, digest
from scripts.training.own.write import load_written, replacing, require_replaceable, write_checkpoint


def train_own(order: Order) -> None:
    """The whole command.

    Raises DataFaults, CheckpointError, LearningError, WriteError and OSError; `out` is as it was then.
    """
    require_replaceable(order.out)
    _require_device(order.device)
    splits = read_splits(order.data, order.dev, order.test, order.columns, order.recipe.seed)
    encoder = load_encoder(order.encoder or embedded_encoder(), order.max_tokens)
    hashes = {split: [(file.name, _sha256(file)) for file in files] for split, files in order.files.items()}
    state = StateFile(order.out, _key(order, encoder, hashes))
    if splits.merged:
        print(f"{splits.merged} rows stand in their split already, with no other label: each text is taken once")
    train, dev, measured = (
        read_lesson(encoder, rows, splits.labels) for rows in (splits.train, splits.dev, splits.measured)
    )
    network = untrained_network(encoder, splits.labels, order.recipe).to(order.device)
    progress = learn(network, train, dev, splits.labels, order.recipe, state)
    logits = logits_of(network, dev.ids)
    temperatures = fit_temperatures(logits, dev, splits.labels)
    run = Run(order, encoder, splits, train, progress, temperatures, hashes)
    with replacing(order.out) as folder:
        checkpoint = write_checkpoint(folder, order.name, encoder, network, splits.labels, temperatures)
        written = load_written(checkpoint, dev.ids, logits, order.device)
        reports = measure(written, checkpoint, measured, splits.measured, folder)
        (folder / "README.md").write_text(describe(run, reports), encoding="utf-8")
    print(format_figures(reports))
    print(f"written to {order.out}; scripts/add_policy serves it")


def fit_temperatures(logits: NDArray[np.float32], dev: Lesson, labels: Labels) -> dict[str, float]:
    """Each head's, from the dev rows that have its label; 1 of too few rows to tell."""
    temperatures = {}
    for number, (head, rows) in enumerate(zip(labels, head_slices(labels), strict=True)):
        truth = dev.truth[:, number]
        known = truth != NO_LABEL
        enough = known.sum() >= FEWEST_ROWS
        temperatures[head] = fit_temperature(logits[known][:, rows].astype(np.float64), truth[known]) if enough else 1.0
    return temperatures


def measure(
    network: PromptClassifier, checkpoint: Checkpoint, lesson: Lesson, examples: Sequence[Example], folder: Path
) -> dict[str, HeadReport]:
    """Each head's report on these rows; its pictures and its snapshot go to `folder`."""
    logits = logits_of(network, lesson.ids)
    languages = [language_of(example.text) for example in examples]
    reports = {}
    for number, head in enumerate(checkpoint.heads):
        scores = head_probabilities(logits, checkpoint, head.name).astype(np.float64)
        reports[head.name] = _report(scores, lesson.truth[:, number], head.labels)
        _draw(reports[head.name], f"{checkpoint.name}, {head.name}", head.name, folder)
        rows = [
            seen(head.labels[row.argmax()], float(row.max()), int(tokens[1]), language)
            for row, tokens, language in zip(scores, lesson.tokens, languages, strict=True)
        ]
        snapshot = take_snapshot(rows, f"{checkpoint.name}:{checkpoint_digest(checkpoint)}")
        (folder / f"snapshot-{head.name}.json").write_text(snapshot.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return reports


def _report(scores: NDArray[np.float64], truth: NDArray[np.int64], labels: Sequence[str]) -> HeadReport:
    known = truth != NO_LABEL
    answers = HeadAnswers(scores[known].argmax(axis=1), scores[known])
    return report_head(answers, truth[known], np.full(known.sum(), "all"), labels)


def _draw(report: HeadReport, title: str, head: str, folder: Path) -> None:
    title = f"{title}: {report.all.rows} rows, accuracy {report.all.accuracy:.3f}"
    draw_confusion(report, title, folder / f"confusion-{head}.png")
    draw_reliability(report, f"{title}, ECE {report.all.calibration_error:.3f}", folder / f"reliability-{head}.png")


def _require_device(device: str) -> None:
    if device == "cpu":
        return
    count = torch.cuda.device_count()
    if int(device.removeprefix("cuda:")) >= count:
        raise CheckpointError(f"--device {device}: this machine has {count} GPUs that torch can use")


def _key(order: Order, encoder: Encoder, hashes: dict[str, list[tuple[str, str]]]) -> str:
    """Of everything that the weights hang on."""
    return digest(
        {
            "recipe": asdict(order.recipe),
            "columns": order.columns,
            "files": hashes,
            "encoder": folder_digest(encoder.folder),
            "max_tokens": encoder.max_tokens,
            "device": order.device.partition(":")[0],
            "versions": [torch.__version__, transformers.__version__, tokenizers.__version__],
        }
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
