"""Prompts to the labels of a checkpoint of your own, whatever its heads are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint, require_own
from classifiers.classification import Classification, label_bytes
from classifiers.decision import head_probabilities


class HeadsClassification(Classification):
    """A checkpoint of your own, ready to answer.

    | output | type | shape |
    |---|---|---|
    | HEAD_scores, for each head: probabilities | float32 | [n, labels] |
    | HEAD_label, for each head: the likeliest; checkpoint | bytes | [n, 1] |
    | tokens (read, in the prompt) | int32 | [n, 2] |
    """

    def __init__(
        self, checkpoint: Checkpoint, version: str, device: str = "cpu", precision: torch.dtype = torch.float32
    ) -> None:
        """Raises CheckpointError: the checkpoint's files do not fit together, or it is none of your own."""
        require_own(checkpoint)
        super().__init__(checkpoint, version, device, precision)
        self._labels = {head.name: label_bytes(head.labels) for head in checkpoint.heads}

    def _decide(self, logits: NDArray[np.float32], wanted: Collection[str]) -> dict[str, NDArray[Any]]:
        outputs: dict[str, NDArray[Any]] = {}
        for head, labels in self._labels.items():
            scores = head_probabilities(logits, self._checkpoint, head)
            outputs |= {f"{head}_scores": scores, f"{head}_label": labels[scores.argmax(axis=1), np.newaxis]}
        return outputs
