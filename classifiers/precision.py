"""The type of number that a network multiplies in, and how that is chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from classifiers.checkpoint import EMBEDDED, CheckpointError
from classifiers.linear import ServingLinear, onednn_multiplies

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# A layer of the embedded encoder's width, about as many rows as a batch has, and how often each precision is tried.
_ROWS, _WIDTH, _TRIES = 256, 384, 5
_WORTH_IT = 1.3  # how many times as fast bfloat16 has to be: it costs exactness


def choose_precision(folder: Path, device: str, environ: Mapping[str, str]) -> torch.dtype:
    """What CLASSIFIER_PRECISION names; else the fastest that the checkpoint in `folder` is known to bear on `device`.

    The embedded checkpoint has passed `scripts/check_agreement` in every precision. It is multiplied in float16 on a
    GPU, and on a CPU in bfloat16 where that is faster: some processors have it and are slower by it. Any other
    checkpoint stays in float32 until its owner has run that check, and says so by the variable.

    Raises CheckpointError: CLASSIFIER_PRECISION is none of PRECISIONS.
    """
    named = environ.get("CLASSIFIER_PRECISION")
    if named:
        if named not in PRECISIONS:
            raise CheckpointError(f"CLASSIFIER_PRECISION should be one of {', '.join(PRECISIONS)}, and is {named!r}")
        return PRECISIONS[named]
    if folder.resolve() != EMBEDDED.resolve():
        return torch.float32
    if device != "cpu":
        return torch.float16
    return torch.bfloat16 if bfloat16_is_faster() else torch.float32


def bfloat16_is_faster() -> bool:
    """Whether this processor multiplies bfloat16 clearly faster than float32: tried, since its flags do not tell."""
    if not onednn_multiplies(torch.bfloat16):
        return False  # it would be emulated
    x = torch.randn(_ROWS, _WIDTH)
    weight, bias = torch.randn(4 * _WIDTH, _WIDTH), torch.zeros(4 * _WIDTH)
    layers = [ServingLinear(weight, bias, dtype) for dtype in (torch.float32, torch.bfloat16)]
    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(_TRIES):  # in turns: whatever else the machine does hits both
            for layer, spent in zip(layers, times, strict=True):
                spent.append(_seconds(layer, x))
    return min(times[0]) > _WORTH_IT * min(times[1])


def _seconds(layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
    layer(x)  # the first call prepares
    start = time.perf_counter()
    layer(x)
    return time.perf_counter() - start
