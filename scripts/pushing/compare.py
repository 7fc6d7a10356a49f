"""The new version beside the served one: the same prompts to both, and how far their answers are apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tqdm import tqdm
from tritonclient.grpc.model_config_pb2 import ModelConfig

from scripts.evaluating.calibration import calibration_error
from scripts.pushing.agent import CANDIDATE
from scripts.pushing.errors import PushError
from scripts.pushing.interrupt import Interrupts
from scripts.pushing.promote import Examiner, remove, understood
from scripts.pushing.replica import Answer, Replica
from scripts.pushing.volume import Volume

_ROUTE = "route"  # the head of a RouteLLM router: strong from a win rate of 0.5
_CHUNK = 32
_SUM_TOLERANCE = 1e-3
_SHOWN = 20


@dataclass(frozen=True)
class Row:
    """A prompt, with its true label by head where the file has one; `label` is that of the only head."""

    prompt: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Limits:
    """How far apart the versions may be."""

    min_agreement: float
    max_label_shift: float
    max_calibration_shift: float


@dataclass(frozen=True)
class Given:
    """One version's answers for one head. `confidence` is None where the scores are no probabilities."""

    labels: Sequence[str]
    confidence: NDArray[np.float64] | None
    is_finite: bool = True


@dataclass(frozen=True)
class HeadShift:
    """How far the answers for one head are apart.

    `label_shift` is the total variation of the shares of the labels; `confidence_shift` the mean confidence of the new
    version less the old one's; `old_error` and `new_error` their expected calibration errors on the labelled rows.
    """

    rows: int
    agreement: float
    label_shift: float
    confidence_shift: float | None
    labelled: int
    old_error: float | None
    new_error: float | None
    moved: Mapping[str, Mapping[str, int]]
    broken: str | None = None  # what no limit allows

    def faults(self, limits: Limits) -> list[str]:
        """What is outside the limits, as is what is no number."""
        found = [self.broken] if self.broken else []
        if not self.agreement >= limits.min_agreement:
            found.append(f"agreement {self.agreement:.3f} is below {limits.min_agreement:g}")
        if not self.label_shift <= limits.max_label_shift:
            found.append(f"label shift {self.label_shift:.3f} is above {limits.max_label_shift:g}")
        if self.confidence_shift is not None and not abs(self.confidence_shift) <= limits.max_calibration_shift:
            found.append(f"confidence shift {self.confidence_shift:+.3f} is beyond {limits.max_calibration_shift:g}")
        if self.old_error is not None and self.new_error is not None:
            worse = self.new_error - self.old_error
            if not worse <= limits.max_calibration_shift:
                found.append(f"calibration error grows by {worse:.3f}, more than {limits.max_calibration_shift:g}")
        return found


@dataclass(frozen=True)
class Comparison:
    """By head."""

    heads: Mapping[str, HeadShift]

    def faults(self, limits: Limits) -> list[str]:
        return [f"{head}: {fault}" for head, shift in self.heads.items() for fault in shift.faults(limits)]

    def as_json(self) -> dict[str, Any]:
        return {head: asdict(shift) for head, shift in self.heads.items()}

    def as_text(self) -> str:
        return "\n".join(line for head, shift in self.heads.items() for line in _lines(head, shift))


