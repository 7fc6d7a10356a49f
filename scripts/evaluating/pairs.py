"""Strong/weak data: prompts with the correctness of both models' answers, and how well a router tells them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.evaluating.report import source_name, table
from scripts.evaluating.score import reach_router, score
from scripts.evaluating.strong_weak import CPT_SHARES, Curve, Interval, bootstrap, curve, figures, quality_at
from scripts.training.data import DataError, file_hashes

FIELDS = ("strong", "weak")
CONFIDENCE = 0.95
_SEED = 0
_SAMPLES = 2000
_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Pair:
    """A prompt, and whether the strong and the weak model's answer to it is right, 0 or 1."""

    text: str
    source: str
    strong: int
    weak: int


@dataclass(frozen=True)
class Figure:
    """A figure and its interval, None where too few resamples have one."""

    value: float
    interval: Interval | None

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "interval": None if self.interval is None else list(self.interval)}

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.interval.low:.3f} to {self.interval.high:.3f})"


@dataclass(frozen=True)
class PairSummary:
    """Of some rows: the share that each model alone gets right, and the figures of strong_weak.py.

    `apgr` and `cpt`, by the share of the gap, are None where the strong model is no better than the weak one.
    """

    rows: int
    strong: float
    weak: float
    apgr: Figure | None
    cpt: Mapping[float, Figure] | None
    curve: Curve

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "strong_quality": self.strong,
            "weak_quality": self.weak,
            "apgr": None if self.apgr is None else self.apgr.as_json(),
            "cpt": None if self.cpt is None else {f"{share:g}": each.as_json() for share, each in self.cpt.items()},
            "curve": [[float(share), quality_at(self.curve, float(share))] for share in _POINTS],
        }


@dataclass(frozen=True)
class PairEvaluation:
    """What was measured: which router, on which files (by SHA-256), and how it did."""

    router: str
    checkpoint: str
    files: Mapping[str, str]
    all: PairSummary
    sources: Mapping[str, PairSummary]

    def as_json(self) -> str:
        value: dict[str, Any] = {
            "router": self.router,
            "checkpoint": self.checkpoint,
            "rows": self.all.rows,
            "files": [{"path": path, "sha256": digest} for path, digest in self.files.items()],
            "bootstrap": {"confidence": CONFIDENCE, "samples": _SAMPLES, "seed": _SEED},
            "all": self.all.as_json(),
            "sources": {source: each.as_json() for source, each in self.sources.items()},
        }
        return json.dumps(value, indent=2, allow_nan=False)

    def as_text(self) -> str:
        files = "\n".join(f"{digest}  {path}" for path, digest in self.files.items())
        header = ("source", "rows", "weak", "strong", "APGR", *(f"CPT({share:.0%})" for share in CPT_SHARES))
        rows = [_cells(source, each) for source, each in [("all", self.all), *self.sources.items()]]
        head = f"{self.router}, {self.checkpoint}, {self.all.rows} rows; intervals of {CONFIDENCE:.0%}"
        return f"{head}\n{files}\n\n{table(header, rows, names=1)}"


def are_pairs(paths: Sequence[Path]) -> bool:
    """Whether the files hold strong/weak data, by their fields; what else is wrong with them, their readers say.

    Raises DataError: one can't be read, or there are rows with and without `strong` and `weak`.
    """
    kinds = {path: _holds_pairs(path) for path in paths}
    if len(set(kinds.values())) > 1:
        pairs, labels = (next(path for path, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise DataError(f"{pairs}: is strong/weak data, and {labels} is not; measure one kind at a time")
    return any(kinds.values())


def _holds_pairs(path: Path) -> bool:
    found: dict[bool, int] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                found.setdefault(isinstance(value, dict) and any(field in value for field in FIELDS), number)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from None
    if len(found) > 1:
        raise DataError(f"{path}: line {found[True]} has {' or '.join(FIELDS)}, and line {found[False]} has neither")
    return True in found


def read_pairs(paths: Sequence[Path]) -> list[Pair]:
    """The rows of all files; a text that stands in two files counts in each.

    Raises DataError: a broken row (with file and line), a file without rows or given twice.
    """
    rows: list[Pair] = []
    seen: set[Path] = set()
    for path in paths:
        if path.absolute() in seen:
            raise DataError(f"{path}: given twice")
        seen.add(path.absolute())
        rows += [_read_pair(line, f"{path}, line {at}") for at, line in enumerate(path.read_bytes().splitlines(), 1)]
    return rows


def _read_pair(line: bytes, at: str) -> Pair:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{at}: not JSON ({error})") from None
    for key in ("text", "source"):
        if not isinstance(value.get(key), str) or not value[key].strip():
            raise DataError(f"{at}: '{key}' should be a text")
    for key in FIELDS:
        if value.get(key) not in (0, 1):
            raise DataError(f"{at}: '{key}' should be 0 or 1, whether that model's answer is right")
    return Pair(value["text"], value["source"], int(value["strong"]), int(value["weak"]))


def evaluate_pairs(data: Sequence[Path], target: str, router: str, out: Path | None) -> PairEvaluation:
    """Raises DataError before anything is asked, TritonError, and OSError when `out` can't be made."""
    rows = read_pairs(data)
    with reach_router(target, router) as client:
        if out is not None:  # before the long part
            out.mkdir(parents=True, exist_ok=True)
        scored = score(client, router, [row.text for row in rows])
    strong, weak = (np.array([getattr(row, field) for row in rows], dtype=np.float64) for field in FIELDS)
    sources = np.array([source_name(row.source) for row in rows])
    groups = {str(name): sources == name for name in np.unique(sources)}

    def summary(chosen: NDArray[np.bool_]) -> PairSummary:
        return summarise_pairs(scored.win_rates[chosen], strong[chosen], weak[chosen])

    return PairEvaluation(
        router,
        scored.checkpoint,
        dict(file_hashes(Path(), map(str, data))),
        summary(np.ones(len(rows), dtype=np.bool_)),
        {name: summary(chosen) for name, chosen in groups.items()},
    )


def summarise_pairs(
    win_rates: NDArray[np.float64], strong: NDArray[np.float64], weak: NDArray[np.float64]
) -> PairSummary:
    """`win_rates`, `strong` and `weak` [N], at least one row."""
    found = curve(win_rates, strong, weak)
    quality = float(strong.mean()), float(weak.mean())
    if not quality[0] > quality[1]:
        return PairSummary(len(win_rates), *quality, None, None, found)
    values = figures(found)
    try:
        intervals = bootstrap(win_rates, strong, weak, seed=_SEED, samples=_SAMPLES, confidence=CONFIDENCE)
    except ValueError:  # too few resamples in which the strong model is better
        intervals = None
    apgr = Figure(values.apgr, intervals.apgr if intervals else None)
    cpt = {share: Figure(value, intervals.cpt[share] if intervals else None) for share, value in values.cpt.items()}
    return PairSummary(len(win_rates), *quality, apgr, cpt, found)


def _cells(source: str, summary: PairSummary) -> tuple[str | int | float | None, ...]:
    figures = [summary.apgr, *(summary.cpt[share] if summary.cpt else None for share in CPT_SHARES)]
    return (source, summary.rows, summary.weak, summary.strong, *(str(each) if each else None for each in figures))
