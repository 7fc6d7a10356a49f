"""Rows that say which of two models answered a prompt rightly: a data folder's routellm/train.jsonl and dev.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.training.data import DataError

TRAIN_FILE = "routellm/train.jsonl"
DEV_FILE = "routellm/dev.jsonl"

MMLU = "mmlu"
GSM8K = "gsm8k"

# MMLU's questions have four options.
_CHANCE = 0.25
_SURE_ERRORS = 4


@dataclass(frozen=True)
class Row:
    """A prompt, and whether the strong and the weak model's answers to it are right (1) or wrong (0).

    `contaminated`: RouteLLM found it, or nearly it, in its own training data, and leaves it out when it measures.
    """

    text: str
    strong: int
    weak: int
    source: str
    subject: str
    contaminated: bool


def read_rows(path: Path) -> list[Row]:
    """The rows of one file.

    Raises DataError: the file can't be read or is empty, or, with the line's number, what is wrong with a row.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from None
    if not lines:
        raise DataError(f"{path}: has no rows")
    return [_read_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def column(rows: Sequence[Row], name: str) -> NDArray[Any]:
    """One field of all rows [N]."""
    return np.array([getattr(row, name) for row in rows])


def misgraded_subjects(rows: Sequence[Row]) -> dict[str, float]:
    """MMLU's subjects in which a model is right far less often than by guessing, and how often it is.

    That is no weakness of the model: its answers were not graded as they were given. Far less: by more than four
    standard errors of a guess.
    """
    found = {}
    for subject in sorted({row.subject for row in rows if row.source == MMLU}):
        chosen = [row for row in rows if row.subject == subject and row.source == MMLU]
        right = min(np.mean([row.strong for row in chosen]), np.mean([row.weak for row in chosen]))
        if right < _CHANCE - _SURE_ERRORS * np.sqrt(_CHANCE * (1 - _CHANCE) / len(chosen)):
            found[subject] = float(right)
    return found


def _read_row(line: bytes, at: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{at}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{at}: expected a JSON object")
    for key in ("text", "source", "subject"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise DataError(f"{at}: '{key}' should be a text, and is {row.get(key)!r}")
    for key in ("strong", "weak", "contaminated"):
        if row.get(key) not in (0, 1):
            raise DataError(f"{at}: '{key}' should be 0 or 1, and is {row.get(key)!r}")
    return Row(row["text"], row["strong"], row["weak"], row["source"], row["subject"], bool(row["contaminated"]))
