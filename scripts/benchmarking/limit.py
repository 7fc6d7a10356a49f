"""The limit: the served network in one plain Python process, with nothing around it.

Run as a module it is that process: the checkpoint's folder is its argument, it reads a JSON object a line and answers
with one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scripts.local.process import StartError
from scripts.local.triton import ROOT

Way = Literal["alone", "batches", "sorted"]
WAYS: tuple[Way, ...] = ("alone", "batches", "sorted")
"""One prompt a call; 64 as they come; 64 of similar length."""
_BATCH = 64


class Limit:
    """The process's other end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        started = self._read()
        self.threads = int(started["threads"])
        self.precision = str(started["precision"])

    def forward(self, rows: Sequence[Sequence[int]], way: Way) -> list[float]:
        """Milliseconds of each call for these token ids; tokenising is no part of it."""
        assert self._process.stdin is not None
        print(json.dumps({"rows": rows, "way": way}), file=self._process.stdin, flush=True)
        return [float(each) for each in self._read()["milliseconds"]]

    def rate(self, rows: Sequence[Sequence[int]], way: Way) -> float:
        """Prompts per second."""
        return len(rows) / (sum(self.forward(rows, way)) / 1000)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise StartError("the process that measures the limit has ended; its reason stands above")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def limit(checkpoint: Path) -> Iterator[Limit]:
    """Started, with the network loaded. Raises StartError."""
    command = [sys.executable, "-P", "-m", __name__, str(checkpoint)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Limit(process)
    finally:
        process.kill()
        process.communicate()


def groups(rows: Sequence[Sequence[int]], way: Way) -> list[Sequence[Sequence[int]]]:
    """The rows that go into each call."""
    size = 1 if way == "alone" else _BATCH
    ordered = sorted(rows, key=len) if way == "sorted" else rows
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def main() -> None:
    """Answer until stdin ends."""
    import torch

    from classifiers.checkpoint import load_checkpoint
    from classifiers.network import load_network
    from classifiers.precision import choose_precision

    checkpoint = load_checkpoint(Path(sys.argv[1]))
    precision = choose_precision(checkpoint.folder, "cpu", os.environ)  # as it is served
    network = load_network(checkpoint, dtype=precision)
    print(json.dumps({"threads": torch.get_num_threads(), "precision": str(precision)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        milliseconds = []
        for group in groups(asked["rows"], asked["way"]):
            batch = [np.array([row], dtype=np.int32) for row in group]
            start = time.perf_counter()
            network.classify(batch)
            milliseconds.append((time.perf_counter() - start) * 1000)
        print(json.dumps({"milliseconds": milliseconds}), flush=True)


if __name__ == "__main__":
    main()
