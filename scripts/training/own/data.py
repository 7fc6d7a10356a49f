"""Labelled texts of your own: CSV and JSONL files to examples, and everything that is wrong with them, line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from classifiers.checkpoint import LABEL_RULE, is_label
from scripts.training.records import Faults, Place, read_records

TEXT = "text"  # the column, or key, that holds the texts

# More is a mistake rather than data: a quote that nobody closed.
MOST_CHARACTERS = 100_000  # of a text; csv's own limit for a field is a little above
MOST_LABEL_CHARACTERS = 200


class Column(NamedTuple):
    """The column, or key, that holds the labels of a head."""

    name: str
    head: str


@dataclass(frozen=True)
class Example:
    """A text and its label for each head that it has one for. The text is empty where it was at fault."""

    text: str
    labels: Mapping[str, str]
    place: Place


def read_examples(files: Sequence[Path], columns: Sequence[Column], faults: Faults) -> list[Example]:
    """The rows of all files, in order; of a broken one what can be read of it."""
    wanted = (TEXT, *(column.name for column in columns))
    return [_example(record, place, columns, faults) for place, record in read_records(files, wanted, faults)]


def _example(record: Mapping[str, Any], place: Place, columns: Sequence[Column], faults: Faults) -> Example:
    text = record.get(TEXT)
    if problem := _text_problem(text):
        faults.add(place, f"'{TEXT}' {problem}")
        text = ""
    given = {column: label for column in columns if not _is_absent(label := record.get(column.name))}
    labels = {}
    for column, label in given.items():
        if problem := _label_problem(label):
            faults.add(place, f"'{column.name}' {problem}")
        else:
            labels[column.head] = str(label).strip()
    if not given:
        names = " and no ".join(f"'{column.name}'" for column in columns)
        faults.add(place, f"has no {names}")
    assert isinstance(text, str)
    return Example(text.strip(), labels, place)


def _is_absent(label: Any) -> bool:
    return label is None or (isinstance(label, str) and not label.strip())


def _text_problem(text: Any) -> str | None:
    if not isinstance(text, str):
        return "is missing" if text is None else f"should be a text, and is {_shown(text)}"
    if not text.strip():
        return "is empty"
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text):,} characters, and {MOST_CHARACTERS:,} are allowed"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    return None


def _label_problem(label: Any) -> str | None:
    if not isinstance(label, str):
        return f"should be a text, and is {_shown(label)}"
    if not is_label(label.strip()):
        return f"is {_shown(label)}, which is no label: {LABEL_RULE}"
    if len(label) > MOST_LABEL_CHARACTERS:
        return f"has {len(label):,} characters, and {MOST_LABEL_CHARACTERS} are allowed"
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
