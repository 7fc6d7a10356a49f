"""Trains a classifier, and writes it as a checkpoint folder with a model card.

Files of labelled texts train one of your own, with the labels and heads that they hold: CSV with a header, or JSON
lines. The folder holds everything that scripts/add_policy serves. An interrupted training goes on when the same command
is given again.

A folder of labelled prompts trains the embedded task and complexity classifier anew: adapters for the sentence encoder,
and two heads. CLASSIFIER_CHECKPOINT may name what it writes; its figures are taken on the dev rows, once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from classifiers.checkpoint import FEWEST_TOKENS, HEAD_NAME, CheckpointError
from scripts.training import embedded
from scripts.training.data import DataError
from scripts.training.learn import Recipe as EmbeddedRecipe
from scripts.training.own.data import TEXT, Column
from scripts.training.own.learn import LearningError
from scripts.training.own.recipe import CLASS_WEIGHTS, METHODS, RECIPES, Order
from scripts.training.own.train import train_own
from scripts.training.own.write import WriteError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEVICE = re.compile(r"cpu|cuda:\d{1,3}")
_OF_FILES = (
    *("dev", "test", "heads", "encoder", "method", "patience"),
    *("class_weights", "max_tokens", "batch", "learning_rate", "device"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 2 when the data, the encoder or an argument is wrong; 130 when interrupted."""
    options = read_arguments(arguments)
    try:
        if is_embedded(options):
            embedded.run(options)
        else:
            train_own(read_order(options))
    except (DataError, CheckpointError, LearningError, WriteError, OSError) as error:
        for line in str(error).splitlines():
            print(f"train_classifier: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        rest = "nothing was written" if is_embedded(options) else "the same command goes on after its last whole epoch"
        print(f"train_classifier: interrupted; {rest}", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/train_classifier",
        description=__doc__,
        epilog="Exit code: 0; 2 wrong arguments, data, encoder or folder; 130 interrupted.",
    )
    root.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="CSV or JSONL files with a text and its labels; or the folder with task/, complexity/ and labelled/, each "
        "with train.jsonl and dev.jsonl",
    )
    root.add_argument("--out", type=Path, metavar="DIR", help="folder to write the checkpoint to")
    root.add_argument("--name", type=read_name, help=f"the checkpoint's name (a folder's default: {embedded.NAME})")
    root.add_argument(
        "--epochs",
        type=read_count,
        help=f"at most, by default {_by_method('epochs')}; of a folder {EmbeddedRecipe().epochs}",
    )
    root.add_argument("--seed", type=read_seed, default=0, help="default: %(default)s")
    _add_own(root.add_argument_group("of files alone"))
    root.add_argument_group("of a folder alone").add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="train without this share of the training rows, print the figures on it, and write nothing: "
        "how to choose a recipe without looking at dev",
    )
    return root


def _add_own(group: Any) -> None:
    add = group.add_argument
    add(
        "--dev",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="rows to stop by and to fit temperatures on (default: a twentieth of the training rows, of few more)",
    )
    add(
        "--test",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="rows that only the card's figures are taken on (default: those of dev)",
    )
    add(
        "--heads",
        type=read_column,
        nargs="+",
        metavar="COLUMN",
        help="what holds the labels, a head for each; COLUMN=HEAD names the head (default: label)",
    )
    add(
        "--encoder",
        type=Path,
        metavar="DIR",
        help="an encoder as transformers writes it, with tokenizer.json (default: the embedded one)",
    )
    add(
        "--method",
        choices=METHODS,
        help="what learns beside the heads: nothing of the encoder, adapters, or all but "
        "the embeddings (default: full)",
    )
    add(
        "--patience",
        type=read_count,
        metavar="EPOCHS",
        help=f"without a better macro F1 on dev before it ends; by default {_by_method('patience')}",
    )
    add(
        "--class-weights",
        choices=CLASS_WEIGHTS,
        help="balanced: rare labels weigh as much as frequent ones (default: none)",
    )
    add(
        "--max-tokens",
        type=read_tokens,
        metavar="TOKENS",
        help="read of a text, head and tail (default: 256, or what the encoder reads)",
    )
    add("--batch", type=read_count, metavar="ROWS", help=f"a step; by default {RECIPES['full'].rows_per_step}")
    add(
        "--learning-rate",
        type=read_rate,
        metavar="RATE",
        help=f"by default {_by_method('learning_rate')}; with full the encoder's, its heads learn ten times as fast",
    )
    add("--device", type=read_device, help="cpu or cuda:N (default: a GPU where torch has one)")


