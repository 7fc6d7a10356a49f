"""Child processes that die with their parent and whose last log lines can be shown."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # Linux prctl(2)
_libc = ctypes.CDLL(None)


class StartError(Exception):
    """Something could not be started or never got ready; the message is for the person at the terminal."""


class Process:
    """A running child in a process group of its own; stdout and stderr go to `log`."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops everything in order
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._popen.poll()

    def last_lines(self, count: int = 20) -> str:
        """The end of what it printed."""
        with self.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16384))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])

    def stop(self, grace: float = 10.0) -> None:
        """SIGTERM to the group, SIGKILL after `grace` seconds. Safe to call twice."""
        self._signal(signal.SIGTERM)
        try:
            self._popen.wait(grace)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)  # also ends what an already dead leader left behind
        self._popen.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            pass


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_until(ready: Callable[[], bool], process: Process, seconds: float) -> None:
    """Poll `ready` until it holds.

    Raises StartError, with the process's last lines, when it ends first or `seconds` pass.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if process.exit_code is not None:
            raise StartError(f"{process.name} ended with code {process.exit_code}:\n{process.last_lines()}")
        if time.monotonic() > deadline:
            raise StartError(f"{process.name} was not ready after {seconds:.0f} s:\n{process.last_lines()}")
        time.sleep(0.1)


def require_free_port(host: str, port: int, owner: str) -> None:
    """Raises StartError when nothing can listen on `host`:`port`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"port {port} for {owner} cannot be used on {host}: {error.strerror}") from error


def free_port() -> int:
    """A port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
