"""Child processes that die with their parent and whose last log lines can be shown."""

import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1  # Linux prctl(2)
_libc = ctypes.CDLL(None)
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class StartError(Exception):
    """Something could not be started or never got ready; the message is for the person at the terminal."""


class Process:
    """A running child in a process group of its own; stdout and stderr go to `log`."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():  # the one before may hold the reason for this one
            log.replace(log.with_suffix(".previous.log"))
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
        require_running([process])
        if time.monotonic() > deadline:
            raise StartError(f"{process.name} was not ready after {seconds:.0f} s:\n{process.last_lines()}")
        time.sleep(0.1)


def require_running(processes: Iterable[Process]) -> None:
    """Raises StartError, with its last lines, when one of them has ended."""
    for process in processes:
        if process.exit_code is not None:
            raise StartError(f"{process.name} ended with code {process.exit_code}:\n{process.last_lines()}")


def require_free_port(host: str, port: int, owner: str) -> None:
    """Raises StartError when nothing can listen on `host`:`port`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"port {port} for {owner} cannot be used on {host}: {error.strerror}") from error


def fetch(url: str, seconds: float, body: bytes | None = None) -> bytes | None:
    """The body of a 200 from a server of this machine, posting `body` if given; None for anything else."""
    status, answer = ask(url, seconds, body)
    return answer if status == 200 else None


def ask(url: str, seconds: float, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of an answer, without the proxy that the environment may name; 0 and nothing without one."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with _opener.open(request, timeout=seconds) as response:
            return response.status, bytes(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def lock_folder(folder: Path) -> IO[bytes]:
    """Keep others out of `folder` until the returned file is closed. Raises StartError when somebody is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StartError(f"{folder} is in use by another serve; choose another folder with --state") from None
    return lock


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that were free a moment ago.

    Below those that the kernel gives to clients: a server that takes its time to listen keeps its port, also when it is
    started again.
    """
    while True:
        first = random.randrange(15_000, 32_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


def free_port() -> int:
    """A port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
