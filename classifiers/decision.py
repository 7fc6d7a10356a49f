"""Logits to decisions: which label, and how sure. Pure functions over whole batches.

The `nvidia` kind follows the model card of nvidia/prompt-task-and-complexity-classifier ("How to use this model", and
the formula under "Complexity score"): an ordinal head's score is the weighted sum of its probabilities over its
divisor, rounded to four decimals; few-shots below 0.05 count as 0; the complexity is a weighted sum of the scores,
rounded to five.

The `softmax` kind has one head for each decision. Its probabilities are the scores, and enter the same formula. Of a
checkpoint of your own, TorchScript included, the probabilities are all there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.checkpoint import UNKNOWN, Checkpoint

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

# Which head of the published network scores which complexity label, and its weights and divisor on the model card.
_DIMENSIONS: Mapping[str, tuple[str, tuple[int, ...], int]] = {
    "Creativity": ("creativity_scope", (2, 1, 0), 2),
    "Reasoning": ("reasoning", (0, 1), 1),
    "Contextual-Knowledge": ("contextual_knowledge", (0, 1), 1),
    "Few-Shot": ("number_of_few_shots", (0, 1, 2, 3, 4, 5), 1),
    "Domain-Knowledge": ("domain_knowledge", (3, 1, 2, 0), 3),
    "No-Label-Reason": ("no_label_reason", (0,), 1),
    "Constraint": ("constraint_ct", (1, 0), 1),
}
_SCORE_DECIMALS = 4
_FEW_SHOT_FLOOR = 0.05

# The model card's formula; No-Label-Reason has no part in it.
_COMPLEXITY_WEIGHTS: Mapping[str, float] = {
    "Creativity": 0.35,
    "Reasoning": 0.25,
    "Constraint": 0.15,
    "Domain-Knowledge": 0.15,
    "Contextual-Knowledge": 0.05,
    "Few-Shot": 0.05,
}
_COMPLEXITY_DECIMALS = 5


@dataclass(frozen=True)
class TaskDecision:
    """`index` [N] int64 into the task labels; `scores` [N, 12] float32, probabilities."""

    index: Indices
    scores: Floats


@dataclass(frozen=True)
class ComplexityDecision:
    """`index` [N] int64 into the complexity labels; `scores` [N, 7] float32; `prompt_complexity_score` [N] float32.

    Scores are probabilities (softmax), or the seven dimensions of the model card (nvidia): 0 to 1, but Few-Shot,
    which counts the examples and reaches 5. The prompt's complexity lies between 0 and 1 but for that count's part.
    """

    index: Indices
    scores: Floats
    prompt_complexity_score: Floats


def decide_task(logits: Floats, checkpoint: Checkpoint) -> TaskDecision:
    """The task of each row of `logits` [N, logits_size].

    Nvidia: the likeliest of the task_type head. Softmax: the likeliest, or Unknown when its probability is below the
    checkpoint's `unknown_below`; Unknown's own score is 0.
    """
    if checkpoint.kind == "nvidia":
        scores = _softmax(_head_logits(logits, checkpoint, "task_type"))
        return TaskDecision(scores.argmax(axis=1), scores.astype(np.float32))
    known = _softmax(_head_logits(logits, checkpoint, "task"))
    unknown = checkpoint.task_labels.index(UNKNOWN)
    scores = np.insert(known, unknown, 0.0, axis=1)
    index = np.where(scores.max(axis=1) < checkpoint.unknown_below, unknown, scores.argmax(axis=1))
    return TaskDecision(index, scores.astype(np.float32))


def decide_complexity(logits: Floats, checkpoint: Checkpoint, few_shot_scale: float = 1.0) -> ComplexityDecision:
    """The complexity of each row of `logits` [N, logits_size].

    Nvidia: the index is that of the highest score, as the LLM Router blueprint has it. Its count of few-shots thereby
    outweighs the other dimensions; `few_shot_scale` multiplies it for that comparison alone (0.2 brings it to 0..1).
    Softmax: the likeliest; `few_shot_scale` has no meaning there.
    """
    scores = _nvidia_scores(logits, checkpoint) if checkpoint.kind == "nvidia" else _softmax_scores(logits, checkpoint)
    compared = scores.copy()
    if checkpoint.kind == "nvidia":
        compared[:, checkpoint.complexity_labels.index("Few-Shot")] *= few_shot_scale
    return ComplexityDecision(
        compared.argmax(axis=1), scores.astype(np.float32), _complexity(scores, checkpoint).astype(np.float32)
    )


def head_probabilities(logits: Floats, checkpoint: Checkpoint, head: str) -> Floats:
    """The scores [N, labels] of one head of a checkpoint of your own: softmax over logits divided by temperature."""
    return _softmax(_head_logits(logits, checkpoint, head)).astype(np.float32)


def one_hot(index: Indices, size: int) -> Floats:
    """[N, size] float32, with 1 at each row's index."""
    return np.eye(size, dtype=np.float32)[index]


def _nvidia_scores(logits: Floats, checkpoint: Checkpoint) -> Doubles:
    columns = []
    for label in checkpoint.complexity_labels:
        head, weights, divisor = _DIMENSIONS[label]
        scores = _softmax(_head_logits(logits, checkpoint, head)) @ np.array(weights, dtype=np.float64) / divisor
        scores = scores.round(_SCORE_DECIMALS)
        if label == "Few-Shot":
            scores = np.where(scores < _FEW_SHOT_FLOOR, 0.0, scores)
        columns.append(scores)
    return np.stack(columns, axis=1)


def _softmax_scores(logits: Floats, checkpoint: Checkpoint) -> Doubles:
    return _softmax(_head_logits(logits, checkpoint, "complexity"))


def _complexity(scores: Doubles, checkpoint: Checkpoint) -> Doubles:
    weights = np.array([_COMPLEXITY_WEIGHTS.get(label, 0.0) for label in checkpoint.complexity_labels])
    weighted: Doubles = scores @ weights
    return weighted.round(_COMPLEXITY_DECIMALS)


def _head_logits(logits: Floats, checkpoint: Checkpoint, name: str) -> Doubles:
    """One head's logits over its temperature; in double precision, so that rounding to decimals adds no noise."""
    temperature = next(head.temperature for head in checkpoint.heads if head.name == name)
    doubles: Doubles = logits[:, checkpoint.head_slices[name]].astype(np.float64)
    return doubles / temperature


def _softmax(logits: Doubles) -> Doubles:
    powers: Doubles = np.exp(logits - logits.max(axis=1, keepdims=True))
    total: Doubles = powers.sum(axis=1, keepdims=True)
    return powers / total
