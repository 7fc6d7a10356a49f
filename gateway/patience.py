"""When a model that misses its deadlines is left alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass

MISSES = 3
"""Deadlines missed in a row after which a model is left alone."""

PAUSE_SECONDS = 2.0
"""For how long: two seconds of fallbacks, and then one request that waits for the deadline in vain."""


@dataclass(slots=True)
class Patience:
    """With one model and one deadline. For one event loop."""

    clock: Callable[[], float] = time.monotonic
    _missed: int = 0
    _asked_again_at: float = 0.0

    def may_ask(self) -> bool:
        """Whether to ask now. After a pause one request is let through, and with it the next pause begins."""
        if self._missed < MISSES:
            return True
        if self.clock() < self._asked_again_at:
            return False
        self._asked_again_at = self.clock() + PAUSE_SECONDS
        return True

    def missed(self) -> None:
        """The model did not answer within the deadline."""
        self._missed += 1
        if self._missed >= MISSES:
            self._asked_again_at = self.clock() + PAUSE_SECONDS

    def answered(self) -> None:
        """It decided, or is not served. Any other failure tells nothing: it comes at once, and costs no deadline."""
        self._missed = 0
