"""Logits to labels and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint
from classifiers.decision import decide_complexity, decide_task, one_hot
from scripts.local.published import DIVISOR_MAP, TARGET_SIZES, TASK_TYPES, WEIGHTS_MAP
from tests.classifiers.loaded import Loaded

Floats = NDArray[np.float32]

# The label, and the published head that scores it, in the order of the outputs.
DIMENSIONS = {
    "Creativity": "creativity_scope",
    "Reasoning": "reasoning",
    "Contextual-Knowledge": "contextual_knowledge",
    "Few-Shot": "number_of_few_shots",
    "Domain-Knowledge": "domain_knowledge",
    "No-Label-Reason": "no_label_reason",
    "Constraint": "constraint_ct",
}
# One step of the rounding to four decimals, which two ways of adding up may take on different sides.
STEP = 1.01e-4


def logits_for(**probabilities: Sequence[float]) -> Floats:
    """One row of the published network's logits; heads that aren't named are even."""
    row: list[float] = []
    for head, size in TARGET_SIZES.items():
        row += [math.log(max(p, 1e-12)) for p in probabilities.get(head, [1 / size] * size)]
    return np.array([row], dtype=np.float32)


def softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def slow_scores(row: Sequence[float]) -> dict[str, float]:
    """The model card's scores of one prompt, number by number."""
    scores, start = {}, 0
    for head, size in TARGET_SIZES.items():
        if head != "task_type":
            probabilities = softmax(row[start : start + size])
            total = sum(p * weight for p, weight in zip(probabilities, WEIGHTS_MAP[head], strict=True))
            scores[head] = round(total / DIVISOR_MAP[head], 4)
        start += size
    if scores["number_of_few_shots"] < 0.05:
        scores["number_of_few_shots"] = 0
    return scores


def slow_complexity(creativity: float, reasoning: float, constraint: float, domain: float, rest: float) -> float:
    return round(0.35 * creativity + 0.25 * reasoning + 0.15 * constraint + 0.15 * domain + 0.05 * rest, 5)


def rows_of(size: int) -> st.SearchStrategy[Floats]:
    logits = st.floats(-30, 30, width=32)
    return arrays(np.float32, st.tuples(st.integers(0, 5), st.just(size)), elements=logits)


def same_index(index: NDArray[np.int64], scores: Floats) -> None:
    """Each index is that of the highest score, or of one that rounding can't tell from it."""
    for chosen, row in zip(index, scores, strict=True):
        assert row[chosen] >= row.max() - 2 * STEP


def test_the_model_cards_example(published: Loaded) -> None:
    """The model card's first example: its probabilities give its scores, its complexity and its task."""
    logits = logits_for(
        task_type=[0.767 if name == "Code Generation" else 0.233 / 11 for name in TASK_TYPES],
        creativity_scope=[0.0826, 0, 0.9174],
        reasoning=[0.9368, 0.0632],
        contextual_knowledge=[0.944, 0.056],
        number_of_few_shots=[0.96, 0.04, 0, 0, 0, 0],  # below 0.05: counts as none
        domain_knowledge=[0.9803, 0, 0, 0.0197],
        no_label_reason=[1],
        constraint_ct=[0.5578, 0.4422],
    )
    decision = decide_complexity(logits, published.checkpoint)
    assert decision.scores[0].tolist() == pytest.approx([0.0826, 0.0632, 0.056, 0, 0.9803, 0, 0.5578], abs=1e-6)
    assert decision.prompt_complexity_score[0] == pytest.approx(0.27822, abs=1.01e-5)
    assert published.checkpoint.complexity_labels[decision.index[0]] == "Domain-Knowledge"
    task = decide_task(logits, published.checkpoint)
    assert published.checkpoint.task_labels[task.index[0]] == "Code Generation"
    assert task.scores[0, task.index[0]] == pytest.approx(0.767, abs=1e-4)


@settings(deadline=None)
@given(logits=rows_of(sum(TARGET_SIZES.values())))
def test_nvidia_against_a_slow_reference(published: Loaded, logits: Floats) -> None:
    """Scores, complexity and labels of a batch are those of the model card's formulas, row by row."""
    task = decide_task(logits, published.checkpoint)
    decision = decide_complexity(logits, published.checkpoint)
    assert task.scores.shape == (len(logits), 12)
    assert decision.scores.shape == (len(logits), 7)
    for number, row in enumerate(logits.tolist()):
        scores = slow_scores(row)
        assert task.scores[number].tolist() == pytest.approx(softmax(row[:12]), abs=1e-6)
        assert decision.scores[number].tolist() == pytest.approx(
            [scores[head] for head in DIMENSIONS.values()], abs=STEP
        )
        complexity = slow_complexity(
            scores["creativity_scope"],
            scores["reasoning"],
            scores["constraint_ct"],
            scores["domain_knowledge"],
            scores["contextual_knowledge"] + scores["number_of_few_shots"],
        )
        assert decision.prompt_complexity_score[number] == pytest.approx(complexity, abs=STEP)
    same_index(task.index, task.scores)
    same_index(decision.index, decision.scores)


