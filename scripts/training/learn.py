"""The training loop: adapters and both heads, together, on rows that have one label or both."""

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
from classifiers.tokenizer import PromptTokenizer
from scripts.training.adapters import trainable_network
from scripts.training.data import LABELLED, NO_LABEL, Row


@dataclass(frozen=True)
class Recipe:
    """How to train. The values were chosen on a split of the training rows (`--hold-out`), never on dev."""

    epochs: int = 3
    seed: int = 0
    rows_per_step: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.06  # of all steps; from there the rate falls to 0 in a line
    gradient_norm: float = 1.0
    # What a row weighs in each head's loss: one that was read or written one by one, and one labelled by its source or
    # a rule. Complexity has fewer rows than task, so each of them counts for more.
    task_weights: tuple[float, float] = (3.0, 1.0)
    complexity_weights: tuple[float, float] = (3.0, 2.0)
    with_opening: float = 0.1  # share of the rows that get an opening such as "Prompt: "


def train(checkpoint: Checkpoint, rows: Sequence[Row], recipe: Recipe) -> PromptClassifier:
    """A network trained on `rows`, its adapters not merged yet.

    Raises CheckpointError: the checkpoint's encoder is missing or another file than expected.
    """
    torch.manual_seed(recipe.seed)
    # In evaluation mode, without dropout: on a CPU its random numbers cost as much as the network, and adapters of low
    # rank overfit little in a few epochs. In float32, which a CPU without matrix units multiplies faster than bfloat16.
    network = trainable_network(checkpoint).eval()
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=recipe.learning_rate, weight_decay=0.01)
    steps = recipe.epochs * -(-len(rows) // recipe.rows_per_step)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps, recipe.warmup))
    encoded = _encode(checkpoint, rows)
    for chosen in tqdm(_batches(encoded, recipe), total=steps, unit="step", desc="training"):
        optimizer.zero_grad()
        loss = _loss(network, checkpoint, [rows[number] for number in chosen], [encoded[n] for n in chosen], recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learning, recipe.gradient_norm)
        optimizer.step()
        schedule.step()
    return network


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


def _encode(checkpoint: Checkpoint, rows: Sequence[Row]) -> list[NDArray[np.int32]]:
    """Ids cut as they are when serving: to head and tail."""
    ids, _ = PromptTokenizer(checkpoint).encode([row.text.encode() for row in rows])
    return [row[row >= 0] for row in ids]


def _batches(encoded: Sequence[NDArray[np.int32]], recipe: Recipe) -> Iterator[list[int]]:
    """Each epoch's rows in a new order; within a stretch of it, rows of like length share a step: little padding."""
    generator = np.random.default_rng(recipe.seed)
    stretch = 32 * recipe.rows_per_step
    for _ in range(recipe.epochs):
        order = generator.permutation(len(encoded)).tolist()
        for start in range(0, len(order), stretch):
            near = sorted(order[start : start + stretch], key=lambda number: len(encoded[number]))
            batches = [near[at : at + recipe.rows_per_step] for at in range(0, len(near), recipe.rows_per_step)]
            for number in generator.permutation(len(batches)):
                yield batches[number]


def _rate(done: float, warmup: float) -> float:
    return min(done / warmup, (1 - done) / (1 - warmup))
