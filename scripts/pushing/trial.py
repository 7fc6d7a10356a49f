"""The new version on a Triton of this machine, before anything is sent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from scripts.local.process import StartError, free_ports, wait_until
from scripts.local.triton import Triton, find_server
from scripts.pushing.errors import PushError
from scripts.pushing.replica import Replica
from scripts.pushing.source import Source

_START_SECONDS = 60.0
T = TypeVar("T")


def try_locally(source: Source, number: int, check: Callable[[Replica], T]) -> tuple[T | None, str | None]:
    """What `check` finds of a Triton that serves nothing but this version; or None, and why it could not be tried."""
    if source.config.platform == "ensemble":
        return None, "an ensemble is nothing without what it composes"
    with tempfile.TemporaryDirectory(prefix="push_models.") as folder:
        try:
            find_server(Path(folder, "triton"))
        except StartError as error:
            return None, str(error)
        with _triton(source, number, Path(folder)) as replica:
            return check(replica), None


@contextmanager
def _triton(source: Source, number: int, folder: Path) -> Iterator[Replica]:
    repository = folder / "models"
    for path, file in source.upload(True, number).items():
        link = repository / source.model / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.absolute())
    triton = Triton(free_ports(3), folder / "triton", repository, models=())
    replica = Replica("the local Triton", triton.grpc_url)
    try:
        triton.start()
        assert triton.process is not None
        wait_until(replica.is_live, triton.process, _START_SECONDS)
        yield replica
    except StartError as error:
        raise PushError(f"the local Triton does not start: {str(error).splitlines()[-1]}") from None
    finally:
        replica.close()
        triton.stop()
