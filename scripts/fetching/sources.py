"""Where a file comes from: the hub (or its cache on this machine), or a folder laid out like the hub's.

Each function puts one file into the staging folder and returns what it should be.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx2
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from tqdm import tqdm

from scripts.fetching.errors import FetchError, explain_hub
from scripts.fetching.manifest import Model
from scripts.fetching.record import Expected, as_digest, fault, read_record


def bring_from_hub(model: Model, name: str, staging: Path) -> Expected:
    """A revision never changes: what the cache holds of it needs no network, unless it is damaged."""
    cached = try_to_load_from_cache(model.repository, name, revision=model.revision)
    if isinstance(cached, str) and not fault(Path(cached), expected_of_copy(Path(cached))):
        copy(Path(cached), staging / name)
        return expected_of_copy(Path(cached))
    try:
        return download(model, name, staging)
    except OSError as error:
        if error.errno is not None and not isinstance(error, HfHubHTTPError | OfflineModeIsEnabled):
            raise  # the file system's, not the hub's
        raise FetchError(explain_hub(error, model, name)) from error
    except (httpx2.HTTPError, RuntimeError) as error:
        raise FetchError(explain_hub(error, model, name)) from error


def download(model: Model, name: str, staging: Path) -> Expected:
    """Takes up a broken connection where it broke (the hub's client does), and keeps what an earlier run finished."""
    metadata = get_hf_file_metadata(hf_hub_url(model.repository, name, revision=model.revision))
    expected = Expected(metadata.size, as_digest(metadata.etag))
    staged = staging / name
    if expected.digest is None or fault(staged, expected):
        staged.unlink(missing_ok=True)
        check_space(staging, metadata.size or 0)
        # Forced: else it would take a damaged file of the cache after all.
        hf_hub_download(model.repository, name, revision=model.revision, local_dir=staging, force_download=True)
    return expected


def check_source(model: Model, source: Path) -> None:
    """Raises FetchError unless the folder holds this model's files, of no other revision as far as it says."""
    missing = [name for name in model.files if not (source / name).is_file()]
    if missing:
        raise FetchError(
            f"{source} holds no {', '.join(missing)}: --from wants a folder laid out like {model.repository}"
        )
    record = read_record(source)
    if record and not record.is_of(model):
        raise FetchError(
            f"{source} holds {record.repository} at revision {record.revision}: "
            f"bring a copy of {model.repository} at revision {model.revision}"
        )


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
