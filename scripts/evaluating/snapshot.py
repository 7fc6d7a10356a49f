"""What was served, as a calibration snapshot: what the gateway sets later traffic against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.decision import Decision
from gateway.traffic import Seen, Snapshot, language_of, seen, take_snapshot
from scripts.training.data import DataError


def snapshot_of(texts: Sequence[str], decisions: Sequence[Decision], threshold: float | None) -> Snapshot:
    """Of at least one text, and the decision about each; a RouteLLM model's are judged by `threshold`."""
    rows = [_seen(text, decision, threshold) for text, decision in zip(texts, decisions, strict=True)]
    return take_snapshot(rows, decisions[0].checkpoint)


def _seen(text: str, decision: Decision, threshold: float | None) -> Seen:
    label = decision.label
    if decision.win_rate is not None and threshold is not None:
        label = "strong" if decision.win_rate >= threshold else "weak"
    return seen(label, decision.confidence, decision.tokens_in_prompt, language_of(text))


def require_place(file: Path) -> None:
    """Raises DataError when nothing can be written to `file`, before the long part."""
    if not file.absolute().parent.is_dir():
        raise DataError(f"{file}: its folder is not there")
    if file.is_dir():
        raise DataError(f"{file}: is a folder")


def write_snapshot(snapshot: Snapshot, file: Path) -> None:
    """Raises OSError."""
    file.write_text(snapshot.model_dump_json(indent=2) + "\n", encoding="utf-8")
