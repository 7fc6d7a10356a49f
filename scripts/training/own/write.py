"""Writes a checkpoint of your own: a folder that holds everything, and takes its place all at once or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from classifiers.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from classifiers.network import PromptClassifier, load_network
from scripts.training.adapters import merge
from scripts.training.own.encoder import Encoder
from scripts.training.own.learn import Labels, head_slices, logits_of
from scripts.training.own.state import FOLDER

_WRITTEN = re.compile(
    r"config\.json|model\.safetensors|tokenizer\.json|tokenizer_config\.json|README\.md"
    r"|(confusion|reliability)-[a-z0-9_]+\.png|snapshot-[a-z0-9_]+\.json"
)
_COMPARED = 32  # texts
_SAME = 5e-3  # between logits computed in two ways in float32


class WriteError(Exception):
    """One line: why the folder can't be written, or what in it came out wrong; what was there is as it was."""


def require_replaceable(out: Path) -> None:
    """Raises WriteError unless the folder is missing, empty, begun by an earlier training, or a checkpoint that this
    command wrote, and holds nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise WriteError(f"{out}: is no folder")
    names = {path.name for path in out.iterdir()} - {FOLDER}
    if strange := sorted(name for name in names if not _WRITTEN.fullmatch(name)):
        raise WriteError(f"{out}: holds {strange[0]}, which is no part of a checkpoint; name another folder")
    if names and not _is_own(out):
        raise WriteError(f"{out}: holds something else than a checkpoint of your own; name another folder")


def _is_own(folder: Path) -> bool:
    try:
        return load_checkpoint(folder).is_own
    except CheckpointError:
        return False


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which takes its place when the block has ended well, and else is gone.

    A plain one, for others to read: Triton often runs as another user.

    Raises WriteError: meanwhile `out` holds something that is not to be replaced.
    """
    out = out.resolve()
    new, old = (out.with_name(f".{out.name}.{name}-{os.getpid()}") for name in ("new", "old"))
    new.mkdir()
    try:
        yield new
        require_replaceable(out)  # again: training takes its time, and somebody may have put something there
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            old.rename(out)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_checkpoint(
    folder: Path,
    name: str,
    encoder: Encoder,
    network: PromptClassifier,
    labels: Labels,
    temperatures: Mapping[str, float],
) -> Checkpoint:
    """Writes config, weights and tokenizer. The network's adapters become a part of its weights."""
    module: Any = network.encoder.get_submodule("module")
    merge(module)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in module.state_dict().items()}
    weight, bias = network.heads.weight.detach().cpu(), network.heads.bias.detach().cpu()
    for head, rows in zip(labels, head_slices(labels), strict=True):
        tensors |= {f"heads.{head}.weight": weight[rows].clone(), f"heads.{head}.bias": bias[rows].clone()}
    # Not save_file: the file would be readable by its owner alone.
    (folder / "model.safetensors").write_bytes(save(tensors))
    own = {
        "kind": "softmax",
        "name": name,
        "max_tokens": encoder.max_tokens,
        "heads": [
            {"name": head, "labels": list(names), "temperature": temperatures[head]} for head, names in labels.items()
        ],
    }
    config = json.dumps(module.config.to_diff_dict() | own, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if (encoder.folder / file).is_file():
            shutil.copyfile(encoder.folder / file, folder / file)
    return load_checkpoint(folder)


def load_written(
    checkpoint: Checkpoint, ids: Sequence[NDArray[np.int32]], expected: NDArray[np.float32], device: str
) -> PromptClassifier:
    """The network of the written folder, once it gives the logits that the trained one gave for these texts.

    Raises WriteError: it does not.
    """
    network = load_network(checkpoint, device)
    found = logits_of(network, ids[:_COMPARED])
    if not np.allclose(found, expected[:_COMPARED], atol=_SAME, rtol=_SAME):
        most = float(np.abs(found - expected[:_COMPARED]).max())
        raise WriteError(f"{checkpoint.folder}: its logits lie up to {most:.2g} off those of the network in memory")
    return network
