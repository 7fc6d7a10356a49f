"""What all four routers give."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from classifiers.rows import slices

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


def score_requests(
    router: Router, checkpoint: bytes, requests: Sequence[Sequence[bytes]], wanted: Sequence[Collection[str]]
) -> list[dict[str, NDArray[Any]]]:
    """The outputs of each request's prompts (n of them) that it wants, from one call of `router` for all.

    `strong_win_rate` [n, 1] float32, `tokens` [n, 2] int32 and `checkpoint` [n, 1], which repeats the one given.
    """
    scores = router.score([prompt for request in requests for prompt in request])
    outputs: dict[str, NDArray[Any]] = {
        "strong_win_rate": scores.strong_win_rate[:, np.newaxis],
        "tokens": scores.tokens,
        "checkpoint": np.full((len(scores.tokens), 1), checkpoint, dtype=object),
    }
    rows = slices(map(len, requests))
    return [{name: outputs[name][own] for name in names} for own, names in zip(rows, wanted, strict=True)]
