"""What can be wrong with a checkpoint folder, as functions that do it to one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], object]


def remove(name: str) -> Damage:
    """A file is missing."""
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Damage:
    """Of a file only the first `size` bytes are there; or, if negative, the last are missing."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name: str, text: str) -> Damage:
    """A file says something else."""
    return lambda folder: (folder / name).write_text(text)


def edit_json(name: str, **changes: Any) -> Damage:
    """Keys of a JSON file have other values."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        write(name, json.dumps(content | changes))(folder)

    return edit


def set_tensor(file: str, name: str, tensor: torch.Tensor | None) -> Damage:
    """A tensor of a safetensors file is another one, or, if None, missing."""

    def edit(folder: Path) -> None:
        weights = load_file(folder / file)
        weights.pop(name)
        save_file(weights if tensor is None else weights | {name: tensor}, folder / file)

    return edit