def read_prompts(path: Path) -> list[Row]:
    """Prompts as JSON lines: `prompt` or `text`, and labels under their heads' names, or `label` for a model with one
    head; in a folder called task or complexity `label` is that head's, as scripts/evaluate reads it.

    Raises PushError, with the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PushError(f"{path}: can't be read ({error})") from None
    rows = [_read_row(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise PushError(f"{path}: holds no prompts")
    return rows


def compare_beside(
    volume: Volume,
    replica: Replica,
    examiner: Examiner,
    version: int,
    rows: Sequence[Row],
    interrupts: Interrupts,
) -> Comparison:
    """Asks the uploaded version, under another name, and the served one. The former is gone again in the end."""
    model = examiner.model
    config = ModelConfig()
    config.CopyFrom(examiner.config)
    config.name = f"{model}{CANDIDATE}"
    shown = False
    try:
        with interrupts.held():
            text = text_format.MessageToString(config)
            volume.ask("show", model=model, version=str(version), config=text)
            shown = True  # else there is somebody else's, or nothing
            replica.load(config.name)
        prompts = [row.prompt for row in rows]
        with understood(replica):
            old, new = (_ask(replica, name, prompts, config.max_batch_size) for name in (model, config.name))
            return compare(rows, old, new)
    finally:
        if shown:
            with interrupts.held():
                try:
                    remove(replica, config.name)
                finally:
                    volume.insist("hide", model=model)


def compare(rows: Sequence[Row], old: Sequence[Answer], new: Sequence[Answer]) -> Comparison:
    """Raises PushError: there is no label to compare."""
    heads = [name.removesuffix("_label") for name in old[0] if name.endswith("_label")]
    heads += [_ROUTE] if "strong_win_rate" in old[0] else []
    if not heads:
        raise PushError("the model has no output that ends in _label, and no strong_win_rate: nothing to compare")
    found = {}
    for head in heads:
        # A RouteLLM router's only head has no labels that a file could name.
        only = "label" if len(heads) == 1 and head != _ROUTE else head
        truth = [row.labels.get(head, row.labels.get(only)) for row in rows]
        found[head] = shift(_given(old, head), _given(new, head), truth)
    return Comparison(found)


def shift(old: Given, new: Given, truth: Sequence[str | None]) -> HeadShift:
    rows = len(truth)
    pairs = list(zip(old.labels, new.labels, strict=True))
    before, after = Counter(old.labels), Counter(new.labels)
    moved: dict[str, dict[str, int]] = {}
    for (one, other), count in sorted(Counter(pairs).items()):
        if one != other:
            moved.setdefault(one, {})[other] = count
    confidence = None
    if old.confidence is not None and new.confidence is not None:
        confidence = float(new.confidence.mean() - old.confidence.mean())
    return HeadShift(
        rows=rows,
        agreement=sum(one == other for one, other in pairs) / rows,
        label_shift=sum(abs(after[label] - before[label]) for label in before | after) / (2 * rows),
        confidence_shift=confidence,
        labelled=sum(label is not None for label in truth),
        old_error=_error(old, truth),
        new_error=_error(new, truth),
        moved=moved,
        broken=_broken(old, new),
    )


def _broken(old: Given, new: Given) -> str | None:
    if not new.is_finite:
        return "the new version's scores are not all finite"
    if old.confidence is not None and new.confidence is None:
        return "the new version's scores are no probabilities, and the old one's are"
    return None


def _error(given: Given, truth: Sequence[str | None]) -> float | None:
    """An answer of Unknown counts as wrong."""
    chosen = np.array([label is not None for label in truth])
    if given.confidence is None or not chosen.any():
        return None
    correct = np.array([label == true for label, true in zip(given.labels, truth, strict=True)])
    return calibration_error(given.confidence[chosen], correct[chosen])


def _given(answers: Sequence[Answer], head: str) -> Given:
    if head == _ROUTE:
        rates = np.array([answer["strong_win_rate"].ravel()[0] for answer in answers], dtype=np.float64)
        labels = ["strong" if rate >= 0.5 else "weak" for rate in rates]
        return Given(labels, np.maximum(rates, 1 - rates), bool(np.isfinite(rates).all()))
    labels = [answer[f"{head}_label"].ravel()[0].decode(errors="replace") for answer in answers]
    if f"{head}_scores" not in answers[0]:
        return Given(labels, None)
    scores = np.array([answer[f"{head}_scores"].ravel() for answer in answers], dtype=np.float64)
    probabilities = (scores >= 0).all() and (abs(scores.sum(axis=1) - 1) <= _SUM_TOLERANCE).all()
    confidence = np.minimum(scores.max(axis=1), 1.0) if probabilities else None
    return Given(labels, confidence, bool(np.isfinite(scores).all()))


def _ask(replica: Replica, name: str, prompts: Sequence[str], most: int) -> list[Answer]:
    answers: list[Answer] = []
    with tqdm(total=len(prompts), unit="row", desc=f"asking {name}", disable=None) as bar:
        for start in range(0, len(prompts), _CHUNK):
            answers += replica.ask(name, prompts[start : start + _CHUNK], most)
            bar.update(len(answers) - bar.n)
    return answers


def _read_row(line: str, path: Path, number: int) -> Row:
    at = f"{path}, line {number}"
    try:
        value = json.loads(line)
    except ValueError as error:
        raise PushError(f"{at}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise PushError(f"{at}: expected a JSON object")
    prompt = value.get("prompt", value.get("text"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise PushError(f"{at}: 'prompt' (or 'text') should be a text")
    labels = {head: label for head, label in value.items() if isinstance(label, str) and head not in ("prompt", "text")}
    folder = path.absolute().parent.name
    if folder in ("task", "complexity") and "label" in labels:
        labels[folder] = labels.pop("label")
    return Row(prompt, labels)


def _lines(head: str, shift: HeadShift) -> list[str]:
    lines = [f"{head}: {shift.rows} prompts, agreement {shift.agreement:.3f}, label shift {shift.label_shift:.3f}"]
    if shift.confidence_shift is not None:
        lines[0] += f", confidence shift {shift.confidence_shift:+.3f}"
    if shift.old_error is not None and shift.new_error is not None:
        lines[0] += f", calibration error {shift.old_error:.3f} -> {shift.new_error:.3f} ({shift.labelled} labelled)"
    moves = [(count, old, new) for old, news in shift.moved.items() for new, count in news.items()]
    width = max((len(old) for _, old, _ in moves), default=0)
    shown = sorted(moves, key=lambda move: (-move[0], move[1:]))[:_SHOWN]
    lines += [f"  {count:>5}  {old:<{width}}  -> {new}" for count, old, new in shown]
    if len(moves) > _SHOWN:
        lines.append(f"         and {len(moves) - _SHOWN} other moves")
    return lines
