"""What is fixed about `nvidia/prompt-task-and-complexity-classifier`: its heads, their order, sizes and tensor names.

The order of the heads stands here and nowhere else: the published config.json lists them as the keys of a mapping,
and a copy that was written with sorted keys lists them in another order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NAME = "prompt-task-and-complexity-classifier"

# head_0 ... head_7 of the file.
HEAD_SIZES: Mapping[str, int] = {
    "task_type": 12,
    "creativity_scope": 3,
    "reasoning": 2,
    "contextual_knowledge": 2,
    "number_of_few_shots": 6,
    "domain_knowledge": 4,
    "no_label_reason": 1,
    "constraint_ct": 2,
}

# DeBERTa-v3-base reads 512 tokens, and its attention heads are 64 wide.
MAX_TOKENS = 512
ATTENTION_HEAD_SIZE = 64

Shapes = Mapping[str, tuple[int, ...]]

_EMBEDDINGS = "backbone.embeddings.word_embeddings.weight"
_POSITIONS = "backbone.encoder.rel_embeddings.weight"
_FIRST_INTERMEDIATE = "backbone.encoder.layer.0.intermediate.dense.weight"
_LAYER = re.compile(r"backbone\.encoder\.layer\.(\d+)\.")

# The tensors that Sizes are read from.
SIZE_TENSORS = (_EMBEDDINGS, _POSITIONS, _FIRST_INTERMEDIATE)


@dataclass(frozen=True)
class Sizes:
    """The sizes of the DeBERTa encoder; those of the published file are 128100, 768, 12, 3072 and 512."""

    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    positions: int  # rows of rel_embeddings: twice the position buckets


def read_sizes(shapes: Shapes) -> Sizes:
    """The sizes that the tensors' shapes tell; `shapes` must hold SIZE_TENSORS, each with two dimensions.

    config.json can't be asked: it carries sizes of another network.
    """
    vocabulary, hidden = shapes[_EMBEDDINGS]
    layers = {int(match[1]) for name in shapes if (match := _LAYER.match(name))}
    return Sizes(vocabulary, hidden, max(layers) + 1, shapes[_FIRST_INTERMEDIATE][0], shapes[_POSITIONS][0])


def tensor_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint of these sizes, by name."""
    hidden = sizes.hidden
    shapes: dict[str, tuple[int, ...]] = {
        _EMBEDDINGS: (sizes.vocabulary, hidden),
        _POSITIONS: (sizes.positions, hidden),
    }
    shapes |= _norm("backbone.embeddings.LayerNorm", hidden)
    shapes |= _norm("backbone.encoder.LayerNorm", hidden)
    for number in range(sizes.layers):
        shapes |= _layer_shapes(f"backbone.encoder.layer.{number}", hidden, sizes.intermediate)
    for number, (weight, bias) in enumerate(head_tensors()):
        size = tuple(HEAD_SIZES.values())[number]
        shapes |= {weight: (size, hidden), bias: (size,)}
    return shapes


def head_tensors() -> Iterator[tuple[str, str]]:
    """The names of each head's weight and bias, in head order."""
    for number in range(len(HEAD_SIZES)):
        yield f"head_{number}.fc.weight", f"head_{number}.fc.bias"


def _layer_shapes(layer: str, hidden: int, intermediate: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("query_proj", "key_proj", "value_proj"):
        shapes |= _linear(f"{layer}.attention.self.{name}", hidden, hidden)
    shapes |= _linear(f"{layer}.attention.output.dense", hidden, hidden)
    shapes |= _norm(f"{layer}.attention.output.LayerNorm", hidden)
    shapes |= _linear(f"{layer}.intermediate.dense", intermediate, hidden)
    shapes |= _linear(f"{layer}.output.dense", hidden, intermediate)
    shapes |= _norm(f"{layer}.output.LayerNorm", hidden)
    return shapes


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
