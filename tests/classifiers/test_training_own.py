"""scripts/train_classifier on files of your own: what it refuses, what it learns, and what it writes."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModel, DistilBertConfig, PreTrainedConfig, RobertaConfig

from classifiers.checkpoint import EMBEDDED, CheckpointError, load_checkpoint
from classifiers.network import load_network
from classifiers.tokenizer import PromptTokenizer
from gateway.traffic import load_snapshot
from scripts.evaluating.ask import HeadAnswers
from scripts.evaluating.draw import draw_confusion, most_confused
from scripts.evaluating.report import report_head
from scripts.training.calibrate import softmax
from scripts.training.own.data import Column, Example, read_examples
from scripts.training.own.encoder import load_encoder
from scripts.training.own.learn import (
    LearningError,
    class_weights,
    learn,
    mean_f1,
    read_lesson,
    start_heads,
    untrained_network,
)
from scripts.training.own.recipe import CLASS_WEIGHTS, RECIPES, Method, Recipe
from scripts.training.own.splits import held_share, hold_out, read_splits
from scripts.training.own.state import Progress, StateFile
from scripts.training.own.write import WriteError, replacing
from scripts.training.records import Faults, Place
from scripts.training.train import main, read_arguments, read_order
from tests.own_checkpoint import tiny_bert, write_own

_SAID = {
    "card lost": ("I lost my card", "my card is gone", "someone stole the card", "where is my card"),
    "exchange rate": ("what is the rate", "euros to dollars", "the exchange rate today", "how many yen is that"),
    "top up": ("add money", "top up my account", "refill the balance", "put in cash"),
}
_MANNERS = {"no": "when you have time", "yes": "hurry, now, please"}


def said() -> list[dict[str, str]]:
    """60 rows of two heads, some without the second."""
    rows = []
    for number in range(60):
        label = list(_SAID)[number % 3]
        urgent = list(_MANNERS)[number // 3 % 2]
        text = f"{_SAID[label][number % 4]} {_MANNERS[urgent]} {number}"
        rows.append({"text": text, "label": label} | ({"urgent": urgent} if number % 5 else {}))
    return rows


def write_jsonl(file: Path, rows: Sequence[object]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_encoder(folder: Path, config: PreTrainedConfig) -> Path:
    """A folder as `save_pretrained` leaves it, of random weights, with the embedded encoder's tokenizer."""
    torch.manual_seed(0)
    module = AutoModel.from_config(config)
    module.save_pretrained(folder)
    encoder = load_checkpoint(EMBEDDED).encoder
    assert encoder is not None
    shutil.copy(encoder.tokenizer_file, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small take several threads longer than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny-bert", tiny_bert())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "said.jsonl", said())


def tiny_roberta() -> PreTrainedConfig:
    """Of 66 positions, the first two of which stand for no token."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return RobertaConfig(vocab_size=30522, max_position_embeddings=66, **sizes)


Train = Callable[..., Path]


@pytest.fixture
def train(data: Path, bert: Path, tmp_path: Path) -> Train:
    """Trains on the 60 rows, two epochs long, and returns the folder."""

    def run(*arguments: str, out: str = "out", code: int = 0) -> Path:
        folder = tmp_path / out
        common = ["--data", str(data), "--out", str(folder), "--name", "toy", "--encoder", str(bert), "--epochs", "2"]
        assert main([*common, *arguments]) == code
        return folder

    return run


def faults_of(file: Path, *columns: str) -> list[str]:
    faults = Faults()
    read_examples([file], [Column(name, name) for name in columns or ("label",)], faults)
    return [line.removeprefix(str(file)).removeprefix(", ") for line in faults.lines]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"", ["should be called *.csv or *.jsonl"]),
        ("a.csv", b"", ["line 1: the header does not name the column 'text'", "'label'"]),
        ("a.csv", b"text,label\n", ["holds no rows"]),
        (
            "a.csv",
            b"text,label,label\nHi,a,b\n",
            ["line 1: the header names the column several times 'label'"],
        ),
        ("a.csv", b"text;label\nHi;a\n", ["line 1: the header does not name the column 'text'", "'label'"]),
        (
            "a.csv",
            b"text,label\nHi\n\nHo,a,b\n",
            ["line 2: has 1 columns, and the header 2", "line 4: has 3"],
        ),
        ("a.csv", b'text,label\n"Hi\nthere",\n ,a\n', ["line 2: has no 'label'", "line 4: 'text' is empty"]),
        ("a.csv", b'text,label\n"Hi" there,a\nHo,b\n', ["line 2: not CSV"]),
        ("a.csv", b'text,label\nHi,a\n"Ho,b\n', ["line 3: not CSV (unexpected end of data)"]),
        ("a.csv", "text,label\nHé,a\nHo,ü\n".encode("latin-1"), ["line 2: not UTF-8 (byte 2 of the line)", "line 3"]),
        ("a.csv", "text,label\nHi,a\n".encode("utf-16"), ["is UTF-16, and should be UTF-8"]),
        ("a.csv", b"text,label\nHi,a\tb\n", ["line 2: 'label' is 'a\\tb', which is no label: a text of one line"]),
        ("a.jsonl", b'{"text": "Hi"\n[]\n\n', ["line 1: not JSON", "line 2: expected a JSON object"]),
        ("a.jsonl", b'{"label": "a"}\n', ["line 1: 'text' is missing"]),
        (
            "a.jsonl",
            b'{"text": ["Hi"], "label": 3}\n',
            ["'text' should be a text, and is ['Hi']", "'label' should be a"],
        ),
        ("a.jsonl", b'{"text": "Hi", "label": null}\n', ["line 1: has no 'label'"]),
        ("a.jsonl", b'{"text": "\\ud800", "label": "a"}\n', ["line 1: 'text' holds half of a surrogate pair"]),
        ("a.jsonl", b'{"text": "Hi \xff", "label": "a"}\n', ["line 1: not UTF-8 (byte 14 of the line)"]),
        ("a.jsonl", b"[" * 100_000, ["line 1: not JSON"]),
        (
            "a.jsonl",
            json.dumps({"text": "x" * 100_001, "label": "y" * 201}).encode(),
            ["100,001 characters", "201 char"],
        ),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, expected: Sequence[str]) -> None:
    """Each fault of a file is told with its line."""
    file = tmp_path / name
    file.write_bytes(content)
    found = faults_of(file)
    assert len(found) == len(expected), found
    for line, part in zip(found, expected, strict=True):
        assert part in line


def test_missing_file(tmp_path: Path) -> None:
    """A file that isn't there is a fault like any other."""
    assert faults_of(tmp_path / "a.csv") == [": can't be read (No such file or directory)"]


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    """A CSV file with a byte order mark, quoted line breaks and more columns gives the examples of the JSONL file."""
    rows = [
        {"text": " Hi,\nthere ", "label": "a", "urgent": "", "source": "x"},
        {"text": 'said "Ho"', "label": " b ", "urgent": "yes", "source": ""},
    ]
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (tmp_path / "a.csv").write_text(written.getvalue(), encoding="utf-8-sig", newline="")
    write_jsonl(tmp_path / "a.jsonl", rows)
    columns, faults = [Column("label", "intent"), Column("urgent", "urgent")], Faults()
    both = [read_examples([tmp_path / name], columns, faults) for name in ("a.csv", "a.jsonl")]
    assert not faults.lines
    for first, second in zip(*both, strict=True):
        assert (first.text, first.labels) == (second.text, second.labels)
    assert both[0][0] == Example("Hi,\nthere", {"intent": "a"}, Place(tmp_path / "a.csv", 2))
    assert both[0][1] == Example('said "Ho"', {"intent": "b", "urgent": "yes"}, Place(tmp_path / "a.csv", 4))


def test_every_fault_at_once(train: Train, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Faults of all files and between them come together, each in a line with both places, and nothing is written."""
    rows = said()
    again = rows[3]["text"].upper()
    write_jsonl(data, [*rows, {"text": again, "label": "card lost"}, {"text": "x", "label": "alone"}])
    dev = write_jsonl(tmp_path / "dev.jsonl", [{"text": f" {rows[0]['text']}", "label": "nobody"}, {"text": ""}])
    other = rows[3] | {"label": "top up"}
    test = write_jsonl(
        tmp_path / "test.jsonl", [other, {"text": "y", "label": "top up"}, {"text": "Y", "label": "card lost"}]
    )
    out = train("--dev", str(dev), "--test", str(test), "--heads", "label", "urgent=now", code=2)
    lines = [line.removeprefix("train_classifier: ") for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        f"{dev}, line 2: 'text' is empty",
        f"{dev}, line 2: has no 'label' and no 'urgent'",
        f"{data}, line 62: the only text with 'label' 'alone': one can't be learnt from and tried on too",
        f"{dev}, line 1: no training row has 'label' 'nobody'",
        "--dev: no row has a label for 'now'",
        f"{test}, line 3: the text of {test}, line 2 again, with 'label' 'card lost'; there it is 'top up'",
        f"{dev}, line 1: the text of {data}, line 1 again: a row of dev should be none of train",
        f"{test}, line 1: the text of {data}, line 4 again: a row of test should be none of train",
    ]
    assert not out.exists()


def test_many_faults_are_counted(train: Train, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of very many faults the first fifty are told, and how many there are besides."""
    write_jsonl(data, [{"text": "", "label": "a"}] * 70 + [{"text": "Hi", "label": "a"}])
    train(code=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 51
    assert lines[-1] == "train_classifier: and 21 more faults"  # the last of them: there is one label


def test_one_label(train: Train, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A head with one label, or none, can't be trained."""
    write_jsonl(data, [{"text": text, "label": "a"} for text in ("x", "y")])
    train("--heads", "label", "urgent", code=2)
    err = capsys.readouterr().err
    assert "'label' has the one label 'a', and needs two" in err
    assert "'urgent' has no label, and needs two" in err


_EXAMPLES = st.lists(st.dictionaries(st.sampled_from("ij"), st.sampled_from("abc"), min_size=1), max_size=60)


@given(_EXAMPLES, st.integers(0, 5))
def test_held_out_rows(labels: list[dict[str, str]], seed: int) -> None:
    """The share of each label's rows is held out, none loses its last row, and every row is on one side."""
    rows = [Example(str(number), each, Place(Path("x"), number)) for number, each in enumerate(labels)]
    stay, held = hold_out(rows, seed)
    assert sorted(stay + held, key=lambda row: row.place.line) == rows
    assert (stay, held) == hold_out(rows, seed)
    for pair in {pair for each in labels for pair in each.items()}:
        here, there = (sum(pair in row.labels.items() for row in side) for side in (stay, held))
        assert here >= 1
        if all(len(each) == 1 for each in labels):
            assert there == (0 if here + there == 1 else max(1, round((here + there) * held_share(len(rows)))))


@pytest.mark.parametrize(("rows", "held"), [(0, 0), (60, 15), (240, 60), (1200, 60), (9177, 459)])
def test_held_share(rows: int, held: int) -> None:
    """A twentieth of many rows is held out, of fewer sixty, of few a quarter."""
    assert round(rows * held_share(rows)) == held


def test_held_out_rows_without_a_head(train: Train, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When no row that can be held out has a label for a head, that is said, and what helps."""
    urgent = {"a": "no", "b": "no", "c": "yes", "d": "yes"}
    rows = [{"text": f"{label} {number}", "label": label} for label in urgent for number in range(2)]
    write_jsonl(data, [row | ({"urgent": urgent[row["label"]]} if row["text"].endswith("0") else {}) for row in rows])
    out = train("--heads", "label", "urgent", "--seed", "23", code=2)
    assert (
        "the data: no row that is held out has a label for 'urgent': give --dev, or more rows"
        in capsys.readouterr().err
    )
    assert not out.exists()


def test_class_weights() -> None:
    """Balanced weights make every label count as much, and all rows as much as before; rows without a label nothing."""
    truth = np.array([[0, 0], [0, -100], [0, 1], [1, 1]])
    labels = {"a": ("x", "y"), "b": ("x", "y")}
    recipe = replace(RECIPES["frozen"], class_weights="balanced")
    first, second = class_weights(truth, labels, recipe)
    assert first is not None and second is not None
    assert first.tolist() == pytest.approx([4 / 6, 2])
    assert second.tolist() == pytest.approx([1.5, 0.75])
    assert class_weights(truth, labels, RECIPES["frozen"]) == [None, None]


def learnt_heads(bert: Path, folder: Path, recipe: Recipe, rows: Sequence[dict[str, str]]) -> torch.Tensor:
    """The heads' weights after training in memory; nothing is measured."""
    splits = read_splits([write_jsonl(folder / "rows.jsonl", rows)], [], [], [Column("label", "label")], 0)
    encoder = load_encoder(bert, None)
    train, dev = (read_lesson(encoder, each, splits.labels) for each in (splits.train, splits.dev))
    network = untrained_network(encoder, splits.labels, recipe)
    learn(network, train, dev, splits.labels, recipe, StateFile(folder / str(recipe), "key"))
    return torch.cat([network.heads.weight.detach().flatten(), network.heads.bias.detach()])


def test_class_weights_change_what_is_learnt(bert: Path, tmp_path: Path) -> None:
    """With balanced weights the rarest label gains."""
    rows = [row for number, row in enumerate(said()) if row["label"] != "top up" or number % 4 == 0]
    none = replace(RECIPES["frozen"], epochs=1)
    before, after = (
        learnt_heads(bert, tmp_path, replace(none, class_weights=which), rows)[-3:].tolist() for which in CLASS_WEIGHTS
    )
    gains = [high - low for low, high in zip(before, after, strict=True)]
    assert gains[2] == max(gains) > 0


def test_seeds(bert: Path, tmp_path: Path) -> None:
    """The same seed gives the same weights, another one others."""
    recipe = replace(RECIPES["low-rank"], epochs=1)
    first = learnt_heads(bert, tmp_path, recipe, said())
    shutil.rmtree(tmp_path / str(recipe))
    assert torch.equal(first, learnt_heads(bert, tmp_path, recipe, said()))
    assert not torch.equal(first, learnt_heads(bert, tmp_path, replace(recipe, seed=1), said()))


def test_mean_f1() -> None:
    """Macro F1 of each head over the rows that have its label, averaged."""
    logits = np.array([[2, 1, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]], dtype=np.float32)
    truth = np.array([[0, 1], [1, -100], [0, 1]])
    # a: one of two right, and one wrong answer of the other: 2/3 and 2/3; b: all right
    assert mean_f1(logits, truth, {"a": ("x", "y"), "b": ("x", "y")}) == pytest.approx((2 / 3 + 1) / 2)


def test_best_epoch() -> None:
    """The best epoch has the highest F1, and of those as high the lowest cross entropy; of equal ones the first."""
    progress = Progress([1.0] * 4, [0.5, 0.7, 0.7, 0.7], [1.0, 0.9, 0.8, 0.8])
    assert progress.best_epoch == 3
    assert Progress().best_epoch == 0


_FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


@pytest.mark.parametrize("method", ["frozen", "low-rank", "full"])
def test_methods(train: Train, bert: Path, method: Method) -> None:
    """Each method writes a whole folder of two heads that loads, its card's figures are those of the folder, and only
    what should learn has learnt."""
    folder = train("--method", method, "--heads", "label=intent", "urgent")
    drawn = {
        f"{kind}-{head}.{end}"
        for head in ("intent", "urgent")
        for kind, end in (("confusion", "png"), ("reliability", "png"), ("snapshot", "json"))
    }
    assert {path.name for path in folder.iterdir()} == _FILES | drawn
    checkpoint = load_checkpoint(folder)
    assert [(head.name, head.labels) for head in checkpoint.heads] == [
        ("intent", tuple(sorted(_SAID))),
        ("urgent", ("no", "yes")),
    ]
    rows = [row for row in said() if row["text"] in _held_out_texts()]
    ids, tokens = PromptTokenizer(checkpoint).encode([row["text"].encode() for row in rows])
    (logits,) = load_network(checkpoint).classify([ids])
    card = (folder / "README.md").read_text(encoding="utf-8")
    answers = [checkpoint.heads[0].labels[each] for each in logits[:, :3].argmax(axis=1)]
    right = np.mean([row["label"] == answer for row, answer in zip(rows, answers, strict=True)])
    assert re.search(rf"^\| intent +\| +{len(rows)} \| +{right:.3f} \|", card, re.MULTILINE)
    snapshot = load_snapshot(folder / "snapshot-intent.json")
    assert snapshot.rows == len(rows)
    assert snapshot.label == pytest.approx({label: answers.count(label) / len(rows) for label in answers})
    assert snapshot.length["1-16"] == np.mean(tokens[:, 1] <= 16)
    assert softmax(logits[:, :3].astype(np.float64)).max() > 0
    before, after = load_file(bert / "model.safetensors"), load_file(folder / "model.safetensors")
    same = {name for name in after if name in before and torch.equal(before[name], after[name])}
    learning = {name for name in after if not name.startswith("heads.")} - same
    assert (not learning) == (method == "frozen")
    assert not [name for name in learning if name.startswith("embeddings.")]
    if method == "low-rank":
        assert all(name.endswith("weight") and "LayerNorm" not in name for name in learning)


def _held_out_texts() -> set[str]:
    heads = {"label": "intent", "urgent": "urgent"}
    rows = [
        Example(row["text"], {heads[key]: value for key, value in row.items() if key in heads}, Place(Path(), number))
        for number, row in enumerate(said())
    ]
    return {row.text for row in hold_out(rows, 0)[1]}


def test_it_learns(train: Train) -> None:
    """Given the epochs, the heads tell the labels apart, and the temperature is left alone where dev is small."""
    folder = train("--method", "frozen", "--epochs", "40", "--learning-rate", "0.1")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^\| label +\| +15 \| +1.000 \|", card, re.MULTILINE)
    assert "not fitted: 15 dev rows are too few" in card
    assert load_checkpoint(folder).heads[0].temperature == 1


def test_test_rows_measure(train: Train, tmp_path: Path) -> None:
    """With test rows the figures are theirs alone, and the card says that nothing was chosen on them."""
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "my card is lost", "label": "card lost"}])
    card = (train("--method", "frozen", "--test", str(test)) / "README.md").read_text(encoding="utf-8")
    assert "on the 1 test rows: nothing was chosen on them" in card
    assert re.search(r"^\| label +\| +1 \|", card, re.MULTILINE)


def test_a_loss_that_is_no_number(bert: Path, tmp_path: Path) -> None:
    """A training that runs away ends in a line that says what to change."""
    with pytest.raises(LearningError, match="try a lower --learning-rate"):
        learnt_heads(bert, tmp_path, replace(RECIPES["frozen"], learning_rate=float("inf")), said())


def test_heads_start_from_the_labels_means() -> None:
    """At the start each text lies on the side of its label's mean, seen from the middle of all."""
    vectors = torch.tensor([[5.0, 4.0], [5.0, 6.0], [9.0, 4.0], [9.0, 6.0]])
    heads = torch.nn.Linear(2, 4)
    truth = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    start_heads(heads, vectors, truth, {"a": ("x", "y"), "b": ("x", "y")})
    assert heads(vectors).tolist() == [[2, -2, 1, -1], [2, -2, -1, 1], [-2, 2, 1, -1], [-2, 2, -1, 1]]


def test_goes_on(train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted training goes on from its last epoch, and ends with the weights of one that was not interrupted;
    with another option it starts anew, and says so."""
    whole = train("--method", "full", "--epochs", "3", out="whole")
    save = StateFile.save

    def save_and_interrupt(self: StateFile, *progress: Progress) -> None:
        save(self, *progress)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StateFile, "save", save_and_interrupt)
        broken = train("--method", "full", "--epochs", "3", code=130)
        assert "the same command goes on" in capsys.readouterr().err
        assert [path.name for path in broken.iterdir()] == [".training"]
        train("--method", "full", "--epochs", "3", "--seed", "1", code=130)
        assert "starts anew: it was begun with other data, options or versions" in capsys.readouterr().out
        train("--method", "full", "--epochs", "3", code=130)
    capsys.readouterr()
    resumed = train("--method", "full", "--epochs", "3")
    assert "going on after epoch 1" in capsys.readouterr().out
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (resumed / ".training").exists()


@pytest.mark.rare
def test_broken_state(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state that can't be read is told, and the training starts anew."""
    (tmp_path / "out" / ".training").mkdir(parents=True)
    (tmp_path / "out" / ".training" / "state.pt").write_bytes(b"no state")
    train("--method", "frozen")
    assert "starts anew: its state can't be read" in capsys.readouterr().out


@pytest.mark.rare
@pytest.mark.parametrize(
    "config",
    [
        DistilBertConfig(vocab_size=30522, dim=32, n_layers=2, n_heads=2, hidden_dim=64),
        tiny_roberta(),
    ],
    ids=["distilbert", "roberta"],
)
def test_other_encoders(train: Train, data: Path, tmp_path: Path, config: PreTrainedConfig) -> None:
    """Encoders of other kinds are trained, adapters included, and load; RoBERTa's first positions are no tokens."""
    encoder = write_encoder(tmp_path / "encoder", config)
    write_jsonl(data, [row | {"text": row["text"] + " again" * (number % 2 * 90)} for number, row in enumerate(said())])
    folder = train("--encoder", str(encoder), "--method", "low-rank", "--epochs", "1")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.max_tokens == (64 if isinstance(config, RobertaConfig) else 256)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert ("\n- It reads 64 tokens" in card) == (" 0.0% of the training texts were longer" not in card)
    load_network(checkpoint)


def test_too_many_tokens(bert: Path, tmp_path: Path) -> None:
    """More tokens than the encoder has positions for are refused before anything is trained."""
    assert load_encoder(bert, 128).max_tokens == load_encoder(bert, None).max_tokens == 128
    with pytest.raises(CheckpointError, match="reads 128 tokens, and --max-tokens is 129"):
        load_encoder(bert, 129)
    with pytest.raises(CheckpointError, match="reads 64 tokens, and --max-tokens is 65"):
        load_encoder(write_encoder(tmp_path / "roberta", tiny_roberta()), 65)


@pytest.mark.rare
def test_pickled_weights(bert: Path, tmp_path: Path) -> None:
    """An encoder whose weights lie in pytorch_model.bin is read as well."""
    folder = shutil.copytree(bert, tmp_path / "encoder")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    expected = load_encoder(bert, None).module.state_dict()
    found = load_encoder(folder, None).module.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _without_special_tokens(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    Tokenizer.from_str(json.dumps(tokenizer | {"post_processor": None})).save(str(folder / "tokenizer.json"))


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _of_another_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nobody-knows"}')


def _without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _of_fewer_words(folder: Path) -> None:
    config = tiny_bert()
    config.vocab_size = 1000
    write_encoder(folder, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_tokenizer, "tokenizer.json is missing"),
        (_without_special_tokens, "should put one token before a text and one behind it"),
        (_without_config, "config.json is missing"),
        (_of_another_kind, "transformers makes no encoder of it"),
        (_without_a_tensor, r"lack 1 tensors of the encoder, such as encoder\.layer\.1\.output\.dense\.bias"),
        (_of_fewer_words, "has 30522 token ids, and the encoder reads 1000"),
    ],
)
def test_encoders_that_do_not_do(bert: Path, tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    """An encoder that could not be trained or served is refused in one line."""
    folder = shutil.copytree(bert, tmp_path / "encoder")
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(folder, None)
    assert "\n" not in str(caught.value)


def test_what_is_replaced(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of one's own is replaced; a folder with anything else in it is refused, and stays as it is."""
    folder = write_own(tmp_path / "out", name="old")
    train("--method", "frozen")
    assert load_checkpoint(folder).name == "toy"
    (folder / "notes.txt").write_text("mine")
    train("--method", "frozen", code=2)
    assert "holds notes.txt, which is no part of a checkpoint" in capsys.readouterr().err
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    train(out="other", code=2)
    assert "holds something else than a checkpoint of your own" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "said.jsonl"]


def test_picture_of_very_many_labels(tmp_path: Path) -> None:
    """The labels that are confused most are drawn, in a picture that needs no more memory however many there are."""
    truth = np.arange(1000).repeat(2)
    answers = truth.copy()
    answers[1800::2] = 7  # of the last hundred labels half the rows; 7 is one with the most
    names = [f"label {number}" for number in range(1000)]
    scores = np.full((2000, 1000), 0.0)
    scores[np.arange(2000), answers] = 1.0
    report = report_head(HeadAnswers(answers, scores), truth, np.full(2000, "all"), names)
    assert most_confused(np.array(report.confusion), 100) == [7, *range(900, 999)]
    draw_confusion(report, "very many", tmp_path / "picture.png")
    width, height = struct.unpack(">II", (tmp_path / "picture.png").read_bytes()[16:24])
    assert max(width, height) < 4000


def test_what_came_meanwhile(tmp_path: Path) -> None:
    """What somebody put into the folder while a training ran stays, and nothing is written over it."""
    folder = write_own(tmp_path / "out", name="old")
    with pytest.raises(WriteError, match="holds notes.txt"), replacing(folder) as new:
        (new / "config.json").write_text("{}")
        (folder / "notes.txt").write_text("mine")
    assert load_checkpoint(folder).name == "old" and (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x"], "what to call it with --name"),
        (["--name", "x"], "say where to write with --out"),
        (["--out", "x", "--name", "a:b"], "expected letters, digits"),
        (["--out", "x", "--name", "x", "--heads", "a", "b=a"], "name each head once"),
        (["--out", "x", "--name", "x", "--heads", "text"], "not the column 'text'"),
        (["--out", "x", "--name", "x", "--heads", "Intent"], "HEAD of a-z, 0-9 and _"),
        (["--out", "x", "--name", "x", "--hold-out", "0.1"], "--hold-out is for the folder"),
        (["--out", "x", "--name", "x", "--learning-rate", "0"], "a number above 0"),
        (["--out", "x", "--name", "x", "--device", "tpu"], "expected cpu or cuda:N"),
        (["--out", "x", "--name", "x", "--patience", "0"], "a whole number from 1 on"),
        (["--out", "x", "--name", "x", "--seed", "-1"], "a whole number from 0 on"),
        (["--out", "x", "--name", "x", "--max-tokens", "2"], "a whole number from 3 on"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments end with a line that says what was expected."""
    with pytest.raises(SystemExit):
        read_arguments(["--data", "x.csv", *arguments])
    assert message in capsys.readouterr().err


def test_no_option_of_files_for_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What files alone may be given is refused with a folder."""
    with pytest.raises(SystemExit):
        read_arguments(["--data", str(tmp_path), "--out", "x", "--method", "full"])
    assert "--method is for files" in capsys.readouterr().err


def test_recipes() -> None:
    """Each method has a recipe of its own, of which arguments change what they name."""
    base = ["--data", "x.csv", "--out", "x", "--name", "x"]
    assert read_order(read_arguments(base)).recipe == RECIPES["full"]
    changed = read_order(read_arguments([*base, "--method", "frozen", "--batch", "7", "--class-weights", "balanced"]))
    assert changed.recipe == replace(RECIPES["frozen"], rows_per_step=7, class_weights="balanced")
    assert read_order(read_arguments([*base, "--heads", "a=b=c"])).columns == [Column("a=b", "c")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """A GPU that isn't there is said to be none."""
    train("--device", "cuda:0", code=2)
    assert "this machine has 0 GPUs that torch can use" in capsys.readouterr().err
