"""The gate before a reduced precision is served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from classifiers.checkpoint import EMBEDDED, load_checkpoint
from scripts.agreement.check import PROMPTS, main, read_prompts
from scripts.agreement.compare import Agreement, compare
from scripts.local.published import write_published_checkpoint
from tests.own_checkpoint import THREE, write_own
from tests.traced import write_traced


@pytest.fixture(scope="module")
def short_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many as are needed, and quickly read."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    file.write_text("".join(json.dumps({"text": f"What is {number}?"}) + "\n" for number in range(PROMPTS)))
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.rare
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_is_served_has_passed(capsys: pytest.CaptureFixture[str], precision: str) -> None:
    """The embedded network may be served in both reduced precisions: a thousand prompts keep their decisions."""
    code, said = run(capsys, "--precision", precision)
    assert (code, said["faults"], said["prompts"]) == (0, [], PROMPTS)
    assert said["largest_logit_move"] != 0  # it is another computation


def test_random_weights_by_their_logits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, short_prompts: Path
) -> None:
    """Of random weights the logits alone are compared, within the tolerance given."""
    folder = write_published_checkpoint(tmp_path)
    arguments = ("--checkpoint", str(folder), "--prompts", str(short_prompts), "--precision", "bfloat16", "--logits")
    assert run(capsys, *arguments, "0.2")[0] == 0
    code, said = run(capsys, *arguments, "0.000001")
    assert code == 1 and "a logit moves by" in str(said["faults"])


@pytest.mark.parametrize(("change", "fault"), [(1.0, "labels change"), (float("nan"), "not finite")])
def test_an_export_that_differs_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, short_prompts: Path, change: float, fault: str
) -> None:
    """Weights that are not the same network's, or that are broken, do not pass for it."""
    (tmp_path / "config.json").write_bytes((EMBEDDED / "config.json").read_bytes())
    tensors = load_file(EMBEDDED / "adapters.safetensors")
    tensors["heads.task.bias"][3] += np.float32(change) * 100
    save_file(tensors, tmp_path / "adapters.safetensors")
    code, said = run(capsys, "--export", str(tmp_path), "--prompts", str(short_prompts))
    assert code == 1 and fault in str(said["faults"])


def test_limits() -> None:
    """Half a percent of the labels and 0.02 of a probability still pass; more does not, and each fault is named."""
    at_the_limit = Agreement(1000, {"task": 0.005, "complexity": 0.005}, 0.02, 1.0, True)
    assert at_the_limit.faults() == []
    assert len(replace(at_the_limit, labels_changed={"task": 0.006}, largest_probability_move=0.021).faults()) == 2
    assert "complexity labels" in replace(at_the_limit, labels_changed={"complexity": 0.006}).faults()[0]


def test_comparison_by_hand() -> None:
    """Labels and probabilities are those of the decisions: one of two tasks flips, and by how much is told."""
    checkpoint = load_checkpoint(EMBEDDED)
    exact = np.zeros((2, checkpoint.logits_size), dtype=np.float32)
    exact[:, 0] = 3.0
    other = exact.copy()
    other[1, 1] = 6.0
    agreement = compare(exact, other, checkpoint)
    assert agreement.labels_changed == {"task": 0.5, "complexity": 0.0}
    assert agreement.largest_logit_move == 6.0 and 0.5 < agreement.largest_probability_move < 1


def test_heads_of_ones_own(tmp_path: Path) -> None:
    """Of a checkpoint of your own the labels of each head are compared."""
    checkpoint = load_checkpoint(write_own(tmp_path, THREE | {"urgent": ("no", "yes")}))
    exact = np.zeros((4, 5), dtype=np.float32)
    exact[:, [0, 3]] = 3.0
    other = exact.copy()
    other[1, 4] = 6.0
    agreement = compare(exact, other, checkpoint)
    assert agreement.labels_changed == {"intent": 0.0, "urgent": 0.25}
    assert "25.00% of the urgent labels change" in agreement.faults()[0]


def test_traced_networks_have_one_precision(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, short_prompts: Path
) -> None:
    """A TorchScript network is refused, with the reason; there is a table for a checkpoint of your own."""
    traced = write_traced(tmp_path / "traced", length=32)
    arguments = ["--precision", "bfloat16", "--prompts", str(short_prompts), "--checkpoint"]
    assert main([*arguments, str(traced)]) == 2
    assert "in the precision that it was traced in alone" in capsys.readouterr().err
    assert main([*arguments, str(write_own(tmp_path / "own"))]) in (0, 1)
    assert "intent labels changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nonsense", ":2: expected"),
        (b'{"text": 5}', ":2: 'text'"),
        (b'{"text": " "}', ":2: 'text'"),
        (b"[]", ":2: expected"),
    ],
)
def test_bad_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, said: str) -> None:
    """A wrong line is named, and too few prompts are said to be too few."""
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b'{"text": "Hi"}\n' + line + b"\n")
    assert main(["--precision", "bfloat16", "--prompts", str(file)]) == 2
    assert said in capsys.readouterr().err
    file.write_bytes(b'{"text": "Hi"}\n')
    assert main(["--precision", "bfloat16", "--prompts", str(file)]) == 2
    assert "1 different prompts; 1000 are needed" in capsys.readouterr().err


def test_prompts_are_different_and_enough() -> None:
    """The prompts that come with the project are a thousand different ones."""
    files = [Path(__file__).parents[2] / "scripts" / "training" / "prompts.jsonl"]
    assert len(set(read_prompts(files))) == PROMPTS


@pytest.mark.parametrize("arguments", [[], ["--logits", "0"], ["--logits", "nan"], ["--precision", "int3"]])
def test_bad_arguments(arguments: list[str]) -> None:
    """Nothing to compare, or a tolerance or precision that is none: usage, and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
