"""What processes of this machine cost: CPU time and memory, by process group."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SCHEDULER_CLOCK = 2  # CPUCLOCK_SCHED of Linux: a process's run time in nanoseconds, threads that ended included


@dataclass
class Spent:
    """CPU seconds of a process group within a `with` block; set when it ends."""

    cpu: float = 0.0


@dataclass(frozen=True)
class Memory:
    """In MiB. `pss` counts a page that n processes share as 1/n for each, `rss` in full for each."""

    pss: float
    rss: float


def group(leader: int) -> list[int]:
    """The processes of the group that `leader` leads: Triton with its stubs, a server with its workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == leader:
                found.append(int(path.name))
        except ProcessLookupError:
            continue  # it ended meanwhile
    return found


def cpu_seconds(leader: int) -> float:
    """User and system time of the group's processes so far."""
    return sum(time.clock_gettime(~pid << 3 | _SCHEDULER_CLOCK) for pid in group(leader))


def cpu_split(leader: int) -> tuple[float, float]:
    """User and system seconds of the group's processes so far, each counted in ticks of mostly 10 ms."""
    ticks = os.sysconf("SC_CLK_TCK")
    user = system = 0
    for pid in group(leader):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / ticks, system / ticks


@contextmanager
def spending(leader: int) -> Iterator[Spent]:
    """What the group spends meanwhile."""
    spent, before = Spent(), cpu_seconds(leader)
    yield spent
    spent.cpu = cpu_seconds(leader) - before


def memory(leader: int) -> Memory:
    """What the group holds now."""
    pss = rss = 0
    for pid in group(leader):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            pss += int(rest.split()[0]) if name == "Pss" else 0
            rss += int(rest.split()[0]) if name == "Rss" else 0
    return Memory(pss / 1024, rss / 1024)
