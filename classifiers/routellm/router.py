"""What all four routers give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

UNCOUNTED = -1
"""Stands for tokens that the router does not see: those of an embeddings endpoint, which counts for itself."""


@dataclass(frozen=True)
class Scores:
    """`strong_win_rate` [N] float32, 0 to 1; `tokens` [N, 2] int32, tokens read and tokens in the prompt."""

    strong_win_rate: NDArray[np.float32]
    tokens: NDArray[np.int32]


class Router(Protocol):
    """Scores prompts. A prompt goes to the strong model when its win rate reaches the threshold (RouteLLM's rule)."""

    name: str
    """`name:digest` of the checkpoint: its name, and the first 12 hex digits of a SHA-256 over its files."""

    def score(self, prompts: Sequence[bytes]) -> Scores:
        """Each prompt's own score, whatever its neighbours are. Bytes that are not UTF-8 are read as U+FFFD."""
        ...
