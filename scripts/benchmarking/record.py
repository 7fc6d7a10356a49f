"""docs/benchmarks.json: what was measured, part by part."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.benchmarking import figures
from scripts.benchmarking.machine import commit, machine, versions
from scripts.benchmarking.rounds import Run, Values
from scripts.local.triton import ROOT

RECORD = ROOT / "docs" / "benchmarks.json"
PLOTS = ROOT / "docs" / "benchmarks"
_DIGITS = 6


def load_record(file: Path = RECORD) -> dict[str, Any]:
    """Nothing measured when there is no file."""
    if not file.exists():
        return {"machine": None, "parts": {}}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def add_part(record: dict[str, Any], name: str, values: Values, run: Run) -> dict[str, Any]:
    """The record with this part; the other parts stay when they were measured on the same machine."""
    here = machine()
    others = record["parts"] if record["machine"] == here else {}
    part = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "quick": run.quick,
        "versions": versions(),
        "notes": dict(run.notes),
        "values": {key: [float(f"{each:.{_DIGITS}g}") for each in rounds] for key, rounds in values.items()},
    }
    return {"machine": here, "parts": {**others, name: part}}


def save_record(record: dict[str, Any], file: Path = RECORD) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def values_of(record: dict[str, Any]) -> dict[str, Values]:
    """What was measured, by part."""
    return {name: part["values"] for name, part in record["parts"].items()}


def results_of(record: dict[str, Any]) -> list[figures.Result]:
    """The promises' figures that are in the record."""
    flags = record["machine"]["flags"] if record["machine"] else ()
    return figures.results(values_of(record), "avx512_bf16" in flags)
