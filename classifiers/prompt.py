"""Prompts to everything that is served of them: tasks and complexities."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint, require_task_and_complexity
from classifiers.classification import Classification, label_bytes
from classifiers.decision import decide_complexity, decide_task, one_hot

_TASK = frozenset({"task_one_hot", "task_label", "task_scores"})
_COMPLEXITY = frozenset({"complexity_one_hot", "complexity_label", "complexity_scores", "prompt_complexity_score"})


class PromptClassification(Classification):
    """A checkpoint of tasks and complexities, ready to answer.

    | output | type | shape |
    |---|---|---|
    | task_one_hot, task_scores | float32 | [n, 12] |
    | complexity_one_hot, complexity_scores | float32 | [n, 7] |
    | prompt_complexity_score | float32 | [n, 1] |
    | task_label, complexity_label, checkpoint | bytes | [n, 1] |
    | tokens (read, in the prompt) | int32 | [n, 2] |
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        version: str,
        device: str = "cpu",
        precision: torch.dtype = torch.float32,
        few_shot_scale: float = 1.0,
    ) -> None:
        """`few_shot_scale` is `decide_complexity`'s.

        Raises CheckpointError: the checkpoint's files do not fit together, or it answers something else.
        """
        require_task_and_complexity(checkpoint)
        super().__init__(checkpoint, version, device, precision)
        self._few_shot_scale = few_shot_scale
        self._task_labels = label_bytes(checkpoint.task_labels)
        self._complexity_labels = label_bytes(checkpoint.complexity_labels)

    def _decide(self, logits: NDArray[np.float32], wanted: Collection[str]) -> dict[str, NDArray[Any]]:
        outputs: dict[str, NDArray[Any]] = {}
        if not _TASK.isdisjoint(wanted):
            task = decide_task(logits, self._checkpoint)
            outputs |= {
                "task_one_hot": one_hot(task.index, len(self._task_labels)),
                "task_label": self._task_labels[task.index, np.newaxis],
                "task_scores": task.scores,
            }
        if not _COMPLEXITY.isdisjoint(wanted):
            complexity = decide_complexity(logits, self._checkpoint, self._few_shot_scale)
            outputs |= {
                "complexity_one_hot": one_hot(complexity.index, len(self._complexity_labels)),
                "complexity_label": self._complexity_labels[complexity.index, np.newaxis],
                "complexity_scores": complexity.scores,
                "prompt_complexity_score": complexity.prompt_complexity_score[:, np.newaxis],
            }
        return outputs
