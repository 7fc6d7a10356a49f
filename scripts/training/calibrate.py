"""How far a network's probabilities can be believed: temperatures, and when a task is better left Unknown.

A temperature divides a head's logits so that the probabilities of held-out rows fit what was true of them (Guo et al.,
On Calibration of Modern Neural Networks, 2017, section 4.2). It changes no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint
from classifiers.network import PromptClassifier
from scripts.training.data import NO_LABEL, Row
from scripts.training.measure import classify_texts

_TEMPERATURES = np.geomspace(0.25, 8, 501)
FEWEST_ROWS = 50  # of fewer, no share is worth naming
COVERAGE = 0.995
"""The share of held-out prompts that keep their answer; the least certain two hundredth is called Unknown."""


@dataclass(frozen=True)
class Calibration:
    """What goes into the checkpoint's config, and on how many rows it was found; 0: it was not."""

    temperatures: dict[str, float]
    unknown_below: float
    risk: float
    """The share of wrong answers among the held-out rows that keep theirs."""
    rows: int


def calibrate(network: PromptClassifier, checkpoint: Checkpoint, rows: Sequence[Row]) -> Calibration:
    """Temperatures of both heads, and the task probability below which an answer is Unknown, from held-out rows.

    Of too few rows nothing can be said: temperatures of 1 then, and the checkpoint's own threshold.
    """
    if len(rows) < FEWEST_ROWS:
        return Calibration({"task": 1.0, "complexity": 1.0}, checkpoint.unknown_below, 0.0, 0)
    logits = classify_texts(network, checkpoint, [row.text for row in rows]).astype(np.float64)
    temperatures, unknown_below, risk = {}, 0.0, 0.0
    for head in ("task", "complexity"):
        truth = np.array([getattr(row, head) for row in rows])
        known = truth != NO_LABEL
        part, truth = logits[known][:, checkpoint.head_slices[head]], truth[known]
        temperatures[head] = fit_temperature(part, truth)
        if head == "task":
            probabilities = softmax(part / temperatures[head])
            unknown_below, risk = threshold(probabilities, truth)
    return Calibration(temperatures, unknown_below, risk, len(rows))


def fit_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The temperature under which `truth` [N] is likeliest by `logits` [N, labels], to three decimals."""
    rows = np.arange(len(truth))
    losses = [-np.log(softmax(logits / temperature)[rows, truth] + 1e-12).mean() for temperature in _TEMPERATURES]
    return round(float(_TEMPERATURES[int(np.argmin(losses))]), 3)


def threshold(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> tuple[float, float]:
    """The point of the risk-coverage curve at COVERAGE: the confidence that begins there, to three decimals, and the
    share of wrong answers at or above it."""
    confidence = probabilities.max(axis=1)
    below = round(float(np.quantile(confidence, 1 - COVERAGE)), 3)
    kept = confidence >= below
    return below, float((probabilities.argmax(axis=1)[kept] != truth[kept]).mean())


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities [N, labels] of each row's `logits`."""
    powers: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    total: NDArray[np.float64] = powers.sum(axis=1, keepdims=True)
    return powers / total
