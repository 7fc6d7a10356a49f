"""The configuration file is read again on SIGHUP and when it changes; a wrong one is refused, and the old one stays.

Kubernetes changes a mounted file by swapping a symbolic link, editors by renaming or by writing in place: the bytes are
compared, which sees them all. A change in place is taken once two looks have found the same bytes.
"""

import asyncio
import logging
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from gateway.auth import Access, load_keys
from gateway.config import ConfigError, load_config
from gateway.files import fingerprint
from gateway.state import State

LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


async def watch_files(state: State, path: Path, access: Access) -> None:
    """Keeps `state` at what the file says, and `access` at the client keys; never returns."""
    asked = asyncio.Event()
    with suppress(ValueError, RuntimeError):  # only a program's main thread is told of signals
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    seen: Mapping[Path, bytes] = {}
    while True:
        try:
            await asyncio.wait_for(asked.wait(), LOOK_SECONDS)
        except TimeoutError:
            pass
        wanted = asked.is_set()
        asked.clear()
        try:
            read = {**state.config.files, **(access.keys.files if access.keys else {})}
            before, seen = seen, await asyncio.to_thread(fingerprints, tuple(read))
            # A refused one is tried again each time: what it lacks may be a file that comes later.
            if wanted or state.faults or (seen != read and seen == before):
                await reload(state, path, access)
        except Exception:  # nothing that happens beside the requests may end them
            _log.exception("the configuration could not be looked at")


async def reload(state: State, path: Path, access: Access) -> None:
    """Reads keys and file, and adopts each by itself: a key that was taken back is out whatever the file holds.

    Every fault is logged, once.
    """
    faults: list[str] = []
    try:
        access.keys = await asyncio.to_thread(load_keys)
    except ConfigError as error:
        faults += error.faults
    try:
        config = await asyncio.to_thread(load_config, path)
        state.adopt(config)
    except ConfigError as error:
        faults += error.faults
    if faults:
        if faults != state.faults:
            state.faults = faults
            state.reloads["refused"] += 1
            _log.error("configuration refused, the one before stays", extra={"fields": {"faults": faults}})
        return
    state.faults = []
    state.reloads["adopted"] += 1
    _log.info("configuration adopted", extra={"fields": {"warnings": list(config.warnings)}})


def fingerprints(files: Iterable[Path]) -> dict[Path, bytes]:
    """Of each file, as it is now."""
    return {file: fingerprint(file) for file in files}
