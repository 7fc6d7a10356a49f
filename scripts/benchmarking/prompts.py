"""Real prompts, by length."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint
from classifiers.tokenizer import PromptTokenizer
from scripts.local.triton import ROOT

DEFAULT = ROOT / "scripts" / "training" / "prompts.jsonl"
# In tokens of the checkpoint's own tokenizer, special ones included. The first three are what plots go by.
BANDS: Mapping[str, tuple[int, int]] = {
    "short": (16, 48),
    "medium": (49, 128),
    "long": (129, 512),
    "about_64": (56, 72),
    "mixed": (1, 512),
}
LENGTHS = ("short", "medium", "long")
_MOST = 256  # of a band: enough that a run of a few seconds repeats none or few


class PromptsError(Exception):
    """The prompts cannot be used; one line says why."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and its token ids, [1, T] int32."""

    text: str
    input_ids: NDArray[np.int32]


Bands = Mapping[str, Sequence[Prompt]]


def read_texts(file: Path) -> list[str]:
    """The field `text` of each line. Raises PromptsError: a line has none, or there are no lines."""
    texts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            texts.append(str(json.loads(line)["text"]))
        except (ValueError, KeyError, TypeError):
            raise PromptsError(f"{file}:{number}: expected a JSON object with 'text'") from None
    if not texts:
        raise PromptsError(f"{file}: holds no prompts")
    return texts


def sort_into_bands(texts: Sequence[str], checkpoint: Checkpoint) -> Bands:
    """Up to 256 prompts of each band, drawn with a fixed seed. Raises PromptsError: a band has none."""
    tokenizer = PromptTokenizer(checkpoint)
    drawn = random.Random(0).sample(list(texts), len(texts))
    bands: dict[str, list[Prompt]] = {band: [] for band in BANDS}
    for text in drawn:
        input_ids, counts = tokenizer.encode([text.encode(errors="replace")])
        for band, (least, most) in BANDS.items():
            if least <= counts[0, 1] <= most and len(bands[band]) < _MOST:
                bands[band].append(Prompt(text, input_ids))
    if empty := [band for band, prompts in bands.items() if not prompts]:
        raise PromptsError(f"no prompts of these lengths: {', '.join(empty)}")
    return bands
