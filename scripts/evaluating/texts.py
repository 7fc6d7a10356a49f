"""Prompts for any served model: rows of a text and, where somebody knows it, its label."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.training.data import DataError

_MOST_FAULTS = 20


@dataclass(frozen=True)
class Text:
    """A prompt, its true label if it has one, the data set that it is of, and the file and line where it stands."""

    text: str
    label: str | None
    source: str
    at: str


def read_texts(paths: Sequence[Path], labelled: bool) -> list[Text]:
    """The rows of all files: CSV with a header when the name ends in .csv, else one JSON object a line.

    Columns, or fields, are `text`, `label` and `source` (the file's name without its end when it is missing); others
    are left alone. `labelled` rows must have a label. A text that stands in two files counts in each.

    Raises DataError, a line for each fault: a file that can't be read, holds no rows or is given twice, and broken rows
    with their lines' numbers.
    """
    rows: list[Text] = []
    faults: list[str] = []
    for path in paths:
        if [each.absolute() for each in paths].count(path.absolute()) > 1:
            raise DataError(f"{path}: given twice")
        before = len(rows) + len(faults)
        for at, value in _values(path, faults):
            _read(value, at, path.stem, labelled, rows, faults)
        if len(rows) + len(faults) == before:
            faults.append(f"{path}: holds no rows")
    refuse(faults)
    return rows


def require_labels(rows: Sequence[Text], labels: Sequence[str], model: str) -> None:
    """Raises DataError, a line for each row with another label than the model's `labels`."""
    known = set(labels)
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    strangers = [row for row in rows if row.label is not None and row.label not in known]
    refuse([f"{row.at}: 'label' is {row.label!r}, which is no label of {model} ({shown})" for row in strangers])


def refuse(faults: Sequence[str]) -> None:
    """Raises DataError when there are any: a line each, as many as a person reads."""
    if not faults:
        return
    more = len(faults) - _MOST_FAULTS
    raise DataError("\n".join([*faults[:_MOST_FAULTS], *([f"and {more} more"] if more > 0 else [])]))


def _values(path: Path, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row as an object, and where it stands; what is none is added to `faults`."""
    try:
        content = path.read_bytes().decode("utf-8-sig")  # spreadsheets write a byte order mark
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        faults.append(f"{path}, line {line}: is not UTF-8")
        return
    yield from (_csv_rows if path.suffix.lower() == ".csv" else _json_rows)(path, content, faults)


def _csv_rows(path: Path, content: str, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        if "text" not in (reader.fieldnames or ()):
            faults.append(f"{path}, line 1: expected a header with the column text")
            return
        for row in reader:
            at = f"{path}, line {reader.line_num}"
            if None in row:
                faults.append(f"{at}: has more columns than the header")
            else:
                yield at, {name: value for name, value in row.items() if value}
    except csv.Error as error:
        faults.append(f"{path}, line {reader.line_num}: not CSV ({error})")


def _json_rows(path: Path, content: str, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(content.split("\n"), 1):
        at = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            faults.append(f"{at}: not JSON ({error})")
            continue
        if isinstance(value, dict):
            yield at, value
        else:
            faults.append(f"{at}: expected a JSON object")


def _read(value: dict[str, Any], at: str, stem: str, labelled: bool, rows: list[Text], faults: list[str]) -> None:
    text, label, source = value.get("text"), value.get("label"), value.get("source", stem)
    wrong = []
    if not isinstance(text, str) or not text.strip():
        wrong.append(f"{at}: 'text' should be a text")
    if label is None and labelled:
        wrong.append(f"{at}: 'label' is missing")
    if label is not None and (not isinstance(label, str) or not label):
        wrong.append(f"{at}: 'label' should be a text, and is {label!r}")
    if not isinstance(source, str):
        wrong.append(f"{at}: 'source' should be a text, and is {source!r}")
    if wrong:
        faults += wrong
    else:
        rows.append(Text(str(text), label, str(source), at))
