"""How far two computations of the same network agree. Pure functions over logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint
from classifiers.decision import decide_complexity, decide_task, head_probabilities

MOST_LABELS_CHANGED = 0.005
MOST_MOVED = 0.02

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Agreement:
    """Of two computations for the same prompts. Shares and probabilities lie between 0 and 1."""

    prompts: int
    labels_changed: Mapping[str, float]
    """Of each decision: task and complexity, or the heads of a checkpoint of your own."""
    largest_probability_move: float
    largest_logit_move: float
    finite: bool

    def faults(self, logit_tolerance: float | None = None) -> list[str]:
        """What is too much, one line each; none when the second computation may be served in place of the first.

        With `logit_tolerance` only logits count: of random weights, whose top labels are near each other, labels and
        probabilities tell nothing.
        """
        if not self.finite:
            return ["some logits are not finite"]
        if logit_tolerance is not None:
            moved = self.largest_logit_move
            return [f"a logit moves by {moved:.4f}; at most {logit_tolerance}"] if moved > logit_tolerance else []
        faults = [
            f"{share:.2%} of the {kind} labels change; at most {MOST_LABELS_CHANGED:.2%}"
            for kind, share in self.labels_changed.items()
            if share > MOST_LABELS_CHANGED
        ]
        if self.largest_probability_move > MOST_MOVED:
            faults.append(f"a probability moves by {self.largest_probability_move:.4f}; at most {MOST_MOVED}")
        return faults


def compare(exact: Logits, candidate: Logits, checkpoint: Checkpoint) -> Agreement:
    """`exact` and `candidate` [N, logits_size], of the same prompts."""
    if not (np.isfinite(exact).all() and np.isfinite(candidate).all()):
        return Agreement(len(exact), {}, 1.0, float("inf"), finite=False)
    decided, again = _decisions(exact, checkpoint), _decisions(candidate, checkpoint)
    return Agreement(
        prompts=len(exact),
        labels_changed={name: float((index != again[name]).mean()) for name, index in decided.items()},
        largest_probability_move=max(
            float(np.abs(_probabilities(exact, checkpoint, head) - _probabilities(candidate, checkpoint, head)).max())
            for head in checkpoint.head_slices
        ),
        largest_logit_move=float(np.abs(exact - candidate).max()),
        finite=True,
    )


def _decisions(logits: Logits, checkpoint: Checkpoint) -> dict[str, NDArray[np.int64]]:
    """The number of each prompt's label [N], by decision."""
    if checkpoint.is_own:
        names = [head.name for head in checkpoint.heads]
        return {name: head_probabilities(logits, checkpoint, name).argmax(axis=1) for name in names}
    task, complexity = decide_task(logits, checkpoint), decide_complexity(logits, checkpoint)
    return {"task": task.index, "complexity": complexity.index}


def _probabilities(logits: Logits, checkpoint: Checkpoint, head: str) -> NDArray[np.float64]:
    """A head's own, before any weighting: of the published network, too, whose scores are sums of several."""
    temperature = next(each.temperature for each in checkpoint.heads if each.name == head)
    part = logits[:, checkpoint.head_slices[head]].astype(np.float64) / temperature
    powers = np.exp(part - part.max(axis=1, keepdims=True))
    total: NDArray[np.float64] = powers.sum(axis=1, keepdims=True)
    return np.asarray(powers / total)
