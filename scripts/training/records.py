"""CSV and JSONL files to records, and everything that is wrong with them, line by line."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scripts.training.data import DataError

FORMATS = (".csv", ".jsonl")

# More is a mistake rather than data: a file of another kind.
MOST_BYTES = 2**30  # of a file

_SHOWN = 50


class DataFaults(DataError):
    """Several lines, a fault each, and how many more there are."""


class Place(NamedTuple):
    """Where an example stands; of several lines, the first."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass
class Faults:
    """What is wrong with the data: the first of the lines that say so, and how many there are."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, where: object, what: str) -> None:
        self.say(f"{where}: {what}")

    def say(self, line: str) -> None:
        self.count += 1
        if len(self.lines) < _SHOWN:
            self.lines.append(line)

    def raise_any(self) -> None:
        """Raises DataFaults unless there is none."""
        if self.count:
            more = [f"and {self.count - len(self.lines)} more faults"] if self.count > len(self.lines) else []
            raise DataFaults("\n".join(self.lines + more))


def refuse(lines: Iterable[str]) -> None:
    """Raises DataFaults when there are any: a line each, as many as a person reads."""
    faults = Faults()
    for line in lines:
        faults.say(line)
    faults.raise_any()


def read_records(
    files: Sequence[Path], wanted: Sequence[str], faults: Faults
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Each record of all files, in order, and where it stands. A CSV file's header has to name the `wanted` columns."""
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            faults.add(file, "given twice")
            continue
        seen.add(file.resolve())
        before, is_empty = faults.count, True
        for record in _read_file(file, wanted, faults):
            is_empty = False
            yield record
        if is_empty and faults.count == before:
            faults.add(file, "holds no rows")


def _read_file(file: Path, wanted: Sequence[str], faults: Faults) -> Iterator[tuple[Place, Mapping[str, Any]]]:
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
    if file.suffix == ".csv":
        yield from _csv_records(lines, file, wanted, faults)
    else:
        yield from _json_records(lines, file, faults)


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


def _json_records(lines: Sequence[str], file: Path, faults: Faults) -> Iterator[tuple[Place, Mapping[str, Any]]]:
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
    lines: Sequence[str], file: Path, wanted: Sequence[str], faults: Faults
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    rows = _csv_rows("".join(lines), file, faults)
    _, header = next(rows, (0, []))
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
