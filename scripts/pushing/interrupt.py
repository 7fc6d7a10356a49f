"""Ctrl-C, SIGTERM and a terminal that goes away, put off while something runs that must not be left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """From `watching` on, the first is a KeyboardInterrupt, raised at the end of what is `held`.

    Others come to nothing: they often come in pairs, and what the first set going must not be stopped half way.
    """

    def __init__(self) -> None:
        self._held = 0
        self._came = False
        self._ended = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's wish
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._take) for number in numbers}
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

    def end(self) -> None:
        """All is done, or undone: from now on none is heeded, so that nothing is told other than it is."""
        self._ended = True

    def check(self) -> None:
        if self._came and not self._held and not self._ended:
            self._ended = True
            raise KeyboardInterrupt

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        self.check()
