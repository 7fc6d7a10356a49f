"""Whether a classifier's confidence can be believed: of the answers given with 0.8, are eight in ten right?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 15


class Bin(NamedTuple):
    """The answers of like confidence: how sure they are on average, how many of them are right, how many they are."""

    confidence: float
    accuracy: float
    rows: int


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """The expected calibration error of N answers, 0 (what is said holds) to 1 (always sure, never right).

    As in Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), equation 3: the gap between accuracy and
    mean confidence in each of `bins` bins of equal width, averaged with the bins' rows as weights. `confidence` [N] is
    the score of the label that was answered; `correct` [N] says whether that label is the true one.

    Raises ValueError: no answer, or a confidence that is not from 0 to 1.
    """
    found = reliability(confidence, correct, bins)
    return sum(each.rows * abs(each.accuracy - each.confidence) for each in found) / len(confidence)


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """The bins that hold answers, by rising confidence. Bin m of M reaches from above (m - 1)/M to m/M, the first
    from 0.

    Raises ValueError: no answer, or a confidence that is not from 0 to 1.
    """
    if not len(confidence) or not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("expected confidences from 0 to 1, at least one")
    number = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    chosen = [number == each for each in np.unique(number)]
    return [Bin(float(confidence[rows].mean()), float(correct[rows].mean()), int(rows.sum())) for rows in chosen]
