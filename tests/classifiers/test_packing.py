"""Prompts side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classifiers.packing import EXACT, ROUNDED, Layout, pack, pad, pool

lengths = st.lists(st.integers(1, 600), max_size=70)
layouts = st.sampled_from([EXACT, ROUNDED, Layout((), 7), Layout((4, 9), 100)])


@given(lengths=lengths, layout=layouts)
def test_every_token_stands_once_in_its_place(lengths: list[int], layout: Layout) -> None:
    """Each prompt is in one part, its tokens in their order, at their positions, and nobody's tokens beside them."""
    rows = [np.arange(1, length + 1, dtype=np.int32) + 1000 * number for number, length in enumerate(lengths)]
    parts = list(pack(rows, layout=layout))
    assert sorted(number for part in parts for number in part.prompts) == list(range(len(rows)))
    for part in parts:
        assert part.ids.shape == part.positions.shape and len(part.ids) % 16 == 0
        numbers = iter(part.prompts)
        for group in part.groups:
            ids = part.ids[group.places].view(group.prompts, group.length)
            mask = torch.ones_like(ids, dtype=torch.bool) if group.mask is None else group.mask
            positions = part.positions[group.places].view(group.prompts, group.length)
            for row in range(group.prompts):
                number = next(numbers)
                assert ids[row, mask[row]].tolist() == rows[number].tolist()
                assert positions[row, mask[row]].tolist() == list(range(lengths[number]))
                assert mask[row, : lengths[number]].all()


@given(lengths=lengths, layout=layouts)
def test_parts_are_bounded_and_short_prompts_first(lengths: list[int], layout: Layout) -> None:
    """A part holds no more than the layout says unless one prompt does, and no prompt waits for a longer one."""
    parts = list(pack([np.ones(length, dtype=np.int32) for length in lengths], layout=layout))
    order = [lengths[number] for part in parts for number in part.prompts]
    for part in parts:
        held = sum(group.prompts * group.length for group in part.groups)
        assert held <= layout.most_places or len(part.prompts) == 1
    if layout.lengths:
        order = [min((each for each in layout.lengths if each >= length), default=length) for length in order]
    assert order == sorted(order)


def test_nothing_is_computed_for_padding_on_a_cpu() -> None:
    """Prompts of mixed lengths take as many places as they have tokens, up to the next multiple of 16."""
    (part,) = pack([np.ones(length, dtype=np.int32) for length in (3, 100, 7, 100, 41)])
    assert [(group.prompts, group.length, group.mask) for group in part.groups] == [
        (1, 3, None), (1, 7, None), (1, 41, None), (2, 100, None),
    ]  # fmt: skip
    assert len(part.ids) == 256  # 251


def test_no_length_is_rounded_past_the_positions() -> None:
    """An encoder of 40 positions is given none beyond them."""
    (part,) = pack([np.ones(length, dtype=np.int32) for length in (3, 38)], layout=ROUNDED, positions=40)
    assert [group.length for group in part.groups] == [16, 38]
    assert part.positions.max() == 37


@pytest.mark.parametrize("layout", [EXACT, ROUNDED])
def test_means_are_of_each_prompts_own_vectors(layout: Layout) -> None:
    """Pooling averages a prompt's tokens, and neither its neighbours' nor padding's."""
    rows = [np.full(length, length, dtype=np.int32) for length in (5, 17, 2, 17)]
    (part,) = pack(rows, layout=layout)
    hidden = part.ids[:, None].float() * torch.tensor([1.0, -2.0])
    hidden[part.ids == 0] = 1e6
    expected = [[float(len(rows[number])), -2.0 * len(rows[number])] for number in part.prompts]
    assert pool(hidden, part.groups).tolist() == expected
    whole = pad(rows)
    assert whole.prompts == (0, 1, 2, 3) and [group.length for group in whole.groups] == [17]
