"""Trains the embedded task and complexity classifier: from a folder of labelled prompts to a checkpoint."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from classifiers.checkpoint import EMBEDDED, UNKNOWN, Checkpoint, load_checkpoint
from classifiers.network import PromptClassifier, load_network
from scripts.training.adapters import save_adapters
from scripts.training.calibrate import Calibration, calibrate
from scripts.training.card import Run, describe, format_figures
from scripts.training.data import (
    LABELLED,
    OWN_CALIBRATION,
    OWN_PROMPTS,
    Labels,
    Row,
    read_rows,
    training_rows,
)
from scripts.training.learn import Recipe, train
from scripts.training.measure import dev_figures, measure_rows
from scripts.training.templates import template_rows, with_openings

NAME = "minilm-task-complexity"
CALIBRATION_SHARE = 0.1
"""Of the rows labelled by reading: they are the nearest to what users send."""


def run(options: argparse.Namespace) -> None:
    """The command for a folder. Raises DataError, CheckpointError: the data or the encoder is wrong."""
    if options.hold_out:
        try_recipe(options)
    else:
        write_checkpoint(options)


def try_recipe(options: argparse.Namespace) -> None:
    base = load_checkpoint(EMBEDDED)
    labels = known_labels(base)
    rows = training_rows(options.data[0], labels)
    random.Random(options.seed).shuffle(rows)
    count = int(len(rows) * options.hold_out)
    held, rows = rows[:count], rows[count:]
    recipe = Recipe(options.epochs or Recipe().epochs, options.seed)
    network = train(base, taught_rows(rows, own_prompts(len(rows), labels, recipe), labels, recipe), recipe)
    read = [row for row in held if row.source.startswith(LABELLED)]
    others = [row for row in held if not row.source.startswith(LABELLED)]
    print(format_figures(measure_rows(network, base, {"held out, read": read, "held out, others": others})))


def write_checkpoint(options: argparse.Namespace) -> None:
    base = load_checkpoint(EMBEDDED)
    labels = known_labels(base)
    recipe = Recipe(options.epochs or Recipe().epochs, options.seed)
    (data,) = options.data
    rows = training_rows(data, labels)
    written = own_prompts(len(rows), labels, recipe)
    held, rows = hold_out_for_calibration(rows, recipe.seed)
    rows = taught_rows(rows, written, labels, recipe)
    started = time.monotonic()
    network = train(base, rows, recipe)
    seconds = time.monotonic() - started
    calibration = calibrate(network, base, held + read_rows(OWN_CALIBRATION, labels))
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = save(network, base, options.name or NAME, options.out, calibration)
    figures = dev_figures(load_network(checkpoint), checkpoint, data, labels)
    run = Run(recipe, seconds, torch.get_num_threads(), data, rows, calibration)
    (options.out / "README.md").write_text(describe(checkpoint, run, figures), encoding="utf-8")
    print(format_figures(figures))


def own_prompts(at_most: int, labels: Labels, recipe: Recipe) -> list[Row]:
    """Prompts that were written for this project, never more than there are others."""
    rows = read_rows(OWN_PROMPTS, labels)
    random.Random(recipe.seed).shuffle(rows)
    return rows[:at_most]


def taught_rows(rows: Sequence[Row], written: Sequence[Row], labels: Labels, recipe: Recipe) -> list[Row]:
    """All that is learnt from: the data's rows, the written ones, and those made from templates."""
    together = [*rows, *template_rows(rows, labels, recipe.seed), *written]
    return with_openings(together, recipe.with_opening, recipe.seed)


def hold_out_for_calibration(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to calibrate on, a share of those that were labelled by reading, and all others."""
    read = [row for row in rows if row.source.startswith(LABELLED)]
    held = set(random.Random(seed).sample(range(len(read)), int(len(read) * CALIBRATION_SHARE)))
    kept = [row for row in rows if not row.source.startswith(LABELLED)]
    kept += [row for number, row in enumerate(read) if number not in held]
    return [read[number] for number in sorted(held)], kept


def save(
    network: PromptClassifier, base: Checkpoint, name: str, folder: Path, calibration: Calibration | None = None
) -> Checkpoint:
    """Writes config and weights, and returns the checkpoint as it is then read; `folder` changes all at once or not."""
    config = json.loads(base.config_file.read_text(encoding="utf-8")) | {"name": name}
    if calibration is not None:
        config |= {"temperatures": calibration.temperatures, "unknown_below": calibration.unknown_below}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        written = Path(temporary)
        save_adapters(network, base, written / base.weights_file.name)
        (written / base.config_file.name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        load_checkpoint(written)
        for path in (base.weights_file, base.config_file):
            (written / path.name).replace(folder / path.name)
    return load_checkpoint(folder)


def known_labels(checkpoint: Checkpoint) -> Labels:
    """What a row may be labelled: Unknown is what low confidence gives, and is never taught.

    It stands last among the task labels, so that a row's task is an index into the logits and into the labels alike.
    """
    return Labels([label for label in checkpoint.task_labels if label != UNKNOWN], checkpoint.complexity_labels)
