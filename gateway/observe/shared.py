"""Metrics of several processes in one sum: prometheus_client's multiprocess mode."""

import os
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
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


def forget_state(folder: str, worker: int) -> None:
    """The gauges of a worker that is no more; what it counted stays."""
    mark_process_dead(worker, folder)  # type: ignore[no-untyped-call]
