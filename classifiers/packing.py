"""Prompts side by side without padding: what a batch of mixed lengths looks like to an encoder.

The linear layers of an encoder do not care where a prompt begins. All tokens of a batch therefore go through them as
one matrix, and only attention and pooling look at prompts, group by group of the same length. On a CPU a group's
prompts have exactly its length, so nothing is computed for padding. On a GPU, where each group costs launches, lengths
are rounded up to a few, and the group's mask says which places hold a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A part's matrix is filled up to a multiple of so many rows, with rows that nobody reads: libraries keep a compiled
# product for each number of rows that they have met, and their memory would grow with the traffic.
_ROWS = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """How prompts are grouped."""

    lengths: tuple[int, ...]
    """That a group may have; a longer prompt makes a group of its own length. Empty: any."""
    most_places: int
    """Of a part, unless a single prompt takes more."""


# On a CPU a matrix of 512 rows is multiplied as fast as a longer one, and stays in its caches.
EXACT = Layout(lengths=(), most_places=512)
# Each length makes the longest prompt in it half as long again at most. A GPU wants much at once.
ROUNDED = Layout(lengths=(16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512), most_places=32_768)


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts of one length, one after the other: they stand at `place` : `place + prompts * length`."""

    place: int
    prompts: int
    length: int
    mask: Tensor | None
    """[prompts, length] bool, where the tokens are; None when they are everywhere."""

    @property
    def places(self) -> slice:
        return slice(self.place, self.place + self.prompts * self.length)


@dataclass(frozen=True, slots=True)
class Packed:
    """Some prompts of a batch, to be computed together. P is the number of places, a multiple of 16."""

    ids: Tensor
    """[P] int64; 0 where there is no token."""
    positions: Tensor
    """[P] int64, each token's place in its own prompt."""
    groups: tuple[Group, ...]
    prompts: tuple[int, ...]
    """The prompts' numbers in the batch, in the order in which they stand here."""


def pack(
    rows: Sequence[NDArray[np.int32]],
    device: str = "cpu",
    layout: Layout | None = None,
    positions: int = 512,
) -> Iterator[Packed]:
    """The prompts in parts on `device`, shortest first; `rows` are their token ids, none of them empty.

    `layout`: the device's own, if none is given. `positions`: the encoder's; no length is rounded up past them.
    """
    layout = layout or (EXACT if device == "cpu" else ROUNDED)
    allowed = [length for length in layout.lengths if length <= positions]
    lengths = [_rounded(len(row), allowed) for row in rows]
    part: list[int] = []
    places = 0
    for number in sorted(range(len(rows)), key=lengths.__getitem__):
        if part and places + lengths[number] > layout.most_places:
            yield _pack_part(rows, lengths, part, device)
            part, places = [], 0
        part.append(number)
        places += lengths[number]
    if part:
        yield _pack_part(rows, lengths, part, device)


def pad(rows: Sequence[NDArray[np.int32]], device: str = "cpu") -> Packed:
    """The prompts in their own order as one part of one group, padded to the longest; for training."""
    longest = max(map(len, rows))
    return _pack_part(rows, [longest] * len(rows), list(range(len(rows))), device)


def pool(hidden: Tensor, groups: Sequence[Group]) -> Tensor:
    """The mean [N, width] of each prompt's vectors, which stand in `hidden` [P, width]; in float32."""
    means = []
    for group in groups:
        vectors = hidden[group.places].view(group.prompts, group.length, -1).float()
        if group.mask is None:
            means.append(vectors.mean(dim=1))
        else:
            held = group.mask.unsqueeze(-1)
            means.append((vectors * held).sum(dim=1) / held.sum(dim=1))
    return torch.cat(means)


def _rounded(tokens: int, lengths: Sequence[int]) -> int:
    return next((length for length in lengths if tokens <= length), tokens)


def _pack_part(rows: Sequence[NDArray[np.int32]], lengths: Sequence[int], part: list[int], device: str) -> Packed:
    places = sum(lengths[number] for number in part)
    ids = np.full(-(-places // _ROWS) * _ROWS, -1, dtype=np.int64)
    positions = np.zeros_like(ids)
    groups: list[tuple[int, int, int]] = []
    place = 0
    for length, numbers in groupby(part, key=lengths.__getitem__):
        start, count = place, 0
        for number in numbers:
            ids[place : place + len(rows[number])] = rows[number]
            positions[place : place + length] = np.arange(length)
            place, count = place + length, count + 1
        groups.append((start, count, length))
    tokens = torch.from_numpy(ids).to(device)
    return Packed(
        ids=tokens.clamp(min=0),
        positions=torch.from_numpy(positions).to(device),
        groups=tuple(_group(tokens, ids, *each) for each in groups),
        prompts=tuple(part),
    )


def _group(tokens: Tensor, ids: NDArray[np.int64], place: int, prompts: int, length: int) -> Group:
    places = slice(place, place + prompts * length)
    full = bool((ids[places] >= 0).all())  # asked of the copy here: a GPU would have to be waited for
    return Group(place, prompts, length, None if full else (tokens[places] >= 0).view(prompts, length))
