"""What the tests measured: kept in docs/reliability.json, shown in docs/RELIABILITY.md."""

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.reliability.load import End

RECORD = Path(__file__).parents[2] / "docs" / "reliability.json"
_PACKAGES = ("nvidia-pytriton", "ai-dynamo", "tritonclient", "aiohttp", "starlette", "uvicorn")


def requests(counts: Mapping[tuple[int | None, str, End], int]) -> dict[str, Any]:
    """The account of a load: what was sent, and how it ended, most frequent first."""
    ends = Counter[str]()
    for (status, reason, end), count in counts.items():
        ends[f"{status} {reason}{', then broken off' if end == 'broken' else ''}"] += count
    return {"sent": sum(counts.values()), "ends": dict(ends.most_common())}


def record(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep these rows; others stay, when they were measured on the same machine."""
    now = _machine()
    kept = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    others = kept["rows"] if kept.get("machine") == now["machine"] else {}
    today = datetime.now(UTC).date().isoformat()
    new = {name: {**row, "date": today} for name, row in rows.items()}
    RECORD.write_text(
        json.dumps(now | {"rows": new | {name: row for name, row in others.items() if name not in new}}, indent=2)
        + "\n"
    )


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(memory / 2**30),
            "python": platform.python_version(),
        },
        "versions": {package: version(package) for package in _PACKAGES},
    }


def lines(rows: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """The rows for a terminal."""
    for row in rows.values():
        yield row["what"]
        yield f"    {_requests(row['requests'], '; ')}"
        yield from (f"    {name}: {value}" for name, value in row["figures"].items())


def table() -> str:
    """The recorded rows as a Markdown table."""
    rows = ["| what happens, and what holds | requests sent, and how they ended | measured |", "|---|---|---|"]
    for row in json.loads(RECORD.read_text())["rows"].values():
        figures = "<br>".join(f"{name}: **{value}**" for name, value in row["figures"].items())
        rows.append(f"| {row['what']} | {_requests(row['requests'], '<br>')} | {figures} |")
    return "\n".join(rows)


def measured_on() -> str:
    """The machine, the versions and the days of the record, in a sentence."""
    kept = json.loads(RECORD.read_text())
    machine = kept["machine"]
    days = sorted({row["date"] for row in kept["rows"].values()})
    versions = ", ".join(f"{name} {number}" for name, number in kept["versions"].items())
    return (
        f"Measured on {machine['cores']} cores and {machine['memory_gib']} GiB without a GPU, which everything shares, "
        f"with Python {machine['python']}, {versions}; {' to '.join(dict.fromkeys((days[0], days[-1])))}."
    )


def _requests(account: Mapping[str, Any], between: str) -> str:
    ends = [f"{count} × {end}" for end, count in account["ends"].items()]
    return between.join([f"{account['sent']} sent", *ends])