@settings(deadline=None)
@given(logits=rows_of(18))
def test_softmax_against_a_slow_reference(embedded: Loaded, logits: Floats) -> None:
    """Scores of a trained checkpoint are its probabilities, Unknown has none, and they enter the card's formula."""
    checkpoint = embedded.checkpoint
    task = decide_task(logits, checkpoint)
    decision = decide_complexity(logits, checkpoint)
    for number, row in enumerate(logits.tolist()):
        probabilities = softmax([logit / checkpoint.heads[0].temperature for logit in row[:11]])
        assert task.scores[number].tolist() == pytest.approx([*probabilities, 0], abs=1e-6)
        if abs(max(probabilities) - checkpoint.unknown_below) > 1e-6:
            unknown = max(probabilities) < checkpoint.unknown_below
            assert (checkpoint.task_labels[task.index[number]] == "Unknown") == unknown
        demands = softmax([logit / checkpoint.heads[1].temperature for logit in row[11:]])
        assert decision.scores[number].tolist() == pytest.approx(demands, abs=1e-6)
        named = dict(zip(checkpoint.complexity_labels, demands, strict=True))
        complexity = slow_complexity(
            named["Creativity"],
            named["Reasoning"],
            named["Constraint"],
            named["Domain-Knowledge"],
            named["Contextual-Knowledge"] + named["Few-Shot"],
        )
        assert decision.prompt_complexity_score[number] == pytest.approx(complexity, abs=1.01e-5)
    same_index(decision.index, decision.scores)


def test_few_shots_outweigh_unless_scaled(published: Loaded) -> None:
    """A count of two examples beats every other dimension, as in the blueprint; scaled down, it doesn't."""
    logits = logits_for(number_of_few_shots=[0, 0, 1, 0, 0, 0], domain_knowledge=[0.9, 0, 0, 0.1])
    labels = published.checkpoint.complexity_labels
    plain = decide_complexity(logits, published.checkpoint)
    scaled = decide_complexity(logits, published.checkpoint, few_shot_scale=0.2)
    assert labels[plain.index[0]] == "Few-Shot"
    assert labels[scaled.index[0]] == "Domain-Knowledge"
    assert np.array_equal(plain.scores, scaled.scores)
    assert np.array_equal(plain.prompt_complexity_score, scaled.prompt_complexity_score)


def test_low_confidence_is_unknown(embedded: Loaded) -> None:
    """Even logits give Unknown, a clear one its label, and a threshold of 0 never Unknown."""
    logits = np.zeros((2, 18), dtype=np.float32)
    logits[1, 4] = 10
    labels = embedded.checkpoint.task_labels
    assert [labels[index] for index in decide_task(logits, embedded.checkpoint).index] == ["Unknown", "Code Generation"]
    never = replace(embedded.checkpoint, unknown_below=0.0)
    assert "Unknown" not in [labels[index] for index in decide_task(logits, never).index]


def heated(checkpoint: Checkpoint, temperature: float) -> Checkpoint:
    return replace(checkpoint, heads=tuple(replace(head, temperature=temperature) for head in checkpoint.heads))


def test_temperature_softens(embedded: Loaded) -> None:
    """A temperature above 1 brings probabilities closer together and changes no order."""
    logits = np.random.default_rng(0).normal(size=(20, 18)).astype(np.float32)
    cold, hot = embedded.checkpoint, heated(embedded.checkpoint, 3.0)
    assert (
        decide_complexity(logits, hot).scores.max(axis=1) < decide_complexity(logits, cold).scores.max(axis=1)
    ).all()
    assert np.array_equal(decide_complexity(logits, hot).index, decide_complexity(logits, cold).index)


@pytest.mark.parametrize(
    ("prompt", "task", "complexity"),
    [
        ("Write a Python function that sorts a list of numbers.", "Code Generation", None),
        ("Hi, how are you today?", "Chatbot", "No-Label-Reason"),
        ("Write a short story about a lighthouse keeper who finds a letter.", "Text Generation", "Creativity"),
        ("Classify each animal as a mammal or a bird: dog, eagle, whale, owl.", "Classification", None),
        ("Give me five ideas for a birthday party in the garden.", "Brainstorming", None),
    ],
)
def test_plain_prompts(embedded: Loaded, prompt: str, task: str, complexity: str | None) -> None:
    """The embedded checkpoint gives plain prompts their labels: adapters, heads and label order belong together."""
    (logits,) = embedded.network.classify([embedded.tokenizer.encode([prompt.encode()])[0]])
    assert embedded.checkpoint.task_labels[decide_task(logits, embedded.checkpoint).index[0]] == task
    demand = embedded.checkpoint.complexity_labels[decide_complexity(logits, embedded.checkpoint).index[0]]
    assert complexity is None or demand == complexity


def test_one_hot() -> None:
    """One 1 in each row, at its index; no rows give no rows."""
    assert one_hot(np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(np.array([2, 0]), 3).dtype == np.float32
    assert one_hot(np.array([], dtype=np.int64), 3).shape == (0, 3)


def test_types(loaded: Loaded) -> None:
    """Indices are int64 and everything else float32, for an empty batch too."""
    for rows in (0, 2):
        logits = np.zeros((rows, loaded.checkpoint.logits_size), dtype=np.float32)
        task, complexity = decide_task(logits, loaded.checkpoint), decide_complexity(logits, loaded.checkpoint)
        assert task.index.dtype == complexity.index.dtype == np.int64
        assert task.scores.dtype == complexity.scores.dtype == complexity.prompt_complexity_score.dtype == np.float32
        assert complexity.prompt_complexity_score.shape == (rows,)
