"""Model repositories for tests, made of the project's own."""

import shutil
from pathlib import Path

from scripts.local.triton import ROOT


def copy_repository(folder: Path) -> Path:
    """The project's model repository under `folder`."""
    shutil.copytree(ROOT / "model_repository", folder)
    return folder


def repository_with_renamed_ensemble(folder: Path) -> Path:
    """The project's repository and `renamed_ensemble`: the task ensemble under a name unknown to the gateway."""
    copy_repository(folder)
    shutil.copytree(folder / "task_router_ensemble", folder / "renamed_ensemble")
    config = folder / "renamed_ensemble" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "task_router_ensemble"', 'name: "renamed_ensemble"'))
    return folder
