"""Networks that somebody else traced: a TorchScript file of input_ids and attention_mask to logits.

That is what the LLM Router blueprint's notebooks make of a sequence classifier, by `torch.jit.trace` at 512 tokens.
Loading such a file runs the code in it: it is to be trusted like a program.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classifiers.checkpoint import Checkpoint, CheckpointError, shorten
from classifiers.rows import slices
from classifiers.tokenizer import PromptTokenizer

Row = NDArray[np.int32]

# Of two lengths, as the rows of a batch mostly are.
_PROBES = (b"Why?", b"What is the exchange rate for euros today, and when does it change?")
_TOLERANCE = 1e-3  # of logits
_MOST_PLACES = 8_192  # rows times tokens that are computed at once
_JitError = torch.jit.Error  # what the traced code itself raises; no RuntimeError
_CAUSE = re.compile(r"[\w.]*(Error|Exception): ")


class TorchScriptNetwork:
    """A traced network, run in the precision that it was traced in.

    What a trace bears is tried, since it does not say: some hold on to the length that they were made with, or to a
    batch of one.
    """

    def __init__(self, checkpoint: Checkpoint, vocabulary: int, probes: Sequence[Row], device: str) -> None:
        """`vocabulary`: the ids that it has to read. `probes`: rows of different lengths that hold the highest of them.

        Raises CheckpointError: the file is none, or its network does not run, or gives something else than a logit for
        each label.
        """
        self.vocabulary = vocabulary
        self.max_positions = checkpoint.max_tokens
        self._file = checkpoint.weights_file
        self._pad_id = checkpoint.pad_id
        self._labels = checkpoint.logits_size
        self._device = device
        self._module = _load(self._file, device)
        alone = torch.cat([self._run([row], self.max_positions) for row in probes])
        self.bears_batches = self._gives(alone, [probes], self.max_positions)
        self.bears_lengths = self._gives(alone, [probes] if self.bears_batches else [[row] for row in probes])

    def classify(self, batches: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Logits [n_i, labels] float32 for each of the `input_ids` [n_i, T_i], padded with -1 on the right."""
        rows = [row[row >= 0] for batch in batches for row in batch]
        logits = np.empty((len(rows), self._labels), dtype=np.float32)
        for part in self._parts(rows):
            held = [rows[number] for number in part]
            logits[part] = self._run(held, self._length(held)).cpu().numpy()
        return [logits[own] for own in slices(map(len, batches))]

    def _parts(self, rows: Sequence[Row]) -> list[list[int]]:
        """The rows' numbers, shortest first, in parts that are computed at once."""
        parts: list[list[int]] = []
        for number in sorted(range(len(rows)), key=lambda number: len(rows[number])):
            places = self._length([rows[number]])
            if parts and self.bears_batches and (len(parts[-1]) + 1) * places <= _MOST_PLACES:
                parts[-1].append(number)
            else:
                parts.append([number])
        return parts

    def _length(self, rows: Sequence[Row]) -> int:
        return max(map(len, rows)) if self.bears_lengths else self.max_positions

    def _gives(self, expected: Tensor, batches: Sequence[Sequence[Row]], length: int | None = None) -> bool:
        """Whether the logits are those expected; `length`: None for the longest of each batch."""
        try:
            given = [self._run(rows, length or max(map(len, rows))) for rows in batches]
        except CheckpointError:
            return False
        return torch.allclose(torch.cat(given), expected, rtol=0, atol=_TOLERANCE)

    def _run(self, rows: Sequence[Row], length: int) -> Tensor:
        """Logits [n, labels] float32 of the rows, filled up to `length`.

        Raises CheckpointError: the network fails, or its answer has another form.
        """
        ids = torch.full((len(rows), length), self._pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.from_numpy(row)
            mask[number, : len(row)] = 1
        try:
            # Not optimised: that compiles anew for many a length, in the midst of the traffic.
            with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                answer = self._module(ids.to(self._device), mask.to(self._device))
        except (RuntimeError, IndexError, TypeError, _JitError) as error:
            where = f"{len(rows)} x {length} tokens on {self._device}"
            raise CheckpointError(
                f"{self._file}: does not run ({where}): {_reason(error)}{_hint(error, self._device)}"
            ) from None
        logits = _logits(answer)
        if logits is None or logits.shape != (len(rows), self._labels):
            found = "no tensor" if logits is None else f"{list(logits.shape)}"
            raise CheckpointError(
                f"{self._file}: gives {found} for {len(rows)} prompts, and should give "
                f"{[len(rows), self._labels]}: a logit for each of the {self._labels} labels"
            )
        return logits.float()


def load_torchscript(checkpoint: Checkpoint, device: str = "cpu") -> TorchScriptNetwork:
    """The checkpoint's network, ready to classify on `device` ("cpu", "cuda:0"). Runs the code in its file.

    Raises CheckpointError: the file is none, or its network does not fit the tokenizer and the labels.
    """
    tokenizer = PromptTokenizer(checkpoint)
    ids, _ = tokenizer.encode(_PROBES)
    first, second = (row[row >= 0] for row in ids)
    highest = np.array([first[0], tokenizer.vocabulary - 1, first[-1]], dtype=np.int32)
    return TorchScriptNetwork(checkpoint, tokenizer.vocabulary, [first, second, highest], device)


def _load(file: Path, device: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # for those who trace
            return torch.jit.load(str(file), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError, ValueError, _JitError) as error:
        raise CheckpointError(f"{file}: not a TorchScript file, or not for {device}: {_reason(error)}") from None


def _logits(answer: Any) -> Tensor | None:
    """A network's answer as the library's classifiers give it: a tensor, or a tuple or an object of which it is one."""
    if isinstance(answer, dict):
        answer = answer.get("logits")
    elif isinstance(answer, tuple | list):
        answer = next(iter(answer), None)
    return answer if isinstance(answer, Tensor) else None


def _hint(error: Exception, device: str) -> str:
    text = str(error).lower()
    if "device" not in text and "cuda" not in text:
        return ""
    if device == "cpu":
        return "; it was traced on a GPU, and holds on to it: trace it anew on a CPU, or run this where there is a GPU"
    return "; a trace may hold on to the device that it was made on: trace it there, or set its instance_group's kind"


def _reason(error: Exception) -> str:
    """The line that names the cause: the first that says so, among where in the code it happened and what torch has."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten(next(filter(_CAUSE.match, lines), lines[0] if lines else type(error).__name__))
