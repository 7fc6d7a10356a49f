"""The training loop's parts, and the loop of the embedded classifier: adapters and both heads, together, on rows that
have one label or both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from classifiers.checkpoint import Checkpoint
from classifiers.network import PromptClassifier
from classifiers.packing import pad
from classifiers.tokenizer import PromptTokenizer, Tokenized
from scripts.training.adapters import trainable_network
from scripts.training.data import LABELLED, NO_LABEL, Row

_WEIGHT_DECAY = 0.01
_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Recipe:
    """How to train. The values were chosen on a split of the training rows (`--hold-out`), never on dev."""

    epochs: int = 3
    seed: int = 0
    rows_per_step: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.06  # of all steps; from there the rate falls to 0 in a line
    # What a row weighs in each head's loss: one that was read or written one by one, and one labelled by its source or
    # a rule. Complexity has fewer rows than task, so each of them counts for more.
    task_weights: tuple[float, float] = (3.0, 1.0)
    complexity_weights: tuple[float, float] = (3.0, 2.0)
    with_opening: float = 0.1  # share of the rows that get an opening such as "Prompt: "


class Learner:
    """What changes a network step by step: AdamW, at rates that rise in a line from 0 over the warm-up and fall to 0 in
    a line from there."""

    def __init__(self, rates: Sequence[tuple[float, Sequence[Tensor]]], steps: int, warmup: float) -> None:
        """`rates`: each rate with what learns at it; `warmup`: the share of all `steps` that it takes."""
        self._learning = [parameter for _, group in rates for parameter in group]
        groups = [{"params": list(group), "lr": rate} for rate, group in rates]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _rate(step / steps, warmup))

    def step(self, loss: Tensor) -> float:
        """One step against the loss, whose value is returned."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._learning, _GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())


def train(checkpoint: Checkpoint, rows: Sequence[Row], recipe: Recipe) -> PromptClassifier:
    """A network trained on `rows`, its adapters not merged yet.

    Raises CheckpointError: the checkpoint's encoder is missing or another file than expected.
    """
    torch.manual_seed(recipe.seed)
    # In evaluation mode, without dropout: on a CPU its random numbers cost as much as the network, and adapters of low
    # rank overfit little in a few epochs. In float32, which a CPU without matrix units multiplies faster than bfloat16.
    network = trainable_network(checkpoint).eval()
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    encoded = encode(checkpoint, [row.text for row in rows])
    steps = recipe.epochs * -(-len(rows) // recipe.rows_per_step)
    learner = Learner([(recipe.learning_rate, learning)], steps, recipe.warmup)
    generator = np.random.default_rng(recipe.seed)
    with tqdm(total=steps, unit="step", desc="training") as progress:
        for _ in range(recipe.epochs):
            for chosen in epoch_batches(encoded, recipe.rows_per_step, generator):
                batch = [encoded[number] for number in chosen]
                learner.step(_loss(network, checkpoint, [rows[number] for number in chosen], batch, recipe))
                progress.update()
    return network


def encode(tokenized: Tokenized, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Each text's ids, cut as they are when serving: to head and tail."""
    ids, _ = PromptTokenizer(tokenized).encode([text.encode() for text in texts])
    return [row[row >= 0] for row in ids]


def epoch_batches(
    encoded: Sequence[NDArray[np.int32]], rows_per_step: int, generator: np.random.Generator
) -> Iterator[list[int]]:
    """All rows, by number, in a new order; within a stretch of it, rows of like length share a step: little padding."""
    order = generator.permutation(len(encoded)).tolist()
    stretch = 32 * rows_per_step
    for start in range(0, len(order), stretch):
        near = sorted(order[start : start + stretch], key=lambda number: len(encoded[number]))
        batches = [near[at : at + rows_per_step] for at in range(0, len(near), rows_per_step)]
        for number in generator.permutation(len(batches)):
            yield batches[number]


def _loss(
    network: PromptClassifier,
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    encoded: Sequence[NDArray[np.int32]],
    recipe: Recipe,
) -> Tensor:
    logits = network(pad(encoded))
    known = torch.tensor([row.source.startswith(LABELLED) for row in rows])
    loss = torch.zeros(())
    for head, (one_by_one, other), truth in (
        ("task", recipe.task_weights, [row.task for row in rows]),
        ("complexity", recipe.complexity_weights, [row.complexity for row in rows]),
    ):
        part = logits[:, checkpoint.head_slices[head]]
        losses = cross_entropy(part, torch.tensor(truth), ignore_index=NO_LABEL, reduction="none")
        loss = loss + (losses * torch.where(known, one_by_one, other)).sum() / len(rows)
    return loss


def _rate(done: float, warmup: float) -> float:
    return min(done / warmup, (1 - done) / (1 - warmup))
