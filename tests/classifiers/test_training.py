"""scripts/train_classifier: what it reads, what it refuses, and that what it writes is what it trained."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifiers.checkpoint import EMBEDDED, CheckpointError, load_checkpoint
from scripts.training.adapters import LowRank, save_adapters, trainable_network
from scripts.training.calibrate import COVERAGE, fit_temperature, threshold
from scripts.training.data import (
    NO_LABEL,
    OWN_CALIBRATION,
    OWN_LABELS,
    OWN_PROMPTS,
    DataError,
    Labels,
    Row,
    read_labels,
    read_rows,
    text_hash,
    training_rows,
)
from scripts.training.embedded import known_labels, save
from scripts.training.measure import measure
from scripts.training.templates import SOURCE, template_rows, with_openings
from scripts.training.train import main
from tests.classifiers.loaded import Loaded, load

COMMAND = Path(__file__).parents[2] / "scripts" / "train_classifier"

TASKS = {
    "Write a Python function that adds two numbers.": "Code Generation",
    "Hi, how are you?": "Chatbot",
    "What is the capital of Australia?": "Open QA",
}
DEMANDS = {
    "Write a poem about a lighthouse.": "Creativity",
    "A train leaves at 9:15; when does it arrive?": "Reasoning",
    "What is the capital of Australia?": "No-Label-Reason",
}


def row(text: str, source: str = "mine", **labels: str) -> dict[str, str]:
    return {"text": text, "source": source} | labels


def write_rows(folder: Path, name: str, rows: Sequence[Any]) -> None:
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small data folder, laid out as the large one."""
    folder = tmp_path / "data"
    write_rows(folder, "task/train", [row(text, label=label) for text, label in TASKS.items()])
    write_rows(folder, "complexity/train", [row(text, label=label) for text, label in DEMANDS.items()])
    both = row("Hello there", task="Chatbot", complexity="No-Label-Reason")
    write_rows(folder, "labelled/train", [both])
    write_rows(folder, "task/dev", [row("Who are you?", "auto-j:roleplay", label="Chatbot")])
    write_rows(folder, "complexity/dev", [row("Write a song.", label="Creativity")])
    write_rows(folder, "labelled/dev", [row("Good evening", task="Chatbot", complexity="No-Label-Reason")])
    return folder


@pytest.fixture
def labels(embedded: Loaded) -> Labels:
    return known_labels(embedded.checkpoint)


def test_rows_of_both_files_meet(data: Path, labels: Labels) -> None:
    """A text that has a task in one file and a complexity in another is one row with both."""
    rows = {each.text: each for each in training_rows(data, labels)}
    assert len(rows) == 6
    both = rows["What is the capital of Australia?"]
    assert (labels.task[both.task], labels.complexity[both.complexity]) == ("Open QA", "No-Label-Reason")
    assert rows["Hi, how are you?"].complexity == NO_LABEL


def test_a_readers_labels_win(data: Path, labels: Labels) -> None:
    """A text that was labelled by reading keeps those labels alone, whatever a rule said of it."""
    read = row("hi,  how are YOU?", task="Other", complexity="Creativity")
    write_rows(data, "labelled/train", [read])
    found = [each for each in training_rows(data, labels) if each.text.lower().startswith("hi")]
    assert [(labels.task[each.task], each.source) for each in found] == [("Other", "labelled:mine")]


@pytest.mark.parametrize(("name", "label"), [("task", "Open QA"), ("complexity", "Reasoning")])
def test_dev_never_teaches(data: Path, labels: Labels, name: str, label: str) -> None:
    """A text that stands in a dev file is not trained on, however it is spaced."""
    write_rows(data, f"{name}/dev", [row(" what is THE capital of\nAustralia?", label=label)])
    assert "What is the capital of Australia?" not in [each.text for each in training_rows(data, labels)]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("task", {"label": "Chatbot"}),
        ("complexity", {"label": "Creativity"}),
        ("labelled", {"task": "Chatbot", "complexity": "Creativity"}),
    ],
)
def test_evaluation_only_sources_never_teach(data: Path, labels: Labels, name: str, given: dict[str, str]) -> None:
    """A training row of auto-j, whose repository states no licence, ends the training."""
    write_rows(data, f"{name}/train", [row("Hey", "auto-j:chitchat", **given)])
    with pytest.raises(DataError, match="1 training rows are of .*auto-j:chitchat"):
        training_rows(data, labels)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "not JSON"),
        ('{"text": "Hi"', "not JSON"),
        ("\udcff", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"text": "Hi", "label": "Chatbot"}', "'source' should be a text, and is None"),
        ('{"text": " ", "source": "mine", "label": "Chatbot"}', "'text' should be a text"),
        ('{"text": "Hi", "source": "mine", "label": "Unknown"}', "'label' is 'Unknown' and should be one of: Brain"),
        ('{"text": "Hi", "source": "mine", "label": []}', r"'label' is \[\]"),
    ],
)
def test_a_broken_row_is_named(data: Path, labels: Labels, line: str, said: str) -> None:
    """A broken row is named by file and line."""
    path = data / "task/train.jsonl"
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(DataError, match=f"task/train.jsonl, line 4: {said}"):
        read_rows(path, labels)


