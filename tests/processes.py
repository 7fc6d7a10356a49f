"""Processes of others: found in /proc, and stopped for a while."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """While it does nothing; of a gateway's workers the others answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def stubs_of(triton_pid: int, model: str) -> list[int]:
    """The Python stubs that serve `model` for one tritonserver."""
    return [pid for pid in _children(triton_pid) if f"/{model}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def commands(mark: str) -> dict[int, list[str]]:
    """The command lines, by pid, of all processes that mention `mark`."""
    found = {}
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended meanwhile
        if any(mark in word for word in words):
            found[int(cmdline.parent.name)] = words
    return found
