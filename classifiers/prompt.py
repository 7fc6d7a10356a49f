"""Prompts to everything that is served of them: tokens, network and decisions behind one another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint, CheckpointError, checkpoint_digest, require_task_and_complexity
from classifiers.decision import decide_complexity, decide_task, one_hot
from classifiers.network import load_network
from classifiers.rows import slices
from classifiers.tokenizer import PromptTokenizer

Outputs = Mapping[str, NDArray[Any]]

_TASK = frozenset({"task_one_hot", "task_label", "task_scores"})
_COMPLEXITY = frozenset({"complexity_one_hot", "complexity_label", "complexity_scores", "prompt_complexity_score"})


class PromptClassification:
    """A checkpoint, ready to answer.

    One object for all steps: between processes each step costs a prompt more than its own work takes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        version: str,
        device: str = "cpu",
        precision: torch.dtype = torch.float32,
        few_shot_scale: float = 1.0,
    ) -> None:
        """`version` goes into the `checkpoint` output, `few_shot_scale` is `decide_complexity`'s.

        Raises CheckpointError: the checkpoint's files do not fit together.
        """
        require_task_and_complexity(checkpoint)
        self._checkpoint = checkpoint
        self._few_shot_scale = few_shot_scale
        self._tokenizer = PromptTokenizer(checkpoint)
        self._network = load_network(checkpoint, device, precision)
        # Checked once, here: an id without a row would fail a whole batch, and on a GPU all that come after.
        if self._tokenizer.vocabulary > self._network.vocabulary:
            raise CheckpointError(
                f"{checkpoint.tokenizer_file}: has {self._tokenizer.vocabulary} token ids, "
                f"and the network reads {self._network.vocabulary}"
            )
        if checkpoint.max_tokens > self._network.max_positions:
            raise CheckpointError(
                f"{checkpoint.config_file}: 'max_tokens' is {checkpoint.max_tokens}, "
                f"and the network reads {self._network.max_positions}"
            )
        self._task_labels = _bytes(checkpoint.task_labels)
        self._complexity_labels = _bytes(checkpoint.complexity_labels)
        self._name = f"{checkpoint.name}:{version}:{checkpoint_digest(checkpoint)}".encode()

    def answers(self, requests: Sequence[Sequence[bytes]], wanted: Sequence[Collection[str]]) -> list[Outputs]:
        """Each request's outputs, from one pass over all of them.

        `requests` are their prompts (n each), `wanted` the names of the outputs that each is to have.

        | output | type | shape |
        |---|---|---|
        | task_one_hot, task_scores | float32 | [n, 12] |
        | complexity_one_hot, complexity_scores | float32 | [n, 7] |
        | prompt_complexity_score | float32 | [n, 1] |
        | task_label, complexity_label, checkpoint | bytes | [n, 1] |
        | tokens (read, in the prompt) | int32 | [n, 2] |
        """
        input_ids, tokens = self._tokenizer.encode([prompt for request in requests for prompt in request])
        names = frozenset().union(*wanted)
        outputs = {"tokens": tokens, "checkpoint": np.full((len(tokens), 1), self._name, dtype=object)}
        if names - outputs.keys():
            (logits,) = self._network.classify([input_ids])
            outputs |= self._decide(logits, names)
        rows = slices(map(len, requests))
        return [{name: outputs[name][own] for name in each} for own, each in zip(rows, wanted, strict=True)]

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


def _bytes(labels: Sequence[str]) -> NDArray[np.object_]:
    return np.array([label.encode() for label in labels], dtype=object)
