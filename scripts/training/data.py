"""Labelled prompts: from the files of a data folder to rows that a network can learn from, or be measured on.

The folder holds task/, complexity/ and labelled/, each with train.jsonl and dev.jsonl: one JSON object a line, with
`text`, `source` and, in the first two, `label`; in labelled, `task` and `complexity`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TRAIN_FILES = ("task/train.jsonl", "complexity/train.jsonl", "labelled/train.jsonl")
DEV_FILES = ("task/dev.jsonl", "complexity/dev.jsonl", "labelled/dev.jsonl")

# Its repository states no licence: its rows measure, and never teach.
EVALUATION_ONLY = "auto-j"

OWN_LABELS = Path(__file__).with_name("labels.tsv")
OWN_PROMPTS = Path(__file__).with_name("prompts.jsonl")
# By other writers than those, and never learnt from: how sure to be on prompts of a kind that was not seen.
OWN_CALIBRATION = Path(__file__).with_name("calibration.jsonl")
LABELLED = "labelled"  # source prefix of the rows that were read, or written, one by one
NO_LABEL = -100  # what torch's cross entropy ignores


class DataError(Exception):
    """One line: which file, which line, and what was expected there."""


@dataclass(frozen=True)
class Row:
    """A prompt; `task` and `complexity` are indices into the checkpoint's labels and logits, or NO_LABEL."""

    text: str
    source: str
    task: int = NO_LABEL
    complexity: int = NO_LABEL


@dataclass(frozen=True)
class Labels:
    """The labels that a row may have, in the order of the checkpoint's logits (tasks: all but Unknown)."""

    task: Sequence[str]
    complexity: Sequence[str]


def training_rows(folder: Path, labels: Labels) -> list[Row]:
    """Every row that may teach, each text once.

    A text of labelled/ keeps those labels alone: they were given by reading, the others by rules. So does a text that
    labels.tsv names by its hash. A text that stands in any dev file is left out.

    Raises DataError: a row is broken, or of a source that is for evaluation only.
    """
    rows = {text_key(row.text): row for row in read_rows(folder / "labelled/train.jsonl", labels)}
    weak: dict[str, Row] = {}
    for name in ("task/train.jsonl", "complexity/train.jsonl"):
        for row in read_rows(folder / name, labels):
            weak[text_key(row.text)] = _merge(weak.get(text_key(row.text)), row)
    read = read_labels(OWN_LABELS, labels)
    rows = {key: _relabel(row, read) for key, row in weak.items()} | rows
    seen = {text_key(row.text) for name in DEV_FILES for row in read_rows(folder / name, labels)}
    kept = [row for key, row in rows.items() if key not in seen]
    forbidden = [row.source for row in kept if EVALUATION_ONLY in row.source]
    if forbidden:
        raise DataError(f"{folder}: {len(forbidden)} training rows are of '{forbidden[0]}', which may only measure")
    return kept


def read_labels(path: Path, labels: Labels) -> dict[str, tuple[int, int]]:
    """Task and complexity, by the hash of a text: labels given by reading, without the texts themselves.

    Raises DataError, with the line's number: not three columns, a hash that stands twice, an unknown label.
    """
    found: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        at = f"{path}, line {number}"
        columns = line.split("\t")
        if len(columns) != 3 or columns[0] in found:
            raise DataError(f"{at}: expected hash, task and complexity, separated by tabs, each hash once")
        row = dict(zip(("hash", "task", "complexity"), columns, strict=True))
        task, complexity = _label(row, "task", labels.task, at), _label(row, "complexity", labels.complexity, at)
        found[row["hash"]] = (task, complexity)
    return found


def text_hash(text: str) -> str:
    """The first 16 hex digits of a text's SHA-256, by which labels.tsv names it."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def text_key(text: str) -> str:
    """What two texts have in common that differ in case and spacing alone."""
    return " ".join(text.lower().split())


def _relabel(row: Row, read: Mapping[str, tuple[int, int]]) -> Row:
    if (labels := read.get(text_hash(row.text))) is None:
        return row
    return Row(row.text, f"{LABELLED}:{row.source}", *labels)


def read_rows(path: Path, labels: Labels) -> list[Row]:
    """The rows of one file.

    Raises DataError, with the line's number: no JSON object, a missing or empty text or source, an unknown label.
    """
    try:
        with path.open("rb") as file:
            return [_read_row(line, path, number, labels) for number, line in enumerate(file, 1)]
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from None


def file_hashes(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each file's name and the SHA-256 of its bytes."""
    for name in names:
        with (folder / name).open("rb") as file:
            yield name, hashlib.file_digest(file, "sha256").hexdigest()


def _read_row(line: bytes, path: Path, number: int, labels: Labels) -> Row:
    at = f"{path}, line {number}"
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{at}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{at}: expected a JSON object")
    row = Row(_text(value, "text", at), _text(value, "source", at))
    if path.parent.name == "task":
        return replace(row, task=_label(value, "label", labels.task, at))
    if path.parent.name == "complexity":
        return replace(row, complexity=_label(value, "label", labels.complexity, at))
    return replace(
        row,
        source=f"{LABELLED}:{row.source}",
        task=_label(value, "task", labels.task, at),
        complexity=_label(value, "complexity", labels.complexity, at),
    )


def _text(value: Mapping[str, Any], key: str, at: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{at}: '{key}' should be a text, and is {text!r}")
    return text


def _label(value: Mapping[str, Any], key: str, labels: Sequence[str], at: str) -> int:
    label = value.get(key)
    if label not in labels:
        raise DataError(f"{at}: '{key}' is {label!r} and should be one of: {', '.join(labels)}")
    return labels.index(label)


def _merge(first: Row | None, second: Row) -> Row:
    """One row with the labels of both; the sources are those of one text, so the first one's name is kept."""
    if first is None:
        return second
    return replace(
        first,
        task=second.task if first.task == NO_LABEL else first.task,
        complexity=second.complexity if first.complexity == NO_LABEL else first.complexity,
    )