def test_the_command_names_a_broken_row(data: Path) -> None:
    """The command says in one line which row is broken, and exits with 2."""
    (data / "complexity/dev.jsonl").write_text("{}\n")
    done = subprocess.run(
        [COMMAND, "--data", "data", "--out", "out"], cwd=data.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("train_classifier: data/complexity/dev.jsonl, line 1: 'text' should")
    assert not (data.parent / "out").exists()


def test_train_and_load(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training writes a folder that loads, with its name, and a card with figures, data hashes and licences."""
    out = tmp_path / "out"
    assert main(["--data", str(data), "--out", str(out), "--name", "mine", "--epochs", "1"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "adapters.safetensors", "config.json"]
    trained = load(out)
    assert trained.checkpoint.name == "mine"
    assert trained.network.classify([trained.tokenizer.encode([b"Hi"])[0]])[0].shape == (1, 18)
    card = (out / "README.md").read_text()
    assert "| task/dev, auto-j alone | task | 1 |" in card
    assert "| mine | 1 | reading each | not known to this command |" in card
    assert capsys.readouterr().out.strip() in card


def test_a_recipe_is_tried_without_dev(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --hold-out the figures are those of held-out training rows, and nothing is written."""
    assert main(["--data", str(data), "--hold-out", "0.5", "--epochs", "1"]) == 0
    assert "| held out, others | " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize(
    "arguments", [[], ["--out", "x", "--epochs", "0"], ["--hold-out", "1"], ["--hold-out", "0"], ["--out", "x", "-z"]]
)
def test_wrong_arguments(data: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments end with a usage line, before anything is read."""
    with pytest.raises(SystemExit):
        main(["--data", str(data), *arguments])
    assert "usage: scripts/train_classifier" in capsys.readouterr().err


def test_merged_adapters_equal_trained_ones(embedded: Loaded, tmp_path: Path) -> None:
    """The loaded network, its adapters merged, gives the logits of the network that was trained."""
    torch.manual_seed(1)
    network = trainable_network(embedded.checkpoint).eval()
    for module in network.modules():
        if isinstance(module, LowRank):
            torch.nn.init.normal_(module.up, std=0.05)
    checkpoint = save(network, embedded.checkpoint, "mine", tmp_path)
    ids, _ = embedded.tokenizer.encode([b"What is the capital of Australia?", b"Write a story."])
    (trained,) = network.classify([ids])
    (merged,) = load(checkpoint.folder).network.classify([ids])
    (before,) = embedded.network.classify([ids])
    # float16 rounds the adapters to three digits
    np.testing.assert_allclose(trained, merged, atol=0.01)
    assert np.abs(trained - before).max() > 0.1


def test_only_adapters_and_heads_learn(embedded: Loaded) -> None:
    """Of the trainable network, the adapters of the six layers' linear maps and the heads learn, nothing else."""
    network = trainable_network(embedded.checkpoint)
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {"heads.weight", "heads.bias"} < learning
    rest = learning - {"heads.weight", "heads.bias"}
    assert len(rest) == 6 * 6 * 2
    assert all(name.endswith(("parametrizations.weight.0.down", "parametrizations.weight.0.up")) for name in rest)


def test_a_failed_save_leaves_what_was_there(embedded: Loaded, tmp_path: Path) -> None:
    """A checkpoint that can't be written whole leaves the folder's old files as they were."""
    network = trainable_network(embedded.checkpoint)
    save(network, embedded.checkpoint, "old", tmp_path)
    before = (tmp_path / "adapters.safetensors").read_bytes()
    network.heads = torch.nn.Linear(384, 17)
    with pytest.raises(CheckpointError):
        save(network, embedded.checkpoint, "new", tmp_path)
    assert load_checkpoint(tmp_path).name == "old"
    assert (tmp_path / "adapters.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_saved_names(embedded: Loaded, tmp_path: Path) -> None:
    """The weights file holds what load_checkpoint expects, and takes under three megabytes."""
    save_adapters(trainable_network(embedded.checkpoint), embedded.checkpoint, tmp_path / "adapters.safetensors")
    (tmp_path / "config.json").write_bytes((EMBEDDED / "config.json").read_bytes())
    load_checkpoint(tmp_path)
    assert (tmp_path / "adapters.safetensors").stat().st_size < 3_000_000


def test_labels_by_hash_win(data: Path, labels: Labels, tmp_path: Path) -> None:
    """A text that the file of labels names by its hash has those labels, and counts as read."""
    given = read_labels(OWN_LABELS, labels)
    assert len(given) > 700
    file = tmp_path / "labels.tsv"
    file.write_text(f"{text_hash('Hi, how are you?')}\tOther\tReasoning\n")
    assert read_labels(file, labels) == {text_hash("Hi, how are you?"): (7, 1)}


@pytest.mark.parametrize(
    "line", ["abc", "abc\tOther", "abc\tOther\tNope", "abc\tUnknown\tReasoning", "first\tOther\tReasoning"]
)
def test_broken_labels_are_named(labels: Labels, tmp_path: Path, line: str) -> None:
    """A broken line of the file of labels is named by its number."""
    file = tmp_path / "labels.tsv"
    file.write_text(f"first\tOther\tReasoning\n{line}\n")
    with pytest.raises(DataError, match="labels.tsv, line 2"):
        read_labels(file, labels)


def test_templates_are_the_same_for_the_same_seed(labels: Labels) -> None:
    """The made-up prompts have no gap left, stand once each, name their task, and repeat for a seed."""
    passage = "Some line\nThe ship left the harbour at dawn. It carried coffee, wool and eleven passengers. All slept."
    real = [Row(passage, "mine")] * 500
    rows = template_rows(real, labels, 0)
    assert rows == template_rows(real, labels, 0) != template_rows(real, labels, 1)
    assert len({each.text for each in rows}) == len(rows) > 1000
    assert not any("{" in each.text or "}" in each.text for each in rows)
    assert {labels.task[each.task] for each in rows} >= {"Rewrite", "Summarization", "Chatbot", "Text Generation"}
    assert all(each.complexity == NO_LABEL and each.source == SOURCE for each in rows)
    without = template_rows([Row("no passage", "mine")] * 3, labels, 0)
    assert {labels.task[each.task] for each in without} == {"Text Generation", "Brainstorming", "Chatbot", "Open QA"}
    assert len(without) == 4 * 3


def test_own_prompts(labels: Labels) -> None:
    """The prompts that this project wrote read like any data file, stand once each, and have every label; those for
    calibration are others."""
    rows = read_rows(OWN_PROMPTS, labels)
    assert len({each.text for each in rows}) == len(rows) > 2000
    assert {each.task for each in rows} == set(range(len(labels.task)))
    assert {each.complexity for each in rows} == set(range(len(labels.complexity)))
    assert {each.source for each in rows} == {"labelled:written"}
    apart = read_rows(OWN_CALIBRATION, labels)
    assert len({each.text for each in apart}) == len(apart) > 500
    assert not {each.text for each in rows} & {each.text for each in apart}


def test_openings_change_a_share_of_the_texts_alone(labels: Labels) -> None:
    """As many rows as asked begin with an opening; order, labels and all else stay, and a seed repeats."""
    rows = [Row(f"text {number}", "mine", task=number % 5) for number in range(1000)]
    opened = with_openings(rows, 0.3, 0)
    assert opened == with_openings(rows, 0.3, 0) != with_openings(rows, 0.3, 1)
    assert with_openings(rows, 0.0, 0) == rows
    changed = [(before, after) for before, after in zip(rows, opened, strict=True) if before != after]
    assert 240 < len(changed) < 360
    assert all(after.text.endswith(before.text) and after.task == before.task for before, after in changed)
    assert any(after.text.startswith("Prompt: ") for _, after in changed)


def test_temperature_is_found_again() -> None:
    """Logits that are twice as sure as the truth drawn from them get a temperature of about two."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 5)) * 2
    powers = np.exp(logits)
    truth = np.array([generator.choice(5, p=row) for row in powers / powers.sum(axis=1, keepdims=True)])
    assert fit_temperature(2 * logits, truth) == pytest.approx(2, rel=0.1)


def test_threshold_keeps_the_coverage() -> None:
    """The threshold lets the least certain hundredth go, and tells the share of wrong answers among the others."""
    confidence = np.linspace(0.5, 1, 1000)
    truth = np.where(confidence < 0.6, 1, 0)
    below, risk = threshold(np.stack([confidence, 1 - confidence], axis=1), truth)
    assert (confidence >= below).mean() == pytest.approx(COVERAGE, abs=0.002)
    assert risk == pytest.approx((0.6 - below) / (1 - below), abs=0.01)


def test_figures() -> None:
    """Accuracy, macro F1 over the labels that occur, how often the answer was Unknown, and the calibration error."""
    scores = np.array([[0.9, 0.1, 0], [0.1, 0.9, 0], [0.1, 0.9, 0], [0.5, 0.4, 0]], dtype=np.float32)
    figures = measure(np.array([0, 1, 1, 2]), scores, np.array([0, 1, 0, 0]), ["a", "b", "Unknown"])
    assert (figures.rows, figures.accuracy, figures.unknown) == (4, 0.5, 1)
    # two thirds right at .9, three times; all right at .5, once
    assert figures.calibration_error == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.5)
    assert figures.f1 == pytest.approx({"a": 0.5, "b": 2 / 3})
    assert figures.macro_f1 == pytest.approx((0.5 + 2 / 3) / 2)
