"""The new version on a Triton of this machine, before anything is sent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from scripts.local.process import StartError, free_ports, wait_until
from scripts.local.triton import Triton, find_server
from scripts.pushing.errors import PushError
from scripts.pushing.promote import remove
from scripts.pushing.replica import Replica, shorten
from scripts.pushing.source import CONFIG, Source

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
        repository = link_model(source, number, Path(folder, "models"))
        with running(repository, Path(folder, "triton")) as replica:
            found = check(replica)
            remove(replica, source.model)  # it ends sooner without
            return found, None


def link_model(source: Source, number: int, repository: Path) -> Path:
    """A repository that holds this version, by links, under the config that it will be served by."""
    for path, file in source.upload(True, number).items():
        link = repository / source.model / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if path == CONFIG:
            link.write_text(text_format.MessageToString(_anywhere(source.config)), encoding="utf-8")
        else:
            link.symlink_to(file.absolute())
    return repository


def _anywhere(config: ModelConfig) -> ModelConfig:
    """On the GPUs that this machine has, or on none."""
    here = ModelConfig()
    here.CopyFrom(config)
    for group in here.instance_group:
        if group.kind == ModelInstanceGroup.KIND_GPU:
            group.kind = ModelInstanceGroup.KIND_AUTO
            group.ClearField("gpus")
    return here


@contextmanager
def running(repository: Path, folder: Path) -> Iterator[Replica]:
    """A Triton without models. Raises PushError: it does not start."""
    try:
        triton = _start(repository, folder)
    except StartError:  # somebody else may have taken a port just before
        try:
            triton = _start(repository, folder)
        except StartError as error:
            raise PushError(f"the local Triton does not start: {shorten(str(error))}") from None
    replica = Replica("the local Triton", triton.grpc_url)
    try:
        yield replica
    finally:
        replica.close()
        triton.stop()


def _start(repository: Path, folder: Path) -> Triton:
    triton = Triton(free_ports(3), folder, repository, models=())
    replica = Replica("the local Triton", triton.grpc_url)
    try:
        triton.start()
        assert triton.process is not None
        wait_until(replica.is_live, triton.process, _START_SECONDS)
    except BaseException:
        triton.stop()
        raise
    finally:
        replica.close()
    return triton
