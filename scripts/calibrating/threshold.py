"""The threshold that sends a wanted share of the prompts to the strong model. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DECIMALS = 5
_LEAST = 5  # prompts on the rarer side: with fewer, one prompt more or less moves the threshold far


class CalibrationError(Exception):
    """One line: why these win rates give no threshold."""


@dataclass(frozen=True)
class Half:
    """How many prompts it holds, and the share of them that the threshold sends to the strong model."""

    prompts: int
    strong_share: float


@dataclass(frozen=True)
class Calibration:
    """A threshold, on the half of the prompts that it was computed on and on the half that was held out."""

    threshold: float
    computed_on: Half
    held_out: Half


def calibrate(win_rates: NDArray[np.float64], share: float, seed: int) -> Calibration:
    """RouteLLM's calibration on one random half of `win_rates` [N], 0 to 1, and what comes of it on the other.

    Raises CalibrationError: too few win rates for this share, or too alike to be divided.
    """
    needed = 2 * math.ceil(round(_LEAST / min(share, 1 - share), 6))
    if len(win_rates) < needed:
        raise CalibrationError(
            f"a share of {share:g} needs at least {needed:,} prompts with a win rate, and there are {len(win_rates):,}"
        )
    order = np.random.default_rng(seed).permutation(len(win_rates))
    first, second = np.array_split(win_rates[order], 2)
    threshold = threshold_for(first, share)
    halves = [Half(len(half), strong_share(half, threshold)) for half in (first, second)]
    if halves[0].strong_share in (0, 1):
        raise CalibrationError(
            f"the win rates are too alike, from {win_rates.min():.7g} to {win_rates.max():.7g}: "
            f"the threshold {threshold:g} would send all prompts to one model"
        )
    return Calibration(threshold, *halves)


def threshold_for(win_rates: NDArray[np.float64], share: float) -> float:
    """The quantile 1 - `share` of `win_rates` [N], linear between two of them, rounded to five decimals.

    That is how RouteLLM (calibrate_threshold.py, package `routellm` 0.2.0) computes its published thresholds.
    """
    return round(float(np.quantile(win_rates, 1 - share, method="linear")), _DECIMALS)


def strong_share(win_rates: NDArray[np.float64], threshold: float) -> float:
    """The share, 0 to 1, of `win_rates` [N] that reach `threshold`."""
    return float((win_rates >= threshold).mean())
