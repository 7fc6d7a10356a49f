"""The configuration file is read again on SIGHUP and when it changes; a wrong one is refused, and the old one stays.

Kubernetes changes a mounted file by swapping a symbolic link, editors by renaming or by writing in place: the bytes are
compared, which sees them all. A change in place is taken once two looks have found the same bytes.
"""

import asyncio
import hashlib
import logging
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gateway.auth import KEYS_FILE, Access, load_keys
from gateway.config import ConfigError, load_config
from gateway.state import State

LOOK_SECONDS = 1.0
_MOST_BYTES = 16 * 1024 * 1024  # of one file; a larger one is no configuration
_log = logging.getLogger(__name__)


async def watch_files(state: State, path: Path, access: Access) -> None:
    """Keeps `state` at what the file says, and `access` at the client keys; never returns."""
    asked = asyncio.Event()
    with suppress(ValueError, RuntimeError):  # only a program's main thread is told of signals
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    loaded = seen = await asyncio.to_thread(fingerprints, _files(state, path))
    while True:
        try:
            await asyncio.wait_for(asked.wait(), LOOK_SECONDS)
        except TimeoutError:
            pass
        before, seen = seen, await asyncio.to_thread(fingerprints, _files(state, path))
        changed = any(loaded.get(file, found) != found for file, found in seen.items())
        # A refused one is tried again each time: what it lacks may be a file that comes later.
        if asked.is_set() or state.faults or (changed and seen == before):
            asked.clear()
            loaded = seen
            await reload(state, path, access)


async def reload(state: State, path: Path, access: Access) -> None:
    """Reads file and keys; they are in force at once and together, or every fault is logged, once."""
    try:
        config = await asyncio.to_thread(load_config, path)
        keys = await asyncio.to_thread(load_keys)
    except ConfigError as error:
        if error.faults != state.faults:
            state.faults = error.faults
            state.reloads["refused"] += 1
            _log.error("configuration refused, the one before stays", extra={"fields": {"faults": error.faults}})
        return
    access.keys = keys
    state.adopt(config)
    state.faults = []
    state.reloads["adopted"] += 1
    _log.info("configuration adopted", extra={"fields": {"warnings": list(config.warnings)}})


def _files(state: State, path: Path) -> list[Path]:
    client_keys = os.environ.get(KEYS_FILE)
    return [path, *state.config.key_files, *([Path(client_keys)] if client_keys else [])]


def fingerprints(files: Iterable[Path]) -> dict[Path, bytes]:
    """A hash of each file's bytes; one that can't be read has its error's."""
    return {path: _fingerprint(path) for path in files}


def _fingerprint(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_MOST_BYTES)).digest()
    except OSError as error:
        return str(error.errno).encode()
