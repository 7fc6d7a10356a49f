"""Several processes on the same sockets: started, replaced when they die, and ended together."""

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from gateway.observe import shared
from gateway.server import close

RESTART_SECONDS = 1.0
"""Between two starts of one worker, at least: one that cannot start is tried again, and costs little."""

_LOOK_SECONDS = 0.2
_ENDED_WELL = (0, -signal.SIGTERM)  # uvicorn ends by the signal that ended it
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_log = logging.getLogger(__name__)


def supervise(count: int, work: Callable[..., None], options: object, sockets: list[socket.socket]) -> bool:
    """Run `work(options, sockets)` in `count` processes until told to end; False when one of them then failed.

    SIGTERM, SIGINT and SIGHUP go on to all of them; after one of the first two none is replaced any more, and the
    sockets are closed here. What the workers count is summed (`observe.shared`), and stays when one is replaced.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as folder:
        return _Supervisor(count, folder, work, options, sockets).run()


class _Supervisor:
    def __init__(
        self, count: int, folder: str, work: Callable[..., None], options: object, sockets: list[socket.socket]
    ) -> None:
        self._folder = folder
        self._work = work
        self._options = options
        self._sockets = sockets
        self._starts = dict.fromkeys(range(count), 0.0)
        """When each worker may be started."""
        self._running: dict[int, BaseProcess] = {}
        self._signals: list[int] = []
        self._ending = False
        self._failed = False

    def run(self) -> bool:
        for number in _SIGNALS:
            signal.signal(number, self._note)
        while self._running or not self._ending:
            self._start_due()
            self._pass_signals_on()
            wait([process.sentinel for process in self._running.values()], _LOOK_SECONDS)
            self._bury()
        return not self._failed

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [] if self._ending else [worker for worker, at in self._starts.items() if at <= now]
        for worker in due:
            # Not forked: neither gRPC nor a running event loop outlives that.
            process = multiprocessing.get_context("spawn").Process(
                target=_work,
                args=(worker, self._folder, self._work, self._options, self._sockets),
                name=f"gateway-worker-{worker}",
            )
            try:
                process.start()
            except OSError as error:  # no memory or no more processes for the moment
                _log.error("a worker cannot be started", extra={"fields": {"worker": worker, "error": str(error)}})
                self._starts[worker] = now + RESTART_SECONDS
                continue
            self._running[worker] = process
            del self._starts[worker]

    def _pass_signals_on(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number != signal.SIGHUP and not self._ending:
                self._ending = True
                close(self._sockets)  # else the kernel would go on accepting after all workers have stopped to
            for process in self._running.values():
                assert process.pid is not None  # started
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _bury(self) -> None:
        for worker, process in list(self._running.items()):
            if process.exitcode is None:
                continue
            process.join()
            del self._running[worker]
            shared.forget_state(self._folder, worker)
            if self._ending:
                self._failed = self._failed or process.exitcode not in _ENDED_WELL
            else:
                _log.error("a worker died", extra={"fields": {"worker": worker, "exit_code": process.exitcode}})
                self._starts[worker] = time.monotonic() + RESTART_SECONDS


def _work(worker: int, folder: str, work: Callable[..., None], options: object, sockets: list[socket.socket]) -> None:
    """What a worker process runs."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is there to read its files anew
    os.setpgrp()  # a terminal's Ctrl-C reaches the supervisor alone, which passes it on once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    shared.share(folder, worker)
    work(options, sockets)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
