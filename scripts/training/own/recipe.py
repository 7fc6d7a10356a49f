"""How a classifier of your own is trained: on what, what learns, how fast, and for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from scripts.training.own.data import Column

Method = Literal["frozen", "low-rank", "full"]
ClassWeights = Literal["none", "balanced"]
METHODS: tuple[Method, ...] = get_args(Method)
CLASS_WEIGHTS: tuple[ClassWeights, ...] = get_args(ClassWeights)

ADAPTER_RANK = 32  # the embedded classifier's
HEADS_FASTER = 10  # than an encoder that learns as a whole: it knows a language already, they know nothing


@dataclass(frozen=True)
class Recipe:
    """`learning_rate` is the encoder's, or its adapters', and with a frozen encoder the heads'."""

    method: Method
    epochs: int  # at most
    patience: int  # epochs without a better macro F1 on dev before it ends
    learning_rate: float
    smoothing: float  # of the labels
    dropout: bool  # as much as the encoder's own config has
    rows_per_step: int = 32
    warmup: float = 0.06  # of all steps; from there the rate falls to 0 in a line
    class_weights: ClassWeights = "none"
    seed: int = 0

    @property
    def heads_rate(self) -> float:
        return self.learning_rate * HEADS_FASTER if self.method == "full" else self.learning_rate


RECIPES: Mapping[Method, Recipe] = {
    "frozen": Recipe("frozen", epochs=100, patience=10, learning_rate=3e-3, smoothing=0.0, dropout=False),
    "low-rank": Recipe("low-rank", epochs=10, patience=3, learning_rate=1e-3, smoothing=0.0, dropout=False),
    "full": Recipe("full", epochs=8, patience=3, learning_rate=2e-4, smoothing=0.1, dropout=True),
}
"""Each method's own. `full` and the rate of `frozen` were chosen on a held-out tenth of Banking77's training rows, the
rest of `low-rank` is the embedded classifier's."""


@dataclass(frozen=True)
class Order:
    """What to train on what. `encoder`: a folder, or None for the embedded one; `max_tokens`: None for the usual."""

    data: Sequence[Path]
    dev: Sequence[Path]
    test: Sequence[Path]
    columns: Sequence[Column]
    out: Path
    name: str
    encoder: Path | None
    max_tokens: int | None
    recipe: Recipe
    device: str

    @property
    def files(self) -> dict[str, Sequence[Path]]:
        return {"train": self.data, "dev": self.dev, "test": self.test}
