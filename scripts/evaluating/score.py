"""How likely a RouteLLM router that a Triton serves thinks it that the strong model's answer wins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from gateway.config import ROUTELLM, Router
from scripts.evaluating.ask import TritonError, batches, decode, infer, reach, the_only

ROUTERS: tuple[str, ...] = get_args(Router)


@dataclass(frozen=True)
class Scored:
    """`win_rates` [N] float64, 0 to 1, and the `name:version:digest` of the checkpoint that gave them."""

    checkpoint: str
    win_rates: NDArray[np.float64]


def reach_router(target: str, router: str) -> AbstractContextManager[InferenceServerClient]:
    """The Triton at host:port, once it says that it serves `router`; raises TritonError on entering, as `reach`."""
    return reach(target, f"{ROUTELLM}{router}")


def score(client: InferenceServerClient, router: str, texts: Sequence[str]) -> Scored:
    """The win rates of at least one text, in their order.

    Raises TritonError: a request failed, an answer is no win rate, or the checkpoint changed meanwhile.
    """
    model = f"{ROUTELLM}{router}"
    win_rates = np.empty(len(texts))
    checkpoints: set[str] = set()
    for rows in batches(texts, "scoring"):
        outputs = infer(client, model, [texts[row] for row in rows], ["strong_win_rate", "checkpoint"])
        win_rates[rows] = outputs["strong_win_rate"][:, 0]
        checkpoints.update(decode(outputs["checkpoint"]))
    strange = win_rates[~((win_rates >= 0) & (win_rates <= 1))]
    if len(strange):
        raise TritonError(f"{model} answered {strange[0]}, which is no win rate from 0 to 1")
    return Scored(the_only(checkpoints), win_rates)
