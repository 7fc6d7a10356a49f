"""How far a training has come, in a file, so that the same command goes on from there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = ".training"
_FILE = "state.pt"
_FORMAT = 1  # another one is not read

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """After some epochs: the mean loss, macro F1 and cross entropy on dev of each, and the weights of the best."""

    losses: list[float] = field(default_factory=list)
    f1: list[float] = field(default_factory=list)
    dev_losses: list[float] = field(default_factory=list)
    best: Weights = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, loss: float, f1: float, dev_loss: float) -> None:
        """One epoch more."""
        self.losses.append(loss)
        self.f1.append(f1)
        self.dev_losses.append(dev_loss)

    @property
    def epochs(self) -> int:
        return len(self.f1)

    @property
    def best_epoch(self) -> int:
        """Counted from 1, 0 before the first: the one of the highest F1. Few rows give few different ones: of those as
        high the one whose probabilities fit dev best."""
        order = range(1, self.epochs + 1)
        return max(order, key=lambda epoch: (self.f1[epoch - 1], -self.dev_losses[epoch - 1]), default=0)


@dataclass(frozen=True)
class StateFile:
    """The file of one training, in the folder that it will write. `key` is a digest of everything that its result
    hangs on; nothing else draws random numbers than `seed`, so that none are kept."""

    out: Path
    key: str

    @property
    def path(self) -> Path:
        return self.out / FOLDER / _FILE

    def save(self, progress: Progress, learning: dict[str, Any]) -> None:
        """Replaces the file at once; `learning`: weights, optimizer and schedule as they go on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        torch.save({"key": self.key, "progress": vars(progress), "learning": learning}, temporary)
        temporary.replace(self.path)

    def load(self) -> tuple[Progress, dict[str, Any]] | str | None:
        """What `save` wrote; else why there is none of use, or None when there is no file."""
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["key"] != self.key:
                return "it was begun with other data, options or versions"
            return Progress(**state["progress"]), state["learning"]
        except Exception as error:  # unpickling raises of every kind
            return f"its state can't be read ({type(error).__name__})"


def digest(value: Any) -> str:
    """Of anything that JSON can hold."""
    text = json.dumps([_FORMAT, value], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
