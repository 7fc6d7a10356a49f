"""The configuration file is read again on SIGHUP and when it changes; a wrong one is refused, and the old one stays.

Kubernetes changes a mounted file by swapping a symbolic link, editors by renaming or by writing in place: the bytes are
compared, which sees them all. A change in place is taken once two looks have found the same bytes.
"""

import asyncio
import hashlib
import logging
import signal
from collections.abc import Iterable
from pathlib import Path

from gateway.config import ConfigError, load_config
from gateway.state import State

LOOK_SECONDS = 1.0
_MOST_BYTES = 16 * 1024 * 1024  # of one file; a larger one is no configuration
_log = logging.getLogger(__name__)


async def watch_files(state: State, path: Path) -> None:
    """Keeps `state` at what the file says; never returns."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    loaded = seen = await asyncio.to_thread(fingerprint, [path, *state.config.key_files])
    while True:
        try:
            await asyncio.wait_for(asked.wait(), LOOK_SECONDS)
        except TimeoutError:
            pass
        before, seen = seen, await asyncio.to_thread(fingerprint, [path, *state.config.key_files])
        if asked.is_set() or (seen != loaded and seen == before):
            asked.clear()
            await reload(state, path)
            loaded = seen = await asyncio.to_thread(fingerprint, [path, *state.config.key_files])


async def reload(state: State, path: Path) -> None:
    """Reads the file; it is in force at once, or every fault is logged."""
    try:
        config = await asyncio.to_thread(load_config, path)
    except ConfigError as error:
        state.reloads["refused"] += 1
        state.file_is_in_force = False
        _log.error("configuration refused, the one before stays", extra={"fields": {"faults": error.faults}})
        return
    state.adopt(config)
    state.reloads["adopted"] += 1
    state.file_is_in_force = True
    _log.info("configuration adopted", extra={"fields": {"warnings": list(config.warnings)}})


def fingerprint(files: Iterable[Path]) -> bytes:
    """A hash of the files' bytes; one that can't be read counts as such."""
    hashed = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                hashed.update(hashlib.sha256(file.read(_MOST_BYTES)).digest())
        except OSError as error:
            hashed.update(repr(error.errno).encode())
    return hashed.digest()
