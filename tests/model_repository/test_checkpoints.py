import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.local.process import StartError, free_ports
from scripts.local.published import write_published_checkpoint
from scripts.local.triton import Triton
from tests.model_repository.test_ensembles import _post


@contextmanager
def _triton_with(checkpoint: Path, folder: Path) -> Iterator[Triton]:
    triton = Triton(free_ports(3), folder, environ=os.environ | {"CLASSIFIER_CHECKPOINT": str(checkpoint)})
    try:
        triton.start()
        triton.wait()
        yield triton
    finally:
        triton.stop()


def test_published_checkpoint_is_served(tmp_path: Path) -> None:
    """A folder in the published format, put in place by one variable, answers through the same ensembles."""
    checkpoint = write_published_checkpoint(tmp_path / "checkpoint")
    with _triton_with(checkpoint, tmp_path / "triton") as triton:
        answer = _post(triton, "router_ensemble", ["Prompt: Write a Python script that uses a for loop.", "hi"])
        outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        assert "prompt-task-and-complexity-classifier" in outputs["checkpoint"][0]
        assert sum(outputs["task_scores"][:12]) == pytest.approx(1, abs=1e-3)
        one_hot = _post(triton, "complexity_router_ensemble", ["hi"]).json()["outputs"][0]["data"]
        assert sorted(one_hot) == [0.0] * 6 + [1.0]


@pytest.mark.parametrize(
    ("broken", "complaint"), [("model.safetensors", "model.safetensors"), ("tokenizer.json", "tokenizer.json")]
)
def test_missing_weights_are_named(tmp_path: Path, broken: str, complaint: str) -> None:
    """A checkpoint without one of its files ends the start with a line that names it and the command that helps."""
    checkpoint = write_published_checkpoint(tmp_path / "checkpoint")
    (checkpoint / broken).unlink()
    with pytest.raises(StartError) as error, _triton_with(checkpoint, tmp_path / "triton"):
        pass
    lines = [line for line in str(error.value).splitlines() if complaint in line]
    assert any("scripts/fetch_models" in line for line in lines), error.value
