"""What the two routers that are transformers share: reading a config, a tokenizer and weights, each checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from classifiers.checkpoint import CheckpointError, check_shapes
from classifiers.routellm.folder import expect_files

_Model = TypeVar("_Model", bound=PreTrainedModel)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises CheckpointError: it is missing, or holds something else.
    """
    expect_files([file])
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return content


def read_config(folder: Path, config_class: type[PretrainedConfig]) -> PretrainedConfig:
    """The folder's config.json, of whichever version of transformers.

    Raises CheckpointError: it is missing, no JSON, of another architecture, or has a value of the wrong type.
    """
    file = folder / "config.json"
    content = read_json(file)
    if content.get("model_type") != config_class.model_type:
        raise CheckpointError(
            f"{file}: 'model_type' should be {config_class.model_type!r}, and is {content.get('model_type')!r}"
        )
    try:
        return config_class.from_dict(content)
    except Exception as error:  # transformers raises its own kinds for a value of the wrong type
        raise CheckpointError(f"{file}: {_one_line(error)}") from None


def load_tokenizer(file: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer of a tokenizer.json; it neither cuts nor pads.

    Raises CheckpointError: the file is missing or unreadable, or has ids beyond the network's `vocabulary`.
    """
    expect_files([file])
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing narrower
        raise CheckpointError(f"{file}: not a tokenizer.json ({_one_line(error)})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= vocabulary:  # on a GPU an id without a row ends every later request too
        raise CheckpointError(f"{file}: has token ids up to {largest}, and the network only {vocabulary} of them")
    return tokenizer


def load_network(
    folder: Path, model_class: type[_Model], config: PretrainedConfig, dtype: torch.dtype, device: str
) -> tuple[_Model, list[Path]]:
    """The network in `dtype` on `device`, ready to score, and the weights files it came from.

    Raises CheckpointError: the config describes no network, or a file is missing, truncated or corrupt, or a tensor is
    missing, unexpected, of the wrong shape or not finite. Shapes are checked before the network takes memory.
    """
    try:
        with torch.device("meta"):
            expected = model_class(config).state_dict()
    except Exception as error:  # sizes that fit no network fail anywhere in its construction
        raise CheckpointError(f"{folder / 'config.json'}: describes no network ({_one_line(error)})") from None
    files = check_weights(folder, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    # Every value is filled in from the files below, so drawing random ones first would only cost time.
    with no_init_weights(), torch.device(device):
        network = model_class._from_config(config, dtype=dtype)
    _fill(network, files)
    return network.requires_grad_(False).eval(), files


def check_weights(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> list[Path]:
    """The files that hold the `expected` tensors: model.safetensors, or the shards that its index names.

    Raises CheckpointError: a file is missing, truncated or corrupt, or a tensor missing, unexpected or mis-shaped.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        expect_files([single])
        check_shapes(single, expected)
        return [single]
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{index}: 'weight_map' should name the file of each tensor")
    for fault, names in (("missing", expected.keys() - places.keys()), ("unexpected", places.keys() - expected.keys())):
        if names:
            raise CheckpointError(f"{index}: tensors {fault}: {', '.join(sorted(names))}")
    shards = sorted(set(places.values()))
    expect_files(folder / shard for shard in shards)
    for shard in shards:
        check_shapes(folder / shard, {name: shape for name, shape in expected.items() if places[name] == shard})
    return [folder / shard for shard in shards]


def pad(rows: Sequence[Sequence[int]], padding: int) -> NDArray[np.int64]:
    """The rows [N, T], T being the longest of them, filled up on the right with `padding`."""
    ids = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids


def _fill(network: nn.Module, files: Sequence[Path]) -> None:
    """Copies the files' tensors into the network's, one at a time: the weights are never in memory twice."""
    targets = network.state_dict()
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                targets[name].copy_(tensors.get_tensor(name))
                if not targets[name].isfinite().all():
                    raise CheckpointError(
                        f"{file}: tensor {name} holds values that are not finite; fetch the file anew"
                    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
