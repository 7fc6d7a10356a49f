"""Prompts for any served model: rows of a text and, where somebody knows it, its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.training.records import Faults, Place, read_records


@dataclass(frozen=True)
class Text:
    """A prompt, its true label if it has one, the data set that it is of, and the file and line where it stands."""

    text: str
    label: str | None
    source: str
    place: Place


def read_texts(paths: Sequence[Path], labelled: bool) -> list[Text]:
    """The rows of all files, .csv with a header or .jsonl.

    Columns, or fields, are `text`, `label` and `source` (the file's name without its end when it is missing); others
    are left alone. `labelled` rows must have a label. A text that stands in two files counts in each.

    Raises DataFaults, a line for each fault: a file that can't be read, holds no rows or is given twice, and broken
    rows with their lines' numbers.
    """
    faults = Faults()
    rows = [_text(place, record, labelled, faults) for place, record in read_records(paths, ["text"], faults)]
    faults.raise_any()
    return rows


def require_labels(rows: Sequence[Text], labels: Sequence[str], model: str) -> None:
    """Raises DataFaults, a line for each row with another label than the model's `labels`."""
    known = set(labels)
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    faults = Faults()
    for row in rows:
        if row.label is not None and row.label not in known:
            faults.add(row.place, f"'label' is {row.label!r}, which is no label of {model} ({shown})")
    faults.raise_any()


def _text(place: Place, record: Mapping[str, Any], labelled: bool, faults: Faults) -> Text:
    """One row; what is wrong with it is added to `faults`."""
    text, label, source = record.get("text"), _given(record, "label"), _given(record, "source")
    source = place.file.stem if source is None else source
    if not isinstance(text, str) or not text.strip():
        faults.add(place, "'text' should be a text")
    if label is None and labelled:
        faults.add(place, "'label' is missing")
    for name, value in (("label", label), ("source", source)):
        if value is not None and not isinstance(value, str):
            faults.add(place, f"'{name}' should be a text, and is {value!r}")
    return Text(str(text), None if label is None else str(label).strip(), str(source), place)


def _given(record: Mapping[str, Any], name: str) -> Any:
    """The field's value; None of an empty text, which is a cell of a CSV file with nothing in it."""
    value = record.get(name)
    return None if value == "" else value
