"""The model card of a classifier of your own: what it is, its figures, and what it learnt from. No date, no text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from scripts.evaluating.report import HeadReport, table
from scripts.training.calibrate import FEWEST_ROWS
from scripts.training.own.data import Example
from scripts.training.own.encoder import Encoder
from scripts.training.own.learn import Lesson
from scripts.training.own.recipe import ADAPTER_RANK, Order
from scripts.training.own.splits import Splits
from scripts.training.own.state import Progress

_MOST_LABELS = 30  # that are shown one by one
_WORST = 20

Reports = Mapping[str, HeadReport]


@dataclass(frozen=True)
class Run:
    """One training: how it was done, on what, and how it went. `hashes`: file names with SHA-256, by split."""

    order: Order
    encoder: Encoder
    splits: Splits
    train: Lesson
    progress: Progress
    temperatures: Mapping[str, float]
    hashes: Mapping[str, Sequence[tuple[str, str]]]


def describe(run: Run, reports: Reports) -> str:
    """The whole card, in Markdown."""
    return "\n\n".join(_sections(run, reports)) + "\n"


def format_figures(reports: Reports) -> str:
    """A table with a line for each head."""
    rows = [
        (head, each.all.rows, each.all.accuracy, each.all.macro_f1, each.all.calibration_error)
        for head, each in reports.items()
    ]
    return table(("head", "rows", "accuracy", "macro F1", "ECE"), rows, names=1)


def _sections(run: Run, reports: Reports) -> Iterable[str]:
    yield f"# {run.order.name}"
    yield "Written by `scripts/train_classifier`; change the command, not this page."
    yield _introduction(run)
    yield "## Figures"
    yield _measured_on(run.splits)
    yield format_figures(reports)
    yield (
        "Macro F1 averages over the labels that occur. ECE is the expected calibration error, over 15 bins, of the "
        "likeliest label's probability."
    )
    for head, report in reports.items():
        yield f"### {head}"
        yield _format_labels(report)
        yield f"![Confusion matrix](confusion-{head}.png)"
        yield f"![Reliability](reliability-{head}.png)"
    yield "## What it can't do"
    yield _limits(run)
    yield "## Training"
    yield _training(run)
    yield _format_epochs(run.progress)
    yield "## Data"
    yield _data(run.splits)
    for head in run.splits.labels:
        yield _format_counts(run.splits, head)
    yield "Every file, by SHA-256:"
    yield "\n".join(f"- {split}: `{name}` {digest}" for split, files in run.hashes.items() for name, digest in files)


def _introduction(run: Run) -> str:
    heads = " and ".join(f"`{head}` (one of {len(names)} labels)" for head, names in run.splits.labels.items())
    if run.order.encoder is None:
        encoder = "all-MiniLM-L6-v2, the sentence encoder that comes with this project (Apache-2.0)"
    else:
        encoder = f"the encoder `{run.order.encoder.name}`, whose licence holds for these weights too"
    return (
        f"A network that gives a text's {heads}. It is {encoder}, and a linear layer for each head over the mean of "
        "the token vectors. The folder holds all of it: `config.json` has the labels in the order of the scores, "
        "`model.safetensors` encoder and heads, `tokenizer.json` how a text becomes tokens, "
        "`snapshot-*.json` what the measured rows look like. `scripts/add_policy` serves it."
    )


def _measured_on(splits: Splits) -> str:
    if splits.test:
        return f"Of the folder as it lies here, on the {len(splits.test)} test rows: nothing was chosen on them."
    dev = "dev rows" if splits.dev_is_given else "dev rows, which were held out of the training rows, label by label"
    return (
        f"Of the folder as it lies here, on the {len(splits.dev)} {dev}. When to stop and the temperatures "
        "were chosen on these very rows, which flatters the figures a little; rows given with `--test` would not."
    )


def _format_labels(report: HeadReport) -> str:
    rows = [
        (_cell(label), each.rows, each.answered, each.precision, each.recall, each.f1)
        for label, each in report.labels.items()
    ]
    shown = table(("label", "rows", "answered", "precision", "recall", "F1"), _worst(rows), names=1)
    if len(rows) <= _MOST_LABELS:
        return shown
    return f"The {_WORST} of {len(rows)} labels with the lowest F1:\n\n{shown}"


def _worst(
    rows: Sequence[tuple[str, int, int, float | None, float | None, float | None]],
) -> Sequence[tuple[str | int | float | None, ...]]:
    if len(rows) <= _MOST_LABELS:
        return rows
    occurring = [row for row in rows if row[-1] is not None]
    return sorted(occurring, key=lambda row: row[-1] or 0.0)[:_WORST]


def _limits(run: Run) -> str:
    tokens = run.train.tokens
    cut = float((tokens[:, 1] > tokens[:, 0]).mean())
    half = run.encoder.max_tokens // 2
    return "\n".join(
        (
            f"- It reads {run.encoder.max_tokens} tokens: of a longer text the first {run.encoder.max_tokens - half} "
            f"and the last {half}. {cut:.1%} of the training texts were longer.",
            "- It knows no other labels than its own, and gives every text one of them. A policy's `min_confidence` "
            "tells which answers not to believe.",
            "- It knows the languages and the manner of its training texts.",
        )
    )


def _training(run: Run) -> str:
    recipe, progress = run.order.recipe, run.progress
    learnt = {
        "frozen": f"The encoder stayed as it was; the heads learnt at {recipe.learning_rate:g}.",
        "low-rank": f"Adapters of rank {ADAPTER_RANK} on every linear layer of the encoder, merged since, and the "
        f"heads learnt at {recipe.learning_rate:g}.",
        "full": f"The encoder learnt at {recipe.learning_rate:g}, all but its embeddings, and the heads at "
        f"{recipe.heads_rate:g}.",
    }[recipe.method]
    weights = ", labels weighed against their number of rows" if recipe.class_weights == "balanced" else ""
    smoothing = f", labels smoothed by {recipe.smoothing:g}" if recipe.smoothing else ""
    dropout = "dropout as the encoder's config has it" if recipe.dropout else "no dropout"
    ended = f"all {recipe.epochs} epochs were run"
    if progress.epochs < recipe.epochs:
        ended = f"it ended after {progress.epochs} of {recipe.epochs}, {recipe.patience} without a better one"
    arithmetic = (
        f"float32 on {torch.get_num_threads()} CPU threads" if run.order.device == "cpu" else "bfloat16 on a GPU"
    )
    return (
        f"{learnt} Each label began as the mean of its texts. AdamW, {recipe.rows_per_step} rows a step, warm-up over "
        f"{recipe.warmup:.0%} of the steps, then down to 0 in a line; cross entropy, summed over the heads{smoothing}"
        f"{weights}; {dropout}; seed {recipe.seed}; {arithmetic}. The weights are those after epoch "
        f"{progress.best_epoch}, the best on dev by macro F1, then by cross entropy; {ended}. "
        f"{_temperatures(run)} Training took {progress.seconds:.0f} seconds."
    )


def _temperatures(run: Run) -> str:
    told = []
    for head, temperature in run.temperatures.items():
        rows = sum(head in example.labels for example in run.splits.dev)
        how = f"fitted on {rows} dev rows" if rows >= FEWEST_ROWS else f"not fitted: {rows} dev rows are too few"
        told.append(f"{temperature:g} ({head}, {how})")
    return f"Temperature: {', '.join(told)}."


def _format_epochs(progress: Progress) -> str:
    columns = zip(progress.losses, progress.f1, progress.dev_losses, strict=True)
    rows = [(str(number), *values) for number, values in enumerate(columns, 1)]
    return table(("epoch", "loss", "macro F1 on dev", "cross entropy on dev"), rows, names=1)


def _data(splits: Splits) -> str:
    merged = f" {splits.merged} rows that repeated a text and its label were left out." if splits.merged else ""
    return (
        f"{len(splits.train)} texts to learn from, {len(splits.dev)} to stop by, {len(splits.test)} to measure on."
        f"{merged} Their licence is yours to know: it holds for what was learnt from them too."
    )


def _format_counts(splits: Splits, head: str) -> str:
    train, dev, test = (_counts(rows, head) for rows in (splits.train, splits.dev, splits.test))
    rows = [(_cell(label), train[label], dev[label], test[label]) for label in splits.labels[head]]
    return table((head, "train", "dev", "test"), rows, names=1)


def _cell(label: str) -> str:
    """A label as it may stand in a table."""
    return label.replace("|", "\\|")


def _counts(rows: Sequence[Example], head: str) -> Counter[str]:
    return Counter(example.labels[head] for example in rows if head in example.labels)
