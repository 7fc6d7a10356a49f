"""Ctrl-C and SIGTERM, put off while something runs that must not be left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """From `watching` on, each is a KeyboardInterrupt, raised at the end of what is `held`."""

    def __init__(self) -> None:
        self._held = 0
        self._came = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Runs to its end; then the interrupt is raised, unless it failed anyway."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self.check()

    def forget(self) -> None:
        """It was heeded: what puts things back must not be stopped by it again."""
        self._came = False

    def check(self) -> None:
        if self._came and not self._held:
            self._came = False
            raise KeyboardInterrupt

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._came = True
        else:
            raise KeyboardInterrupt
