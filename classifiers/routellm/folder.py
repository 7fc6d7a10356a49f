"""A router's folder: where it is, and which files stand behind its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from classifiers.checkpoint import CheckpointError, shipped_folder

_FETCH = "scripts/fetch_models fetches the published checkpoints"


def folder_from(environ: Mapping[str, str], variable: str, version: Path | None = None) -> Path:
    """The folder that came with the model's `version` folder, else the one that the environment variable names.

    Raises CheckpointError: the variable is needed, and unset or empty.
    """
    if shipped := shipped_folder(version):
        return shipped
    folder = environ.get(variable)
    if not folder:
        raise CheckpointError(f"{variable} is unset and should be the checkpoint's folder; {_FETCH}")
    return Path(folder)


def expect_files(files: Iterable[Path]) -> None:
    """Raises CheckpointError naming the first that is missing."""
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {_FETCH}")


def files_digest(files: Iterable[Path]) -> str:
    """The first 12 hex digits of the SHA-256 over the files' own SHA-256s, in the order given.

    It reads every byte: a GB takes about a second, once, when a router is loaded.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
