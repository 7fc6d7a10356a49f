"""scripts/evaluate --model: any model with labels, from any file, and the snapshot of what was served."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.decision import Decision
from gateway.traffic import LENGTH, load_snapshot
from scripts.evaluating.ask import TritonError, ask, reach
from scripts.evaluating.decisions import Question, answers_of, decide_all, labels_of
from scripts.evaluating.evaluate import main
from scripts.evaluating.evaluation import served_labels
from scripts.evaluating.texts import read_texts
from scripts.local.triton import Triton
from scripts.training.data import DataError

TASKS = served_labels()["task"]
ROWS = [
    ("Write a Python function that counts the words in a file.", "Code Generation"),
    ("Give me ten ideas for a birthday party, please.", "Brainstorming"),
    ("Summarise in one sentence: we went out at dawn, and came home late, wet and happy.", "Summarization"),
    ('Say this more politely: "Take it away,\nnow."', "Rewrite"),
    ("Hi", "Chatbot"),
    ("Quelle est la capitale de l'Australie, et depuis quand?", "Open QA"),
]


def write_json(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    return path


def run(triton: Triton, *arguments: str | Path, code: int = 0) -> None:
    assert main(["--triton", triton.grpc_url, *map(str, arguments)]) == code


def test_rows_are_read_alike(tmp_path: Path) -> None:
    """CSV and JSON lines give the same rows; a source is the field, else the file's name, and empty lines are none."""
    objects = [{"text": text, "label": label} for text, label in ROWS]
    lines = write_json(tmp_path / "mine.jsonl", [*objects, {"text": "a", "source": "other:1", "label": "b"}])
    lines.write_text(lines.read_text() + "\n")
    cells = write_csv(
        tmp_path / "mine.csv",
        [("label", "source", "text"), *((label, "", text) for text, label in ROWS), ("b", "other:1", "a")],
    )
    first, second = (read_texts([path], labelled=True) for path in (lines, cells))
    assert [(row.text, row.label, row.source) for row in first] == [(row.text, row.label, row.source) for row in second]
    assert [row.source for row in first] == ["mine"] * len(ROWS) + ["other:1"]
    assert str(first[1].place) == f"{lines}, line 2"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            b'{"text": ""}\n{\n[]',
            ["1: 'text'", "1: 'label' is missing", "2: not JSON", "3: expected a JSON"],
        ),
        ("a.jsonl", b'{"text": "a", "label": 7}', ["line 1: 'label' should be a text, and is 7"]),
        ("a.jsonl", b'{"text": "a", "label": 0}', ["line 1: 'label' should be a text, and is 0"]),
        ("a.jsonl", b'{"text": "a", "label": null}', ["line 1: 'label' is missing"]),
        ("a.jsonl", b'{"text": "a", "label": "b", "source": 7}', ["line 1: 'source' should be a text"]),
        ("a.jsonl", b"", ["a.jsonl: holds no rows"]),
        (
            "a.jsonl",
            b'{"text": "a", "label": "b"}\n\xff',
            ["a.jsonl, line 2: not UTF-8 (byte 1 of the line)", "line 2: not JSON"],
        ),
        ("a.csv", b"a,b\n", ["a.csv, line 1: the header does not name the column 'text'"]),
        (
            "a.csv",
            b"text,label\na,\n,b\na,b,c\na\n",
            ["2: 'label' is missing", "3: 'text'", "4: has 3 columns", "5: has 1 columns"],
        ),
        ("a.csv", b'text,label\n"a,b\n', ["not CSV"]),
    ],
)
def test_every_fault_has_its_line(tmp_path: Path, name: str, content: bytes, said: list[str]) -> None:
    """Broken data is a line for each fault, with the number of the line where it stands."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_texts([path], labelled=True)
    lines = str(raised.value).splitlines()
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True)), lines


def test_many_faults_are_counted(tmp_path: Path) -> None:
    """A file that is all wrong does not fill the screen."""
    with pytest.raises(DataError) as raised:
        read_texts([write_json(tmp_path / "a.jsonl", [{}] * 70)], labelled=False)
    assert str(raised.value).splitlines()[50:] == ["and 20 more faults"]


def test_what_the_gateway_would_be_told(triton: Triton) -> None:
    """A model's answers are those of the network behind it, and a text that occurs twice is asked once."""
    texts = [text for text, _ in ROWS]
    questions = [Question(triton.grpc_url, "task_router_ensemble", text) for text in [*texts, texts[0]]]
    found = decide_all(questions)
    assert len(found) == len(texts)
    answers = answers_of("task", [found[question] for question in questions[:-1]])
    with reach(triton.grpc_url) as client:
        expected = ask(client, texts, {"task": TASKS})
    np.testing.assert_allclose(answers.heads["task"].scores, expected.heads["task"].scores, atol=2e-3)
    assert answers.heads["task"].index.tolist() == expected.heads["task"].index.tolist()
    assert answers.checkpoint == expected.checkpoint


