"""How many threads a model may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from classifiers.threads import limit_threads, usable_cpus

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, ALLOWED),
        ({"cpu.max": "max 100000\n"}, ALLOWED),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, min(2, ALLOWED)),
        ({"cpu.max": "6400000 100000\n"}, min(64, ALLOWED)),
        ({"cpu.max": "what is this\n"}, ALLOWED),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALLOWED),
        ({"cpu/cpu.cfs_quota_us": "90000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_the_container_counts(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    """A quota below the machine's cores bounds the threads, in both versions of control groups; no quota does not."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("5,2", 5), ("", None), ("many", None), ("0", None)])
def test_a_number_of_threads_may_be_given(monkeypatch: pytest.MonkeyPatch, given: str, threads: int | None) -> None:
    """OMP_NUM_THREADS counts, the first of a list, and what is no number does not stop a model from loading."""
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    before = torch.get_num_threads()
    try:
        assert limit_threads() == (threads or usable_cpus())
        assert torch.get_num_threads() == (threads or usable_cpus())
    finally:
        torch.set_num_threads(before)


def test_affinity_counts(tmp_path: Path) -> None:
    """A process that is held on one core uses one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_idle_threads_sleep_soon(given: dict[str, str], spins: str) -> None:
    """The OpenMP that torch loads after it says for how long its threads wait, and what is given stays."""
    code = "from classifiers.threads import limit_threads; limit_threads(); import torch"
    # Of the variables that it would read, only those given.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environ |= given | {"OMP_DISPLAY_ENV": "verbose"}
    shown = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True).stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in shown
