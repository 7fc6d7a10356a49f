"""Models come into a repository whole: made in a hidden folder of it, which Triton does not look at, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from classifiers.checkpoint import SHIPPED
from scripts.adding.errors import AddError, PlaceError
from scripts.adding.models import ADAPTER, CONFIG, classifier_name, ours

_PREFIX = ".add_policy-"


def require_free(repository: Path, name: str, models: Mapping[str, object]) -> None:
    """Raises AddError when a model is there already, or one of this project's own, with which scripts/serve takes no
    repository."""
    classifier = classifier_name(name)
    if mixed := sorted(model for model in ours() if (repository / model / CONFIG).exists()):
        raise AddError(f"{repository} holds {mixed[0]}, which is this project's own: name a folder for yours alone")
    there = [model for model in models if (repository / model).exists() or (repository / model).is_symlink()]
    if there:
        raise AddError(
            *(f"{repository / model} is there already" for model in there),
            f"scripts/push_models brings a new version of a checkpoint: DIR --model {classifier}",
        )


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A hidden folder in the repository, gone in the end, and the repository too where it was made for nothing.

    Raises PlaceError: it can't be written.
    """
    missing = [folder for folder in (repository, *repository.parents) if not folder.exists()]
    try:
        repository.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=repository))
    except OSError as error:
        raise PlaceError(f"{repository}: can't be written ({error.strerror})") from None
    try:
        yield stage
    finally:
        shutil.rmtree(stage)
        for folder in missing:  # the deepest first
            if any(folder.iterdir()):
                break
            folder.rmdir()


def write_models(stage: Path, name: str, models: Mapping[str, Mapping[str, str]], checkpoint: Path) -> None:
    """The models' folders under `stage`, the checkpoint's files in the classifier's version."""
    for model, files in models.items():
        for path, text in files.items():
            file = stage / model / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")
    version = stage / classifier_name(name) / "1"
    version.mkdir()
    shutil.copyfile(ADAPTER, version / "model.py")
    shutil.copytree(
        checkpoint, version / SHIPPED, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns(".*", "__pycache__")
    )


@contextmanager
def copied(files: Mapping[Path, Path]) -> Iterator[None]:
    """A copy of each file under another name; `files` by those names. They go again when what follows fails.

    Raises AddError: something is there already; PlaceError: it can't be written.
    """
    done: list[Path] = []
    try:
        for target, source in files.items():
            if target.exists() or target.is_symlink():
                raise AddError(f"{target} is there already")
            try:
                shutil.copyfile(source, target)
            except OSError as error:
                raise PlaceError(f"{target}: can't be written ({error.strerror})") from None
            done.append(target)
        yield
    except BaseException:
        for target in done:
            target.unlink()
        raise


def put(stage: Path, repository: Path, models: Mapping[str, object], then: Callable[[], None]) -> None:
    """Renames the models into place and does `then`; all of it, or nothing.

    Raises PlaceError: a model can't be put there; and what `then` raises.
    """
    for cache in list(stage.rglob("__pycache__")):  # of a Triton that tried them
        shutil.rmtree(cache)
    placed = []
    try:
        for model in models:  # the classifier before what is made of it
            (stage / model).rename(repository / model)
            placed.append(model)
        then()
    except BaseException as error:
        for model in reversed(placed):
            (repository / model).rename(stage / model)
        if isinstance(error, OSError):
            raise PlaceError(f"{repository}: can't be written ({error.strerror})") from None
        raise
