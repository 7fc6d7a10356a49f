"""What several processes observe, in one: metrics by prometheus_client's multiprocess mode, the rest by a file each."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_WORKER = "GATEWAY_WORKER"
_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


def quick(metric: _Metric) -> _Metric:
    """The same metric, whose series are looked up once each: that takes as long as counting does. None of them may be
    removed then."""
    metric.labels = cache(metric.labels)  # type: ignore[method-assign]
    return metric


def share(folder: str, worker: int) -> None:
    """From now on what this process counts goes to files in `folder`.

    They have the worker's number in place of a process id: its successor counts on from them, and they do not become
    more. To be called before the first metric is made.
    """
    os.environ[_FOLDER] = folder
    os.environ[_WORKER] = str(worker)
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]


def is_shared() -> bool:
    return _FOLDER in os.environ


def sum_of_all() -> CollectorRegistry:
    """The metrics of all workers together."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def forget(gauge: Gauge, labels: Sequence[str], value: float = 0.0) -> None:
    """One series of a gauge; with several workers it goes to `value`, since their files forget none."""
    if is_shared():
        gauge.labels(*labels).set(value)
    else:
        gauge.remove(*labels)


def own_file() -> Path:
    """Where this worker writes what it has seen lately, for the others."""
    return _recent(os.environ[_FOLDER], int(os.environ[_WORKER]))


def files_of_others() -> Iterator[Path]:
    """What the other workers have written; nothing when this process serves alone."""
    if is_shared():
        yield from (file for file in Path(os.environ[_FOLDER]).glob("*.json") if file != own_file())


def write(file: Path, text: str) -> None:
    """All of it at once: whoever reads sees the old text or the new one. Raises OSError."""
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def _recent(folder: str, worker: int) -> Path:
    return Path(folder) / f"recent-{worker}.json"


def forget_state(folder: str, worker: int) -> None:
    """The gauges of a worker that is no more, and what it had seen lately; what it counted stays."""
    mark_process_dead(worker, folder)  # type: ignore[no-untyped-call]
    with suppress(OSError):
        _recent(folder, worker).unlink()
