"""Prompts to everything that is served of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from classifiers.checkpoint import CheckpointError
from classifiers.decision import decide_complexity, decide_task
from classifiers.prompt import PromptClassification
from tests.classifiers.loaded import Loaded

EVERYTHING = [
    "task_one_hot", "task_label", "task_scores", "complexity_one_hot", "complexity_label", "complexity_scores",
    "prompt_complexity_score", "tokens", "checkpoint",
]  # fmt: skip
REQUESTS = [[b"Write a poem."], [b"Hi", b"Summarise this text. " * 100], [b"What is 2 + 2?"]]


@pytest.fixture(scope="module")
def classification(loaded: Loaded) -> PromptClassification:
    return PromptClassification(loaded.checkpoint, "3")


def test_outputs_are_those_of_the_steps(loaded: Loaded, classification: PromptClassification) -> None:
    """Each output is what tokenizer, network and decisions give one after the other."""
    answers = classification.answers(REQUESTS, [EVERYTHING] * 3)
    for number, request in enumerate(REQUESTS):
        outputs = answers[number]
        ids, tokens = loaded.tokenizer.encode(request)
        (logits,) = loaded.network.classify([ids])
        task, complexity = decide_task(logits, loaded.checkpoint), decide_complexity(logits, loaded.checkpoint)
        assert (outputs["tokens"] == tokens).all()
        np.testing.assert_allclose(outputs["task_scores"], task.scores, atol=1e-4)
        np.testing.assert_allclose(outputs["complexity_scores"], complexity.scores, atol=1e-3)
        for kind, labels in (
            ("task", loaded.checkpoint.task_labels),
            ("complexity", loaded.checkpoint.complexity_labels),
        ):
            index = outputs[f"{kind}_one_hot"].argmax(axis=1)
            assert (outputs[f"{kind}_one_hot"].sum(axis=1) == 1).all()
            assert [label.decode() for label in outputs[f"{kind}_label"][:, 0]] == [labels[each] for each in index]
        assert outputs["prompt_complexity_score"].shape == (len(request), 1)
        assert {name.decode().rsplit(":", 1)[0] for name in outputs["checkpoint"][:, 0]} == {
            f"{loaded.checkpoint.name}:3"
        }


def test_only_what_is_wanted(classification: PromptClassification) -> None:
    """A request gets the outputs that it names and no others, whatever its neighbours want."""
    wanted = [["task_label"], ["tokens"], ["complexity_scores", "tokens"]]
    assert [list(outputs) for outputs in classification.answers(REQUESTS, wanted)] == wanted
    assert [list(outputs) for outputs in classification.answers(REQUESTS, [["tokens"]] * 3)] == [["tokens"]] * 3


def test_files_that_do_not_fit(loaded: Loaded, tmp_path: Path) -> None:
    """A tokenizer with ids beyond the network's, or more tokens than it has positions, is refused when loading."""
    tokenizer = Tokenizer.from_file(str(loaded.checkpoint.tokenizer_file))
    tokenizer.add_tokens([f"<extra {number}>" for number in range(50)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: has \d+ token ids, and the network reads \d+"):
        PromptClassification(replace(loaded.checkpoint, tokenizer_file=tmp_path / "tokenizer.json"), "1")
    with pytest.raises(CheckpointError, match="'max_tokens' is 513, and the network reads 512"):
        PromptClassification(replace(loaded.checkpoint, max_tokens=513), "1")
