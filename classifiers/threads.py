"""How many threads a model may use: what its container was given, not what the host has."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
# Rounds of waiting before a thread of GNU OpenMP sleeps: about a millisecond, longer than what lies between operators
# of a network. Its own 300,000 keep a core from the server, and so from the next prompt, long after an answer.
_SPINS = "20000"


def limit_threads() -> int:
    """Holds torch and the tokenizers of this process to `usable_cpus`, or to OMP_NUM_THREADS where that is a number.

    Threads of torch with nothing to do sleep soon, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT says otherwise.

    Returns the number of threads. To be called before a tokenizer is used, and before torch is imported, whose OpenMP
    then reads the environment: after it only the number of threads counts.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # OpenMP takes a list, for nested threads
    threads = int(given) if given.isascii() and given.isdigit() and int(given) else usable_cpus()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if "torch" in sys.modules:  # it has read the variable already
        sys.modules["torch"].set_num_threads(threads)
    return threads


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """The CPUs that this process may run on, or its cgroup's quota of them, rounded up, where that is less.

    Libraries that start a thread for each of the host's cores are throttled by the quota, all threads at once.
    `cgroup`: where the control group's files are, of version 2 (cpu.max) or 1 (cpu/cpu.cfs_quota_us).
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """In CPUs; None when there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        microseconds = int(quota)
    except ValueError:  # "max"
        return None
    return microseconds / int(period) if microseconds > 0 else None
