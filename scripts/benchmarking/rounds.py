"""Rounds: everything that is compared is measured in turn, as often as there are rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from tqdm import tqdm

from scripts.benchmarking.perf_analyzer import PerfAnalyzer, find_perf_analyzer
from scripts.local.published import write_published_checkpoint

Found = Mapping[str, float]
Step = Callable[[], Found]
Values = dict[str, list[float]]
"""What was measured, by name, one value for each round."""


_T = TypeVar("_T")


class Kept:
    """Servers that stay for the next part when that needs the same ones. To be used in a `with` statement."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._found: tuple[object, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._found = None
        self._stack.close()

    def enter(self, key: object, start: Callable[[], AbstractContextManager[_T]]) -> _T:
        """What was started last, when that was under the same key; else it is stopped, and `start` has its turn."""
        if self._found is None or self._found[0] != key:
            self.__exit__()
            self._found = (key, self._stack.enter_context(start()))
        found: _T = self._found[1]
        return found


@dataclass
class Run:
    """How a run of this command measures."""

    folder: Path
    """Where servers' files, checkpoints and tools are kept."""
    texts: Sequence[str]
    kept: Kept
    rounds: int = 5
    quick: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    """What was found out before the rounds, such as the fastest way of the limit."""

    def seconds(self, usual: float) -> float:
        """How long a timed load lasts."""
        return 0.4 if self.quick else usual

    def perf_analyzer(self) -> PerfAnalyzer:
        return find_perf_analyzer(self.folder / "perf_analyzer")

    def deberta(self) -> Path:
        """A checkpoint with the published network's shapes and random weights, of full size unless quick."""
        folder = self.folder / ("deberta-tiny" if self.quick else "deberta")
        if not (folder / "config.json").exists():  # written last
            write_published_checkpoint(folder, tiny=self.quick)
        return folder


def interleave(name: str, steps: Sequence[Step], rounds: int) -> Values:
    """Each step once in each round, behind a progress bar."""
    values: Values = {}
    with tqdm(total=rounds * len(steps), desc=name, unit="step", disable=None) as progress:
        for _ in range(rounds):
            for step in steps:
                for key, value in step().items():
                    values.setdefault(key, []).append(value)
                progress.update()
    return values
