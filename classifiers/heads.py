"""Prompts to the labels of a checkpoint of your own, whatever its heads are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint, CheckpointError, one_line, require_own
from classifiers.classification import Classification, label_bytes
from classifiers.decision import head_probabilities

_PROBE = b"ping"


def load_heads(checkpoint: Checkpoint) -> HeadsClassification:
    """A checkpoint as it is tried before Triton has it: a traced network on a GPU where there is one, since it may hold
    on to it."""
    traced = checkpoint.kind == "torchscript"
    return HeadsClassification(checkpoint, "1", "cuda:0" if traced and torch.cuda.is_available() else "cpu")


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
        """Raises CheckpointError: the checkpoint's files do not fit together, it does not answer with numbers, or it is
        none of your own."""
        require_own(checkpoint)
        super().__init__(checkpoint, version, device, precision)
        self._labels = {head.name: label_bytes(head.labels) for head in checkpoint.heads}
        self._try_out()

    def _try_out(self) -> None:
        """Raises CheckpointError unless a prompt gets scores that are numbers: broken weights load as others do."""
        names = [f"{head.name}_scores" for head in self._checkpoint.heads]
        try:
            (outputs,) = self.answers([[_PROBE]], [names])
        except CheckpointError:
            raise
        except Exception as error:  # whatever an encoder of another kind raises
            raise CheckpointError(
                f"{self._checkpoint.weights_file}: does not answer {_PROBE.decode()!r}: {one_line(error)}"
            ) from None
        if wrong := [name for name in names if not np.isfinite(outputs[name]).all()]:
            raise CheckpointError(f"{self._checkpoint.weights_file}: {wrong[0]} of {_PROBE.decode()!r} are not finite")

    def _decide(self, logits: NDArray[np.float32], wanted: Collection[str]) -> dict[str, NDArray[Any]]:
        outputs: dict[str, NDArray[Any]] = {}
        for head, labels in self._labels.items():
            scores = head_probabilities(logits, self._checkpoint, head)
            outputs |= {f"{head}_scores": scores, f"{head}_label": labels[scores.argmax(axis=1), np.newaxis]}
        return outputs
