"""Trains the task and complexity classifier: adapters for the sentence encoder, and two heads, from labelled prompts.

Writes a checkpoint folder (config.json, adapters.safetensors, README.md) that CLASSIFIER_CHECKPOINT may name. The
README's figures are those of the written files on the dev rows, taken once.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from classifiers.checkpoint import EMBEDDED, UNKNOWN, Checkpoint, CheckpointError, load_checkpoint
from classifiers.network import PromptClassifier, load_network
from scripts.training.adapters import save_adapters
from scripts.training.calibrate import Calibration, calibrate
from scripts.training.card import Run, describe, format_figures
from scripts.training.data import (
    LABELLED,
    OWN_CALIBRATION,
    OWN_PROMPTS,
    DataError,
    Labels,
    Row,
    read_rows,
    training_rows,
)
from scripts.training.learn import Recipe, train
from scripts.training.measure import dev_figures, measure_rows
from scripts.training.templates import template_rows, with_openings

CALIBRATION_SHARE = 0.1
"""Of the rows labelled by reading: they are the nearest to what users send."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 when the data, the encoder or an argument is wrong."""
    options = read_arguments(arguments)
    try:
        if options.hold_out:
            try_recipe(options)
        else:
            write_checkpoint(options)
    except (DataError, CheckpointError, OSError) as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = Recipe()
    root = argparse.ArgumentParser(prog="scripts/train_classifier", description=__doc__)
    root.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with task/, complexity/ and labelled/, each with train.jsonl and dev.jsonl",
    )
    root.add_argument("--out", type=Path, metavar="DIR", help="folder to write the checkpoint to")
    root.add_argument("--name", default="minilm-task-complexity", help="the checkpoint's name (default: %(default)s)")
    root.add_argument("--epochs", type=int, default=defaults.epochs, help="default: %(default)s")
    root.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    root.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="train without this share of the training rows, print the figures on it, and write nothing: "
        "how to choose a recipe without looking at dev",
    )
    return root


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    root = parser()
    options = root.parse_args(arguments)
    if options.epochs < 1:
        root.error(f"--epochs should be 1 or more, and is {options.epochs}")
    if options.hold_out is None and options.out is None:
        root.error("say where to write with --out, or try the recipe with --hold-out")
    if options.hold_out is not None and not 0 < options.hold_out < 1:
        root.error(f"--hold-out should lie between 0 and 1, and is {options.hold_out}")
    return options


def try_recipe(options: argparse.Namespace) -> None:
    base = load_checkpoint(EMBEDDED)
    labels = known_labels(base)
    rows = training_rows(options.data, labels)
    random.Random(options.seed).shuffle(rows)
    count = int(len(rows) * options.hold_out)
    held, rows = rows[:count], rows[count:]
    recipe = Recipe(options.epochs, options.seed)
    network = train(base, taught_rows(rows, own_prompts(len(rows), labels, recipe), labels, recipe), recipe)
    read = [row for row in held if row.source.startswith(LABELLED)]
    others = [row for row in held if not row.source.startswith(LABELLED)]
    print(format_figures(measure_rows(network, base, {"held out, read": read, "held out, others": others})))


def write_checkpoint(options: argparse.Namespace) -> None:
    base = load_checkpoint(EMBEDDED)
    labels = known_labels(base)
    recipe = Recipe(options.epochs, options.seed)
    rows = training_rows(options.data, labels)
    written = own_prompts(len(rows), labels, recipe)
    held, rows = hold_out_for_calibration(rows, recipe.seed)
    rows = taught_rows(rows, written, labels, recipe)
    started = time.monotonic()
    network = train(base, rows, recipe)
    seconds = time.monotonic() - started
    calibration = calibrate(network, base, held + read_rows(OWN_CALIBRATION, labels))
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = save(network, base, options.name, options.out, calibration)
    figures = dev_figures(load_network(checkpoint), checkpoint, options.data, labels)
    run = Run(recipe, seconds, torch.get_num_threads(), options.data, rows, calibration)
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


if __name__ == "__main__":
    sys.exit(main())