def _by_method(key: str) -> str:
    return ", ".join(f"{getattr(recipe, key):g} ({method})" for method, recipe in RECIPES.items())


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    root = parser()
    options = root.parse_args(arguments)
    if is_embedded(options):
        if given := [name for name in _OF_FILES if getattr(options, name) is not None]:
            root.error(f"--{given[0].replace('_', '-')} is for files, and {options.data[0]} is a folder")
        if options.hold_out is None and options.out is None:
            root.error("say where to write with --out, or try the recipe with --hold-out")
        if options.hold_out is not None and not 0 < options.hold_out < 1:
            root.error(f"--hold-out should lie between 0 and 1, and is {options.hold_out}")
        return options
    if options.hold_out is not None:
        root.error("--hold-out is for the folder of the embedded classifier; files are tried with --dev or --test")
    if options.out is None or options.name is None:
        root.error("say where to write with --out, and what to call it with --name")
    heads = [column.head for column in options.heads or ()]
    if len(set(heads)) < len(heads) or TEXT in [column.name for column in options.heads or ()]:
        root.error(f"--heads should name each head once, and not the column {TEXT!r}")
    return options


def is_embedded(options: argparse.Namespace) -> bool:
    """Whether the data are a folder: that of the embedded classifier."""
    return len(options.data) == 1 and bool(options.data[0].is_dir())


def read_order(options: argparse.Namespace) -> Order:
    """What the arguments say about a classifier of your own."""
    given = {
        "epochs": options.epochs,
        "patience": options.patience,
        "learning_rate": options.learning_rate,
        "rows_per_step": options.batch,
        "class_weights": options.class_weights,
        "seed": options.seed,
    }
    recipe = RECIPES[options.method or "full"]
    return Order(
        data=options.data,
        dev=options.dev or (),
        test=options.test or (),
        columns=options.heads or (Column("label", "label"),),
        out=options.out,
        name=options.name,
        encoder=options.encoder,
        max_tokens=options.max_tokens,
        recipe=replace(recipe, **{key: value for key, value in given.items() if value is not None}),
        device=options.device or ("cuda:0" if torch.cuda.is_available() else "cpu"),
    )


def read_name(value: str) -> str:
    """Raises ArgumentTypeError: it can't stand in `name:version:digest`."""
    if not _NAME.fullmatch(value):
        raise argparse.ArgumentTypeError(f"expected letters, digits, '.', '_' and '-', 64 at most, and got {value!r}")
    return value


def read_column(value: str) -> Column:
    """Raises ArgumentTypeError: the head's name can't stand in those of Triton's outputs."""
    name, is_given, head = value.rpartition("=")
    column = Column(name, head) if is_given else Column(value, value)
    if not column.name or not HEAD_NAME.fullmatch(column.head):
        raise argparse.ArgumentTypeError(f"expected COLUMN or COLUMN=HEAD, HEAD of a-z, 0-9 and _, and got {value!r}")
    return column


def read_count(value: str) -> int:
    """Raises ArgumentTypeError: no whole number from 1 on."""
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, and got {value!r}")
    return int(value)


def read_tokens(value: str) -> int:
    """Raises ArgumentTypeError: no whole number, or too few tokens to read a text by."""
    if not value.isascii() or not value.isdigit() or int(value) < FEWEST_TOKENS:
        raise argparse.ArgumentTypeError(f"expected a whole number from {FEWEST_TOKENS} on, and got {value!r}")
    return int(value)


def read_seed(value: str) -> int:
    """Raises ArgumentTypeError: no whole number from 0 on."""
    if not value.isascii() or not value.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, and got {value!r}")
    return int(value)


def read_rate(value: str) -> float:
    """Raises ArgumentTypeError: no number above 0, 1 at most."""
    try:
        rate = float(value)
    except ValueError:
        rate = float("nan")
    if not 0 < rate <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, 1 at most, and got {value!r}")
    return rate


def read_device(value: str) -> str:
    """Raises ArgumentTypeError: neither cpu nor cuda:N."""
    if not _DEVICE.fullmatch(value):
        raise argparse.ArgumentTypeError(f"expected cpu or cuda:N, and got {value!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
