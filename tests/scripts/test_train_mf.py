"""scripts/train_mf on a small data file: what it writes, what it refuses, and that it keeps no prompt."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from classifiers.routellm.mf import Head, load_mf
from classifiers.sentence import LocalEncoder, SentenceEncoder
from scripts.training.data import DataError
from scripts.training.routellm.data import GSM8K, MMLU, Row, misgraded_subjects, read_rows
from scripts.training.routellm.fit import (
    LAYERS,
    Recipe,
    Score,
    calibrate,
    choose,
    cross_validate,
    fit,
    logistic_line,
    scores,
)
from scripts.training.routellm.train import embed, local_encoder, main

COMMAND = Path(__file__).parents[2] / "scripts" / "train_mf"

NUMBERS = ("two", "three", "five", "seven", "eleven", "thirteen")
TOPICS = ("algebra", "anatomy", "astronomy", "ethics", "geography", "history", "law", "marketing", "music", "zoology")


def rows(count: int, first: int = 0) -> list[Row]:
    """Of each topic and of GSM8K, `count`: every other one is about calculating, and mostly the strong model alone is
    right; the others are about names, and mostly both are."""
    found = []
    for subject in (*TOPICS, GSM8K):
        for number in range(first, first + count):
            words = f"{NUMBERS[number % 6]} and {NUMBERS[number // 6 % 6]} in {subject}"
            hard = number % 2 == 0
            text = f"Calculate the product of {words}, step by step." if hard else f"Who is known for {words}?"
            source = GSM8K if subject == GSM8K else MMLU
            found.append(Row(text, int(number % 10 != 1), int(not hard or number % 8 == 0), source, subject, False))
    return found


def write(folder: Path, name: str, given: Sequence[Row]) -> None:
    path = folder / "routellm" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [vars(row) | {"contaminated": int(row.contaminated), "label": 0} for row in given]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    broken = [Row(f"What is {number}?", 0, 1, MMLU, "broken", False) for number in range(60)]
    write(folder, "train", [*rows(24), *broken])
    write(folder, "dev", [row for row in rows(16, 24) if row.subject in ("algebra", "anatomy", GSM8K)])
    return folder


@pytest.fixture(scope="module")
def written(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "mf"
    assert main(["--data", str(data), "--out", str(out), "--name", "tiny"]) == 0
    return out


def test_what_it_writes(written: Path) -> None:
    """The folder loads as a router that has learnt what the rows say, under the name it was given."""
    assert sorted(path.name for path in written.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    router = load_mf(written)
    assert router.name.startswith("tiny:")
    prompts = [b"Calculate the sum of two and six, step by step.", b"Who is known for the telescope?"]
    hard, easy = router.score(prompts).strong_win_rate
    assert hard > 2 * easy


def test_the_card(written: Path) -> None:
    """The card has the figures beside those of other routers, the rows left out, and the data's hashes; no prompt."""
    card = (written / "README.md").read_text()
    for name in ("tiny", "random", "prompt length", "TF-IDF", "always strong", "SW ranking"):
        assert f"| {name}" in card
    assert "60 rows were left out, all of broken (0% right)" in card
    assert "`routellm/dev.jsonl`" in card
    for path in written.iterdir():
        assert b"step by step" not in path.read_bytes()


def test_half_of_the_training_prompts(data: Path, written: Path) -> None:
    """The threshold in the config sends half of the training prompts to the strong model."""
    train = [row for row in read_rows(data / "routellm/train.jsonl") if row.subject != "broken"]
    threshold = json.loads((written / "config.json").read_text())["threshold_for_half_of_training_prompts"]
    win_rates = load_mf(written).score([row.text.encode() for row in train]).strong_win_rate
    assert (win_rates >= threshold).mean() == pytest.approx(0.5, abs=0.02)


def test_same_data_same_files(data: Path, written: Path, tmp_path: Path) -> None:
    """The command gives the same bytes again, over an older folder too."""
    (tmp_path / "config.json").write_text("{}")
    assert main(["--data", str(data), "--out", str(tmp_path), "--name", "tiny"]) == 0
    for path in written.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_embedded_as_served(data: Path) -> None:
    """What is learnt from are the embeddings that the served encoder gives after that many layers."""
    local, _ = local_encoder()
    some = rows(3)
    found = embed(local, some, LAYERS)
    for layers in LAYERS:
        served = SentenceEncoder(LocalEncoder(local.encoder, local.max_tokens, layers))
        expected, _ = served.embed([row.text.encode() for row in some])
        assert np.abs(found[layers] - expected).max() < 1e-6


def test_fit_finds_the_gain() -> None:
    """The regression finds a gain that is linear in the embeddings, and the more the penalty the less it says."""
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(500, 6)) + 3
    gain = embeddings @ np.array([1.0, -2, 0, 0, 0.5, 0]) - 0.7
    assert np.allclose(scores(fit(embeddings, gain, 1e-9), embeddings), gain, atol=1e-4)
    strict = scores(fit(embeddings, gain, 1e9), embeddings)
    assert np.allclose(strict, gain.mean(), atol=1e-4)


