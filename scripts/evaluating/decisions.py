"""What the gateway itself would be told of many prompts: its own client asks, only more patiently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gateway.decision import Decision, TritonClient
from gateway.errors import DecisionFailed, ModelNotServed, TritonUnavailable
from scripts.evaluating.ask import Answers, HeadAnswers, TritonError, the_only

_AT_ONCE = 64  # what a model's dynamic batcher takes together
_SECONDS = 600.0  # the published network on two cores needs minutes for 64 long prompts


class Question(NamedTuple):
    """A prompt for a model of the Triton at `target`, host:port."""

    target: str
    model: str
    text: str


@dataclass(frozen=True)
class Opened:
    """A Triton's client, and the limit on what it is asked at once."""

    client: TritonClient
    limit: asyncio.Semaphore


def decide_all(questions: Iterable[Question], ca_file: Path | None = None) -> dict[Question, Decision]:
    """A decision for each question, asked once however often it occurs.

    `ca_file` holds the authorities of the Tritons' certificates; without it gRPC is not encrypted.

    Raises TritonError: a question got no decision, or a model's network changed meanwhile.
    """
    # Neighbours are of similar length, which wastes little on padding.
    different = sorted(set(questions), key=lambda question: len(question.text))
    with tqdm(total=len(different), unit="prompt", desc="asking", disable=None) as progress:
        decisions = asyncio.run(_decide_all(different, ca_file, progress.update))
    found = dict(zip(different, decisions, strict=True))
    for (_, model), checkpoints in _checkpoints(found).items():
        if len(checkpoints) > 1:
            named = ", ".join(sorted(map(str, checkpoints)))
            raise TritonError(f"the network of {model} changed while it was asked: {named}")
    return found


def labels_of(decision: Decision) -> tuple[str, ...]:
    """The model's labels in its order; without a label file they are numbers, as in the gateway."""
    return tuple(label or str(number) for number, label in enumerate(decision.labels))


def answers_of(head: str, decisions: Sequence[Decision]) -> Answers:
    """At least one decision of one classification model as the answers of its only head.

    Raises TritonError: the labels changed from one decision to the next.
    """
    labels = labels_of(decisions[0])
    if any(labels_of(decision) != labels for decision in decisions):
        raise TritonError(f"the labels of the {head} model changed while it was asked")
    index = np.array([labels.index(decision.label) for decision in decisions], dtype=np.int64)
    scores = np.array([decision.scores for decision in decisions], dtype=np.float64)
    checkpoint = the_only({decision.checkpoint or "" for decision in decisions})
    return Answers(checkpoint, {head: HeadAnswers(index, scores)})


async def _decide_all(
    questions: Sequence[Question], ca_file: Path | None, count: Callable[[int], object]
) -> list[Decision]:
    targets = {question.target for question in questions}
    opened = {target: Opened(TritonClient(target, ca_file), asyncio.Semaphore(_AT_ONCE)) for target in targets}
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_decide(opened[question.target], question, count)) for question in questions]
    except BaseExceptionGroup as failures:  # the others were cancelled with the first one's failure
        raise failures.exceptions[0] from None
    finally:
        for each in opened.values():
            await each.client.close()
    return [task.result() for task in tasks]


async def _decide(opened: Opened, question: Question, count: Callable[[int], object]) -> Decision:
    async with opened.limit:
        try:
            decision = await opened.client.decide(question.model, question.text, _SECONDS)
        except ModelNotServed:
            raise TritonError(f"the Triton at {question.target} does not serve {question.model}") from None
        except TritonUnavailable as failure:
            raise TritonError(f"no Triton answers at {question.target} ({_one_line(failure)})") from None
        except DecisionFailed as failure:
            raise TritonError(
                f"{question.model} at {question.target} gave no decision ({_one_line(failure)})"
            ) from None
    count(1)
    return decision


def _checkpoints(found: dict[Question, Decision]) -> dict[tuple[str, str], set[str | None]]:
    """Of each Triton's models, the networks that answered."""
    checkpoints: dict[tuple[str, str], set[str | None]] = {}
    for question, decision in found.items():
        checkpoints.setdefault((question.target, question.model), set()).add(decision.checkpoint)
    return checkpoints


def _one_line(failure: DecisionFailed) -> str:
    return " ".join(str(failure).split()) or failure.reason