def test_a_model_of_ones_own(triton: Triton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that this project does not know is measured by the labels that it answers with, in their order; its
    figures are those of the network behind it."""
    cells = write_csv(tmp_path / "mine.csv", [("text", "label"), *ROWS])
    run(triton, "--data", cells, "--model", "renamed_ensemble", "--out", tmp_path / "out", "--json")
    report = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    run(triton, "--data", cells, "--model", "task_router_ensemble", "--json")
    ours = json.loads(capsys.readouterr().out)
    found, expected = report["heads"]["renamed_ensemble"], ours["heads"]["task"]
    for name in ("labels", "confusion"):
        assert found[name] == expected[name]
    assert report["checkpoint"] == "renamed_ensemble"  # which does not say more
    assert ours["checkpoint"].split(":")[1] == "1"
    assert list(found["sources"]) == ["mine"]
    # One-hot answers are all as sure: there is one threshold, and it gives everything.
    wrong = 1 - found["all"]["accuracy"]
    assert found["risk"]["curve"] == [{"min_confidence": 0, "coverage": 1, "risk": pytest.approx(wrong)}]
    assert found["risk"]["aurc"] == pytest.approx(wrong)
    kinds = ("confusion", "reliability", "risk-coverage")
    names = sorted([*(f"{kind}-renamed_ensemble.png" for kind in kinds), "report.json"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_a_threshold_for_a_risk(triton: Triton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--risk picks a min_confidence and says what it gives on both halves; without enough rows it fails, after the
    report."""
    rows = write_json(tmp_path / "a.jsonl", [{"text": text, "label": label} for text, label in ROWS * 5])
    run(triton, "--data", rows, "--model", "task_router_ensemble", "--risk", "0.4")
    out = capsys.readouterr().out
    assert "| task | 1%           |   too few rows |        - |" in out
    assert "task: min_confidence: " in out and "picked on     15 rows" in out and "held out      15 rows" in out
    run(triton, "--data", rows, "--model", "task_router_ensemble", "--risk", "0.05", "--json", code=2)
    captured = capsys.readouterr()
    picked = json.loads(captured.out)["heads"]["task"]["risk"]["picked"]
    assert captured.err == f"evaluate: task: {picked['why']}\n"
    assert picked["why"].startswith("a risk of 0.05 needs at least 100 rows, and there are 15")


def test_a_snapshot_of_what_was_served(triton: Triton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A snapshot holds the shares of what was served; texts without a label are enough for it, and have no figures. Too
    few texts for drift to be told are warned of."""
    rows = write_json(tmp_path / "a.jsonl", [{"text": text} for text, _ in ROWS])
    file = tmp_path / "snapshot.json"
    run(triton, "--data", rows, "--model", "task_router_ensemble", "--snapshot", file, "--json")
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    snapshot = load_snapshot(file)
    assert f"evaluate: warning: {file}: too few rows to tell drift by label: 6 rows, " in captured.err
    assert report["heads"] == {}
    assert (snapshot.rows, snapshot.checkpoint) == (6, report["checkpoint"])
    questions = [Question(triton.grpc_url, "task_router_ensemble", text) for text, _ in ROWS]
    decisions = list(decide_all(questions).values())
    for label, share in snapshot.label.items():
        assert share == pytest.approx(sum(each.label == label for each in decisions) / 6)
    assert sum(snapshot.confidence.values()) == pytest.approx(1)
    assert snapshot.length[LENGTH[0]] == pytest.approx(
        sum((each.tokens_in_prompt or 0) <= 16 for each in decisions) / 6
    )
    assert snapshot.language["fr"] == pytest.approx(1 / 6)


def test_a_routers_snapshot(triton: Triton, tmp_path: Path) -> None:
    """Of a RouteLLM router the labels are strong and weak, by the policy's threshold; there is no confidence."""
    rows = write_json(tmp_path / "a.jsonl", [{"text": text} for text, _ in ROWS])
    file = tmp_path / "snapshot.json"
    run(triton, "--data", rows, "--model", "routellm_mf", "--snapshot", file, "--threshold", "0")
    snapshot = load_snapshot(file)
    assert (snapshot.label, snapshot.confidence) == ({"strong": 1}, {})


def test_labels_that_a_model_lacks(triton: Triton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A label that is none of the model's is a line for each row with it, and nothing is written."""
    rows = write_json(tmp_path / "a.jsonl", [{"text": "Hi", "label": "Poem"}, {"text": "Ho", "label": "Chatbot"}] * 2)
    run(triton, "--data", rows, "--model", "renamed_ensemble", "--out", tmp_path / "out", code=2)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(
        f"evaluate: {rows}, line 1: 'label' is 'Poem', which is no label of renamed_ensemble (Brain"
    )
    assert ", line 3: " in second and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--snapshot", "a"], "--snapshot needs --model"),
        (["--model", "routellm_mf"], "--model routellm_mf answers with a win rate: measure it with --router"),
        (["--model", "routellm_mf", "--snapshot", "a"], "--snapshot of routellm_mf needs --threshold"),
        (["--model", "a", "--threshold", "0.5"], "--threshold is for the snapshot of a RouteLLM model"),
        (["--risk", "1"], "--risk: expected a share above 0 and below 1, as 0.05, and got '1'"),
        (["--threshold", "x"], "--threshold: expected a win rate from 0 to 1, and got 'x'"),
    ],
)
def test_arguments_that_do_not_fit(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that don't go together end with the usage and one line, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["--data", "a.jsonl", "--triton", "localhost:8001", *arguments])
    assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_what_can_not_be_asked(triton: Triton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is not served, one without OUTPUT and a Triton that is not there are one line each, with exit
    code 1; a snapshot that can't be written is said before anything is asked."""
    rows = write_json(tmp_path / "a.jsonl", [{"text": "Hi", "label": "Chatbot"}])
    run(triton, "--data", rows, "--model", "nope", code=1)
    run(triton, "--data", rows, "--model", "router_ensemble", code=1)
    run(triton, "--data", rows, "--model", "nope", "--snapshot", tmp_path / "gone" / "a.json", code=2)
    assert main(["--triton", "127.0.0.1:1", "--data", str(rows), "--model", "nope"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"evaluate: the Triton at {triton.grpc_url} does not serve nope"
    assert lines[1].startswith(f"evaluate: router_ensemble at {triton.grpc_url} gave no decision (")
    assert lines[2].endswith("its folder is not there")
    assert lines[3].startswith("evaluate: no Triton answers at 127.0.0.1:1 (")


def test_labels_without_names() -> None:
    """A model without a label file answers with numbers; one whose labels change meanwhile is refused."""
    unnamed = Decision("1", ("", ""), (0.25, 0.75))
    assert labels_of(unnamed) == ("0", "1")
    assert answers_of("own", [unnamed]).heads["own"].index.tolist() == [1]
    with pytest.raises(TritonError, match="labels of the own model changed"):
        answers_of("own", [unnamed, Decision("a", ("a", "b"), (0.75, 0.25))])