def test_cross_validation_tells_signal_from_noise() -> None:
    """On held-out subjects, embeddings that tell the gain have an APGR well above 0.5, and others have 0.5."""
    generator = np.random.default_rng(1)
    many = [
        Row("x", int(strong), int(weak), MMLU if subject else GSM8K, f"subject {subject}", False)
        for subject in range(21)
        for strong, weak in zip(generator.random(60) < 0.8, generator.random(60) < 0.6, strict=True)
    ]
    gain = np.array([row.strong - row.weak for row in many], dtype=np.float64)
    told = np.stack([gain + generator.normal(size=len(gain)), generator.normal(size=len(gain))], axis=1)
    found = cross_validate({6: told, 5: told[:, 1:]}, many, [Recipe(6, 1.0), Recipe(5, 1.0)], 0)
    signal, noise = found[Recipe(6, 1.0)], found[Recipe(5, 1.0)]
    assert signal.mmlu > 0.9 and signal.gsm8k > 0.9
    assert noise.mmlu == pytest.approx(0.5, abs=0.1)
    assert choose(found) == Recipe(6, 1.0)


def test_choose_the_fewest_layers_of_the_good_ones() -> None:
    """Within one standard error of the best the fewest layers win, and among those the better score."""
    found = {
        Recipe(6, 1.0): Score(0.60, 0.010, 0.5, 0.01),
        Recipe(5, 1.0): Score(0.595, 0.010, 0.5, 0.01),
        Recipe(5, 3.0): Score(0.592, 0.010, 0.9, 0.01),
        Recipe(4, 1.0): Score(0.58, 0.010, 0.9, 0.01),
    }
    assert choose(found) == Recipe(5, 1.0)


def test_logistic_line() -> None:
    """The line that made the outcomes is found again."""
    generator = np.random.default_rng(2)
    said = generator.normal(size=20_000)
    true = generator.random(20_000) < 1 / (1 + np.exp(-(2.5 * said - 1)))
    assert logistic_line(said, true) == pytest.approx((2.5, -1), abs=0.1)


def test_calibrate_keeps_the_order() -> None:
    """Calibration scales and shifts, so that win rates are as often right as they say, and prompts keep their order."""
    many = rows(24)
    generator = np.random.default_rng(3)
    wins = np.array([row.strong > row.weak for row in many], dtype=np.float64)
    embeddings = np.stack([wins + generator.normal(size=len(wins)), generator.normal(size=len(wins))], axis=1)
    gain = np.array([row.strong - row.weak for row in many], dtype=np.float64)
    head = fit(embeddings, gain, 1.0)
    found = calibrate(head, embeddings, many, 1.0, 0)
    before, after = scores(head, embeddings), scores(found, embeddings)
    assert np.array_equal(np.argsort(before), np.argsort(after))
    assert (1 / (1 + np.exp(-after))).mean() == pytest.approx(wins.mean(), abs=0.03)


def test_calibrate_refuses_what_does_not_hold() -> None:
    """Scores that say nothing, or the opposite, of held-out subjects are no router."""
    many = [
        Row("x", int(number % 2), 0, MMLU if subject else GSM8K, f"subject {subject}", False)
        for subject in range(5)
        for number in range(20)
    ]
    sign = np.array([1.0 if row.subject in ("subject 1", "subject 2") else -1 for row in many])
    embeddings = (sign * np.array([row.strong for row in many]))[:, np.newaxis]
    with pytest.raises(ValueError, match="what is learnt from some subjects should hold for others"):
        calibrate(Head(np.ones(1, dtype=np.float32)), embeddings, many, 1.0, 0)


def test_misgraded_subjects() -> None:
    """A subject in which a model is right far less often than by guessing is named; a hard or a small one is not."""
    given = [Row("x", int(number % 4 == 0), 0, MMLU, "small", False) for number in range(8)]
    given += [Row("x", int(number % 2), int(number % 5 == 0), MMLU, "hard", False) for number in range(100)]
    given += [Row("x", int(number % 25 == 0), int(number % 3 == 0), MMLU, "broken", False) for number in range(100)]
    given += [Row("x", 0, 0, GSM8K, GSM8K, False) for _ in range(100)]
    assert misgraded_subjects(given) == {"broken": pytest.approx(0.04)}


GOOD = {"text": "x", "strong": 1, "weak": 0, "source": MMLU, "subject": "law", "contaminated": 0}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: expected a JSON object"),
        (json.dumps(GOOD | {"text": " "}), "line 2: 'text' should be a text"),
        (json.dumps(GOOD | {"subject": None}), "line 2: 'subject' should be a text, and is None"),
        (json.dumps(GOOD | {"strong": 2}), "line 2: 'strong' should be 0 or 1, and is 2"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "weak"}), "line 2: 'weak' should be 0 or 1"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, line: str, said: str) -> None:
    """A broken row is named by file and line."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(DataError, match=f"^{path}, {said}"):
        read_rows(path)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (None, "routellm/train.jsonl: can't be read"),
        ([], "routellm/train.jsonl: has no rows"),
        ([row for row in rows(2) if row.source == MMLU], "routellm/train.jsonl: has no rows of source 'gsm8k'"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path: Path, train: list[Row] | None, said: str) -> None:
    """The command says in one line what is wrong with its data, exits with 2, and writes nothing."""
    if train is not None:
        write(tmp_path, "train", train)
        write(tmp_path, "dev", rows(2))
    done = subprocess.run(
        [COMMAND, "--data", ".", "--out", "out"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"train_mf: {said}")
    assert not (tmp_path / "out").exists()


def test_weights_are_small(written: Path) -> None:
    """The files are the vector and its bias: nothing of the training rows could be read from them."""
    tensors: dict[str, Any] = load_file(written / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"direction": (384,), "bias": (1,)}
