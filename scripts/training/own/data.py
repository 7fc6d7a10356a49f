"""Labelled texts of your own: CSV and JSONL files to examples, and everything that is wrong with them, line by line."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from classifiers.checkpoint import LABEL_RULE, is_label
from scripts.training.data import DataError

FORMATS = (".csv", ".jsonl")
TEXT = "text"  # the column, or key, that holds the texts

# More is a mistake rather than data: a file of another kind, a quote that nobody closed.
MOST_BYTES = 2**30  # of a file
MOST_CHARACTERS = 100_000  # of a text; csv's own limit for a field is a little above
MOST_LABEL_CHARACTERS = 200

_SHOWN = 50


class DataFaults(DataError):
    """Several lines, a fault each, and how many more there are."""


class Place(NamedTuple):
    """Where an example stands; of several lines, the first."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


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


@dataclass
class Faults:
    """What is wrong with the data: the first of the lines that say so, and how many there are."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, where: object, what: str) -> None:
        self.count += 1
        if len(self.lines) < _SHOWN:
            self.lines.append(f"{where}: {what}")

    def raise_any(self) -> None:
        """Raises DataFaults unless there is none."""
        if self.count:
            more = [f"and {self.count - len(self.lines)} more faults"] if self.count > len(self.lines) else []
            raise DataFaults("\n".join(self.lines + more))


def read_examples(files: Sequence[Path], columns: Sequence[Column], faults: Faults) -> list[Example]:
    """The rows of all files, in order; of a broken one what can be read of it."""
    examples: list[Example] = []
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            faults.add(file, "given twice")
            continue
        seen.add(file.resolve())
        found = list(_read_file(file, columns, faults))
        if not found:
            faults.add(file, "holds no rows")
        examples += found
    return examples


def _read_file(file: Path, columns: Sequence[Column], faults: Faults) -> Iterator[Example]:
    if file.suffix not in FORMATS:
        faults.add(file, f"should be called {' or '.join(f'*{suffix}' for suffix in FORMATS)}")
        return
    try:
        if file.stat().st_size > MOST_BYTES:
            faults.add(file, f"is larger than {MOST_BYTES:,} bytes")
            return
        data = file.read_bytes()
    except OSError as error:
        faults.add(file, f"can't be read ({error.strerror})")
        return
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        faults.add(file, "is UTF-16, and should be UTF-8")
        return
    lines = _decode(data.removeprefix(codecs.BOM_UTF8), file, faults)
    records = _csv_records if file.suffix == ".csv" else _json_records
    for place, record in records(lines, file, columns, faults):
        yield _example(record, place, columns, faults)


def _decode(data: bytes, file: Path, faults: Faults) -> list[str]:
    """The lines, with their ends; a fault for each that is not UTF-8, which is read on as well as it goes."""
    lines = []
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            faults.add(Place(file, number), f"not UTF-8 (byte {error.start + 1} of the line)")
            lines.append(line.decode(errors="replace"))
    return lines


def _json_records(
    lines: Sequence[str], file: Path, columns: Sequence[Column], faults: Faults
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(Place(file, number), f"not JSON ({error})")
            continue
        if isinstance(value, dict):
            yield Place(file, number), value
        else:
            faults.add(Place(file, number), "expected a JSON object")


def _csv_records(
    lines: Sequence[str], file: Path, columns: Sequence[Column], faults: Faults
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    rows = _csv_rows("".join(lines), file, faults)
    _, header = next(rows, (0, []))
    wanted = (TEXT, *(column.name for column in columns))
    wrong = [name for name in wanted if header.count(name) != 1]
    if wrong:
        for name in wrong:
            problem = "names the column several times" if name in header else "does not name the column"
            faults.add(Place(file, 1), f"the header {problem} {name!r}")
        return
    for number, row in rows:
        if len(row) == len(header):
            yield Place(file, number), dict(zip(header, row, strict=True))
        else:
            faults.add(Place(file, number), f"has {len(row)} columns, and the header {len(header)}")


def _csv_rows(text: str, file: Path, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not empty, with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.add(Place(file, number), f"not CSV ({error})")
            continue
        if row:
            yield number, row


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
