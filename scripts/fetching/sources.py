"""Where a file comes from: the hub (or its cache on this machine), or a folder laid out like the hub's.

Each function puts one file into the staging folder and returns what it should be.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import HfFileMetadata
from tqdm import tqdm

from scripts.fetching.errors import FetchError, explain_hub
from scripts.fetching.manifest import File, Model, Repository
from scripts.fetching.record import Expected, as_digest, fault, read_record


def at_commit(repository: Repository) -> Repository:
    """The repository at the commit that its branch has now: files of different commits need not fit together.

    Offline the branch stays: the cache knows one commit of it.
    """
    if repository.is_pinned or constants.is_offline_mode():
        return repository
    commit = hub_metadata(repository, next(iter(repository.files))).commit_hash
    return replace(repository, revision=commit) if commit else repository


def bring_from_hub(file: File, staging: Path) -> Expected:
    """A commit never changes: what the cache holds of it needs no network, unless it is damaged."""
    repository = file.repository
    staged = staging / repository.into / file.path
    cached = try_to_load_from_cache(repository.name, file.path, revision=repository.revision, repo_type=repository.kind)
    if isinstance(cached, str) and not fault(Path(cached), expected_of_copy(Path(cached))):
        copy(Path(cached), staged)
        return expected_of_copy(Path(cached))
    metadata = hub_metadata(repository, file.path)
    expected = Expected(metadata.size, as_digest(metadata.etag))
    if expected.digest is None or fault(staged, expected):
        staged.unlink(missing_ok=True)
        check_space(staging, metadata.size or 0)
        download(file, staging)
    return expected


def hub_metadata(repository: Repository, path: str) -> HfFileMetadata:
    """What the hub says of a file."""
    url = hf_hub_url(repository.name, path, repo_type=repository.kind, revision=repository.revision)
    with hub_explained(repository, path):
        return get_hf_file_metadata(url)


def download(file: File, staging: Path) -> None:
    """Takes up a broken connection where it broke (the hub's client does)."""
    repository = file.repository
    with hub_explained(repository, file.path):
        hf_hub_download(
            repository.name,
            file.path,
            repo_type=repository.kind,
            revision=repository.revision,
            local_dir=staging / repository.into,
            force_download=True,  # else it would take a damaged file of the cache after all
        )


@contextmanager
def hub_explained(repository: Repository, path: str) -> Iterator[None]:
    """Turns what the hub's client raises into a FetchError."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and not isinstance(error, HfHubHTTPError | OfflineModeIsEnabled):
            raise  # the file system's, not the hub's
        raise FetchError(explain_hub(error, repository, path)) from error
    except (httpx2.HTTPError, RuntimeError) as error:
        raise FetchError(explain_hub(error, repository, path)) from error


def check_source(model: Model, source: Path) -> None:
    """Raises FetchError unless the folder holds this model's files, of no other revision as far as it says."""
    missing = [name for name in model.files if not (source / name).is_file()]
    if missing:
        raise FetchError(
            f"{source} holds no {', '.join(missing)}: --from wants a folder laid out like models/{model.folder}"
        )
    record = read_record(source)
    if record and not record.is_of(model):
        raise FetchError(
            f"{source} holds {at_revisions(record.revisions)}: "
            f"bring a copy of {at_revisions({each.name: each.revision for each in model.repositories})}"
        )


def at_revisions(revisions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} at revision {revision}" for name, revision in revisions.items())


def bring_from_folder(name: str, staging: Path, source: Path) -> Expected:
    """Checked against the folder's fetched.json, if it has one, else against the names of the hub's cache."""
    copy(source / name, staging / name)
    record = read_record(source)
    held = record.files.get(name) if record else None
    return Expected(held.size, held.sha256) if held else expected_of_copy(source / name)


def expected_of_copy(path: Path) -> Expected:
    """In the hub's cache a file is a link to one whose name is its digest."""
    return Expected(path.stat().st_size, as_digest(path.resolve().name))


def copy(original: Path, target: Path) -> None:
    size = original.stat().st_size
    check_space(target.parent, size)
    target.unlink(missing_ok=True)
    with original.open("rb") as file, target.open("wb") as written:
        # No bar where nobody looks: disable=None means only on a terminal.
        with tqdm.wrapattr(file, "read", total=size, desc=original.name, disable=None) as reader:
            shutil.copyfileobj(reader, written, 1 << 20)


def check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise FetchError(
            f"the disk that holds {folder.parent} is full: {size:,} bytes are needed and {free:,} are free; "
            "free some, or choose --into DIR"
        )
