"""A share of strong calls that holds while the traffic changes."""

from collections import deque

STEP = 0.005
"""How far one request can move the threshold, in win rate: a hundred in a row that go one way move it by up to 0.5."""
_REMEMBERED = 1000


class HeldShare:
    """A threshold that holds a share of strong calls, learnt from the calls themselves.

    After each request it moves by STEP * (went strong - target): up after strong calls, down after weak ones, and
    nowhere on average when the share is right. This is the online quantile of Gibbs & Candès, "Adaptive Conformal
    Inference Under Distribution Shift" (NeurIPS 2021), equation 2 and proposition 4.1: whatever the win rates are, and
    however they drift, the share over T requests is within (1 + STEP) / (STEP * T) of the target. For one event loop.
    """

    def __init__(self, target: float, threshold: float) -> None:
        """`target`: the share wanted, between 0 and 1; `threshold`: what the first win rate is compared with."""
        self.target = target
        self.first = threshold
        self.threshold = threshold
        self._recent: deque[bool] = deque(maxlen=_REMEMBERED)

    @property
    def share(self) -> float | None:
        """The share of the last thousand requests that went to the strong model; None before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def count(self, strong: bool) -> None:
        """One more request, which went to the strong model or not."""
        self.threshold += STEP * (strong - self.target)
        self._recent.append(strong)
