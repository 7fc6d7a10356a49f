"""What went wrong, in one line: what, where from, and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from scripts.fetching.manifest import Repository


class FetchError(Exception):
    """One line for the person who ran the command."""


def explain_hub(error: Exception, repository: Repository, file: str) -> str:
    """What a failure of the hub's client means."""
    what = f"{file} of {repository.name} at revision {repository.revision}"
    hub = constants.ENDPOINT
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{what} is not in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE is set: unset it, "
            "or bring a copy with --from DIR"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{hub} knows no revision {repository.revision} of {repository.name}: update this project, which pins it"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"{hub} has no {what}: check HF_ENDPOINT, or bring a copy with --from DIR"
    if isinstance(error, HfHubHTTPError):
        return explain_status(error, hub, repository)
    if isinstance(error, FileMetadataError):
        return f"{hub} does not answer as a hub does ({error}): check HF_ENDPOINT and any proxy"
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return f"cannot reach {hub} ({error}): check network, proxy and HF_ENDPOINT, or bring a copy with --from DIR"
    return f"the connection to {hub} broke while {file} was fetched ({type(error).__name__}): run the command again"


def explain_status(error: HfHubHTTPError, hub: str, repository: Repository) -> str:
    status = error.response.status_code
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return f"{hub} refuses {repository.name} (HTTP {status}): set HF_TOKEN to a token that may read it"
    if status == 429 or status >= 500:
        return f"{hub} cannot answer now (HTTP {status}): run the command again later"
    return f"{hub} answers HTTP {status} for {repository.name}: check HF_ENDPOINT and any proxy"


def explain_disk(error: OSError, folder: Path) -> str:
    """What a failure of the file system means."""
    path = error.filename or folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {folder} is full: free some space and run the command again, or choose --into DIR"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {path}: run the command as a user who has it, or choose --into DIR"
    reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
    return f"cannot write {path} ({reason}): choose another folder with --into DIR"
