"""What a served Triton answers for many prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

MODEL = "router_ensemble"
_BATCH = 64  # the ensemble's max_batch_size
_READY_SECONDS = 30.0
_BATCH_SECONDS = 600.0  # the published network on two cores needs minutes for 64 long prompts
# Triton is close by; a proxy that the environment names is for elsewhere.
_CHANNEL_ARGUMENTS = [("grpc.enable_http_proxy", 0)]


class TritonError(Exception):
    """One line: which Triton, and why it gave no usable answer."""


@dataclass(frozen=True)
class HeadAnswers:
    """`index` [N] into the labels of a head, and the `scores` [N, labels] behind it."""

    index: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """By head, and the `name:version:digest` of the network that gave them."""

    checkpoint: str
    heads: Mapping[str, HeadAnswers]


@contextmanager
def reach(target: str, model: str | None = None) -> Iterator[InferenceServerClient]:
    """The Triton at host:port, once it says that it serves `model`, by default the ensemble.

    Raises TritonError: it can't be reached, or does not serve it.
    """
    model = model or MODEL
    with InferenceServerClient(target, channel_args=_CHANNEL_ARGUMENTS) as client:
        try:
            ready = client.is_model_ready(model, client_timeout=_READY_SECONDS)
        except InferenceServerException as error:
            raise TritonError(f"no Triton answers at {target} ({_one_line(error)})") from None
        if not ready:
            raise TritonError(f"the Triton at {target} does not serve {model}")
        yield client


def ask(client: InferenceServerClient, texts: Sequence[str], labels: Mapping[str, Sequence[str]]) -> Answers:
    """Its answers for at least one text, in their order; `labels` of each head in the order of its scores.

    Raises TritonError: a request failed, an answer does not fit `labels`, or the network changed meanwhile.
    """
    index = {head: np.empty(len(texts), dtype=np.int64) for head in labels}
    scores = {head: np.empty((len(texts), len(names))) for head, names in labels.items()}
    checkpoints: set[str] = set()
    names = [f"{head}_{kind}" for head in labels for kind in ("label", "scores")] + ["checkpoint"]
    for rows in batches(texts, "asking"):
        outputs = infer(client, MODEL, [texts[row] for row in rows], names)
        for head, known in labels.items():
            index[head][rows] = _index(outputs[f"{head}_label"], known, head)
            scores[head][rows] = _scores(outputs[f"{head}_scores"], len(known), head)
        checkpoints.update(decode(outputs["checkpoint"]))
    heads = {head: HeadAnswers(index[head], scores[head]) for head in labels}
    return Answers(the_only(checkpoints), heads)


def batches(texts: Sequence[str], verb: str) -> Iterator[list[int]]:
    """The numbers of all texts, as many at a time as one request holds, behind a progress bar that says `verb`.

    Neighbours are of similar length, which wastes little on padding.
    """
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    with tqdm(total=len(texts), unit="row", desc=verb, disable=None) as progress:
        for start in range(0, len(texts), _BATCH):
            rows = order[start : start + _BATCH]
            yield rows
            progress.update(len(rows))


def the_only(checkpoints: set[str]) -> str:
    """The checkpoint of at least one answer. Raises TritonError: several gave answers."""
    if len(checkpoints) > 1:
        raise TritonError(f"the network changed while it was asked: {', '.join(sorted(checkpoints))}")
    return checkpoints.pop()


def infer(
    client: InferenceServerClient, model: str, texts: Sequence[str], names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """The outputs `names` [texts, width] of `model`. Raises TritonError: the request failed."""
    prompts = InferInput("INPUT", [len(texts), 1], "BYTES")
    # A lone surrogate, which JSON can carry, has no UTF-8: it becomes a question mark, as in the gateway.
    encoded = [[text.encode(errors="replace")] for text in texts]
    prompts.set_data_from_numpy(np.array(encoded, dtype=np.object_))
    wanted = [InferRequestedOutput(name) for name in names]
    try:
        result = client.infer(model, [prompts], outputs=wanted, client_timeout=_BATCH_SECONDS)
    except InferenceServerException as error:
        raise TritonError(f"Triton could not classify {len(texts)} prompts ({_one_line(error)})") from None
    return {name: result.as_numpy(name) for name in names}


def _index(answered: NDArray[Any], labels: Sequence[str], head: str) -> list[int]:
    texts = decode(answered)
    strange = [text for text in texts if text not in labels]
    if strange:
        raise TritonError(f"Triton answered {strange[0]!r}, which is no {head} label of this project")
    return [labels.index(text) for text in texts]


def _scores(answered: NDArray[Any], count: int, head: str) -> NDArray[Any]:
    if answered.shape[1] != count:
        raise TritonError(f"Triton answered {answered.shape[1]} {head} scores for {count} labels")
    return answered


def decode(answered: NDArray[Any]) -> list[str]:
    """The texts of a BYTES output [N, 1]."""
    return [value.decode() for value in answered[:, 0]]


def _one_line(error: InferenceServerException) -> str:
    return re.sub(r"\s+", " ", error.message()).strip()
